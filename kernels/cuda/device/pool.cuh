// Pooling windows over two spatial dimensions.
#pragma once

#include "math.cuh"
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

// x by strides p.in (N,H,W,C). One thread computes V channels (V > 1: p.in[3] is 1) of one result.
template <class Kind, bool channels_last, int V, class X, class Params, class E>
__device__ __forceinline__ void pool(const X* x, const Params& p, const E& elements) {
  using I = decltype(p.items);
  using A = Compute<X>;
  const bool aligned = p.vector_reads && is_aligned<V>(x);
  wait_for_previous();
  const I item = static_cast<I>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (item >= p.items) return;
  I rest = item, i1, i2, i3;
  divide(rest, p.size[3], rest, i3);
  divide(rest, p.size[2], rest, i2);
  divide(rest, p.size[1], rest, i1);
  const I i0 = rest;
  i3 *= V;
  const I c = channels_last ? i3 : i1, h = channels_last ? i1 : i2, w = channels_last ? i2 : i3;
  const Extent rows = extent_of<Kind>(h, p.height, p.out_height, p.kernel_h, p.stride_h, p.pad_h, p.dilation_h);
  const Extent columns = extent_of<Kind>(w, p.width, p.out_width, p.kernel_w, p.stride_w, p.pad_w, p.dilation_w);
  A result[V];
#pragma unroll
  for (int k = 0; k < V; ++k) result[k] = Kind::is_max ? -A(INFINITY) : A(0);
  const X* base = x + i0 * p.in[0] + c * p.in[3];
  for (int r = rows.begin; r < rows.end; r += p.dilation_h) {
    const X* row = base + r * p.in[1];
    for (int s = columns.begin; s < columns.end; s += p.dilation_w) {
      A v[V];
      read<V>(row + s * p.in[2], aligned, v);
#pragma unroll
      for (int k = 0; k < V; ++k) result[k] = Kind::is_max ? max(result[k], v[k]) : result[k] + v[k];
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
