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

// Of neighbours, the one numbered `at` and, for linear interpolation, which needs it, the one behind it.
template <bool linear, int count>
__device__ __forceinline__ void pick(const float (&values)[count], int at, float& first, float& second) {
  constexpr int choices = linear ? count - 1 : count;
  first = values[0];
  second = values[linear ? 1 : 0];
#pragma unroll
  for (int i = 1; i < choices; ++i) {
    first = at == i ? values[i] : first;
    second = at == i ? values[linear ? i + 1 : i] : second;
  }
}

// x by strides p.in (N,H,W,C). One thread computes V neighbours of the last loop: channels (V > 1: p.in[3] is 1), or
// columns; where that loop runs over channels and V is 1, `across` columns of one. Columns lie between `window`
// neighbouring ones of x; 0: these are more, and each column reads its own. With a window, and columns in the last
// loop, a thread may compute `down` neighbouring rows, which lie between `row_window` rows of x.
template <class Source, bool channels_last, int V, int across, int window, int down, int row_window, class X,
          class Params, class E>
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
  static_assert(down == 1 || (!channels_last && window > 0), "rows share what they read of single channels");
  constexpr bool wide = channels_last && across == 1;
  i3 *= V;
  i2 *= channels_last ? across : down;
  const I c = channels_last ? i3 : i1;
  const int h = static_cast<int>(channels_last ? i1 : i2), w = static_cast<int>(channels_last ? i2 : i3);
  const Neighbours rows = neighbours_of<Source>(h, p.height, p.scale_h);
  const X* base = x + i0 * p.in[0] + c * p.in[3];
  const X* top = base + rows.first * p.in[1];
  const X* bottom = base + rows.second * p.in[1];
  wait_for_previous();
  if (item >= p.items) return;
  float result[down][wide ? V : across];
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
        result[0][k] = between(between(a[k], c[k], rows.share), between(b[k], d[k], rows.share), columns.share);
    } else {
      read<V>(top + columns.first * p.in[2], aligned, result[0]);
    }
  } else if constexpr (window > 0) {
    // The columns and rows that all results lie between, on their way together.
    const int begin = neighbours_of<Source>(w, p.width, p.scale_w).first;
    float source[window][row_window];
#pragma unroll
    for (int j = 0; j < row_window; ++j) {
      const X* row = base + ::min(rows.first + j, p.height - 1) * p.in[1];
#pragma unroll
      for (int i = 0; i < window; ++i) source[i][j] = widen(row[::min(begin + i, p.width - 1) * p.in[2]]);
    }
#pragma unroll
    for (int t = 0; t < down; ++t) {
      const Neighbours of_row = neighbours_of<Source>(h + t, p.height, p.scale_h);
      float column[window];
#pragma unroll
      for (int i = 0; i < window; ++i) {
        float below;
        pick<Source::linear>(source[i], of_row.first - rows.first, column[i], below);
        if constexpr (Source::linear) column[i] = between(column[i], below, of_row.share);
      }
#pragma unroll
      for (int k = 0; k < across; ++k) {
        const Neighbours columns = neighbours_of<Source>(w + k, p.width, p.scale_w);
        float second;
        pick<Source::linear>(column, columns.first - begin, result[t][k], second);
        if constexpr (Source::linear) result[t][k] = between(result[t][k], second, columns.share);
      }
    }
  } else {
#pragma unroll
    for (int k = 0; k < across; ++k) {
      const Neighbours columns = neighbours_of<Source>(w + k, p.width, p.scale_w);
      const I first = columns.first * p.in[2], second = columns.second * p.in[2];
      result[0][k] = widen(top[first]);
      if constexpr (Source::linear) {
        result[0][k] = between(between(result[0][k], widen(bottom[first]), rows.share),
                               between(widen(top[second]), widen(bottom[second]), rows.share), columns.share);
      }
    }
  }
  if constexpr (channels_last && across > 1) {
#pragma unroll
    for (int k = 0; k < across; ++k) {
      float one[1] = {result[0][k]};
      elements.template run<1>(one, i0, i1, i2 + k, i3);
    }
  } else {
#pragma unroll
    for (int t = 0; t < down; ++t) {
      if (t > 0 && h + t >= p.out_height) return;
      elements.template run<V>(result[t], i0, i1, i2 + t, i3);
    }
  }
}

}  // namespace tw
