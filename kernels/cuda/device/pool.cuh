// Pooling windows over two spatial dimensions.
#pragma once

#include "math.cuh"
#include "staged.cuh"
#include "types.cuh"

namespace tw {

struct MaxWindow {
  static constexpr bool is_max = true, adaptive = false;
};
struct MeanWindow {
  static constexpr bool is_max = false, adaptive = false;
};
struct AdaptiveMaxWindow {
  static constexpr bool is_max = true, adaptive = true;
};
struct AdaptiveMeanWindow {
  static constexpr bool is_max = false, adaptive = true;
};

// Where a window lies along one dimension: [begin, end) in steps, clipped; `full` counts padding too.
struct Extent {
  int begin, end, full;
};
template <class Kind, class I>
__device__ __forceinline__ Extent extent_of(I out, int size, int out_size, int kernel, int stride, int pad,
                                            int dilation) {
  Extent e;
  if constexpr (Kind::adaptive) {
    e.begin = static_cast<int>(static_cast<long long>(out) * size / out_size);
    e.end = static_cast<int>((static_cast<long long>(out + 1) * size + out_size - 1) / out_size);
    e.full = e.end - e.begin;
  } else {
    int begin = static_cast<int>(out) * stride - pad;
    int end = ::min(begin + (kernel - 1) * dilation + 1, size + pad);
    e.full = end - begin;
    while (begin < 0) begin += dilation;
    e.begin = begin;
    e.end = ::min(end, size);
  }
  return e;
}

template <class Kind, int V, class A>
__device__ __forceinline__ void add_to(A (&result)[V], const A (&v)[V]) {
#pragma unroll
  for (int k = 0; k < V; ++k) result[k] = Kind::is_max ? max(result[k], v[k]) : result[k] + v[k];
}

// A window whose sizes are known, so that its reads are all under way together. `x`: the first result's batch and
// channel.
template <class Kind, int V, int window_h, int window_w, class X, class I, class Params>
__device__ __forceinline__ void add_window(Compute<X> (&result)[V], const X* x, I h, I w, bool aligned,
                                           const Params& p) {
  using A = Compute<X>;
  A v[window_h * window_w][V];
#pragma unroll
  for (int r = 0; r < window_h; ++r) {
    const int y = static_cast<int>(h) * p.stride_h - p.pad_h + r * p.dilation_h;
#pragma unroll
    for (int s = 0; s < window_w; ++s) {
      const int z = static_cast<int>(w) * p.stride_w - p.pad_w + s * p.dilation_w;
      A(&one)[V] = v[r * window_w + s];
      if (0 <= y && y < p.height && 0 <= z && z < p.width) {
        read<V>(x + static_cast<I>(y) * p.in[1] + static_cast<I>(z) * p.in[2], aligned, one);
      } else {
#pragma unroll
        for (int k = 0; k < V; ++k) one[k] = Kind::is_max ? -A(INFINITY) : A(0);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < window_h * window_w; ++i) add_to<Kind, V>(result, v[i]);
}

// x by strides p.in (N,H,W,C). One thread computes V channels (V > 1: p.in[3] is 1) of one result. window_h, window_w:
// sizes of the window, 0 where they are only known from p.
template <class Kind, bool channels_last, int V, int window_h, int window_w, class X, class Params, class E>
__device__ __forceinline__ void pool(const X* x, const Params& p, const E& elements) {
  using I = decltype(p.items);
  using A = Compute<X>;
  const bool aligned = p.vector_reads && is_aligned<V>(x);
  const I item = static_cast<I>(blockIdx.x) * blockDim.x + threadIdx.x;
  I rest = item, i1, i2, i3;
  divide(rest, p.size[3], rest, i3);
  divide(rest, p.size[2], rest, i2);
  divide(rest, p.size[1], rest, i1);
  const I i0 = rest;
  i3 *= V;
  const I c = channels_last ? i3 : i1;
  I h = channels_last ? i1 : i2, w = channels_last ? i2 : i3;
  const Extent rows = extent_of<Kind>(h, p.height, p.out_height, p.kernel_h, p.stride_h, p.pad_h, p.dilation_h);
  const Extent columns = extent_of<Kind>(w, p.width, p.out_width, p.kernel_w, p.stride_w, p.pad_w, p.dilation_w);
  A result[V];
#pragma unroll
  for (int k = 0; k < V; ++k) result[k] = Kind::is_max ? -A(INFINITY) : A(0);
  const X* base = x + i0 * p.in[0] + c * p.in[3];
  have_ready(base);
  have_ready(h);
  have_ready(w);
  wait_for_previous();
  if (item >= p.items) return;
  if constexpr (window_h > 0) {
    if (aligned) {
      add_window<Kind, V, window_h, window_w>(result, base, h, w, true, p);
    } else {
      add_window<Kind, V, window_h, window_w>(result, base, h, w, false, p);
    }
  } else {
    for (int r = rows.begin; r < rows.end; r += p.dilation_h) {
      const X* row = base + r * p.in[1];
      for (int s = columns.begin; s < columns.end; s += p.dilation_w) {
        A v[V];
        read<V>(row + s * p.in[2], aligned, v);
        add_to<Kind, V>(result, v);
      }
    }
  }
  if constexpr (!Kind::is_max) {
    const int inside = (rows.end - rows.begin) * (columns.end - columns.begin);
    const int divisor = p.divisor ? p.divisor : p.count_padding ? rows.full * columns.full : inside;
#pragma unroll
    for (int k = 0; k < V; ++k) result[k] /= static_cast<A>(divisor);
  }
  elements.template run<V>(result, i0, i1, i2, i3);
}

}  // namespace tw
