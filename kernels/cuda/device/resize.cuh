// Interpolation over two spatial dimensions, with the source coordinates of ATen's upsample functions.
#pragma once

#include "math.cuh"
#include "staged.cuh"
#include "types.cuh"

namespace tw {

struct NearestSource {
  static constexpr bool linear = false;
  __device__ __forceinline__ static float place(float out, float scale) { return out * scale; }
};
struct NearestExactSource {
  static constexpr bool linear = false;
  __device__ __forceinline__ static float place(float out, float scale) { return (out + 0.5f) * scale; }
};
struct LinearSource {
  static constexpr bool linear = true;
  __device__ __forceinline__ static float place(float out, float scale) {
    return fmaxf(scale * (out + 0.5f) - 0.5f, 0.f);
  }
};
struct LinearCornersSource {
  static constexpr bool linear = true;
  __device__ __forceinline__ static float place(float out, float scale) { return scale * out; }
};

// The two elements along one dimension that a result lies between, and the share of the second.
struct Neighbours {
  int first, second;
  float share;
};
template <class Source>
__device__ __forceinline__ Neighbours neighbours_of(int out, int size, float scale) {
  const float place = Source::place(static_cast<float>(out), scale);
  const int first = ::min(static_cast<int>(place), size - 1);
  if constexpr (!Source::linear) return {first, first, 0.f};
  return {first, ::min(first + 1, size - 1), place - static_cast<float>(first)};
}

__device__ __forceinline__ float between(float first, float second, float share) {
  return (1.f - share) * first + share * second;
}

// x by strides p.in (N,H,W,C). One thread computes V neighbours of the last loop: channels (V > 1: p.in[3] is 1), or
// columns; where that loop runs over channels and V is 1, `across` columns of one. Columns lie between `window`
// neighbouring ones of x; 0: these are more, and each column reads its own.
template <class Source, bool channels_last, int V, int across, int window, class X, class Params, class E>
__device__ __forceinline__ void resize(const X* x, const Params& p, const E& elements) {
  using I = decltype(p.items);
  const bool aligned = p.vector_reads && is_aligned<V>(x);
  const I item = static_cast<I>(blockIdx.x) * blockDim.x + threadIdx.x;
  I rest = item, i1, i2, i3;
  divide(rest, p.size[3], rest, i3);
  divide(rest, p.size[2], rest, i2);
  divide(rest, p.size[1], rest, i1);
  const I i0 = rest;
  static_assert(channels_last ? V == 1 || across == 1 : across == V, "neighbours in one dimension");
  constexpr bool wide = channels_last && across == 1;
  i3 *= V;
  if constexpr (channels_last) i2 *= across;
  const I c = channels_last ? i3 : i1;
  const int h = static_cast<int>(channels_last ? i1 : i2), w = static_cast<int>(channels_last ? i2 : i3);
  const Neighbours rows = neighbours_of<Source>(h, p.height, p.scale_h);
  const X* base = x + i0 * p.in[0] + c * p.in[3];
  const X* top = base + rows.first * p.in[1];
  const X* bottom = base + rows.second * p.in[1];
  wait_for_previous();
  if (item >= p.items) return;
  float result[wide ? V : across];
  if constexpr (wide) {
    const Neighbours columns = neighbours_of<Source>(w, p.width, p.scale_w);
    if constexpr (Source::linear) {
      float a[V], b[V], c[V], d[V];
      read<V>(top + columns.first * p.in[2], aligned, a);
      read<V>(top + columns.second * p.in[2], aligned, b);
      read<V>(bottom + columns.first * p.in[2], aligned, c);
      read<V>(bottom + columns.second * p.in[2], aligned, d);
#pragma unroll
      for (int k = 0; k < V; ++k)
        result[k] = between(between(a[k], c[k], rows.share), between(b[k], d[k], rows.share), columns.share);
    } else {
      read<V>(top + columns.first * p.in[2], aligned, result);
    }
  } else if constexpr (window > 0) {
    // The columns that all of them lie between, on their way together.
    const int begin = neighbours_of<Source>(w, p.width, p.scale_w).first;
    float column[window];
#pragma unroll
    for (int i = 0; i < window; ++i) {
      const I at = ::min(begin + i, p.width - 1) * p.in[2];
      column[i] = widen(top[at]);
      if constexpr (Source::linear) column[i] = between(column[i], widen(bottom[at]), rows.share);
    }
#pragma unroll
    for (int k = 0; k < across; ++k) {
      const Neighbours columns = neighbours_of<Source>(w + k, p.width, p.scale_w);
      float first = column[0], second = column[window - 1];
#pragma unroll
      for (int i = 0; i < window; ++i) {
        if (columns.first - begin != i) continue;
        first = column[i];
        second = column[::min(i + 1, window - 1)];
      }
      result[k] = Source::linear ? between(first, second, columns.share) : first;
    }
  } else {
#pragma unroll
    for (int k = 0; k < across; ++k) {
      const Neighbours columns = neighbours_of<Source>(w + k, p.width, p.scale_w);
      const I first = columns.first * p.in[2], second = columns.second * p.in[2];
      result[k] = widen(top[first]);
      if constexpr (Source::linear) {
        result[k] = between(between(result[k], widen(bottom[first]), rows.share),
                            between(widen(top[second]), widen(bottom[second]), rows.share), columns.share);
      }
    }
  }
  if constexpr (channels_last && across > 1) {
#pragma unroll
    for (int k = 0; k < across; ++k) {
      float one[1] = {result[k]};
      elements.template run<1>(one, i0, i1, i2 + k, i3);
    }
  } else {
    elements.template run<V>(result, i0, i1, i2, i3);
  }
}

}  // namespace tw
