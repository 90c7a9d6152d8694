// Convolutions without tensor cores: depthwise, and any grouping one result at a time.
#pragma once

#include "staged.cuh"
#include "types.cuh"

namespace tw {

// What the compiler must know of a depthwise convolution.
template <int rows_, int columns_, int stride_h_, int stride_w_, int dilation_h_, int dilation_w_>
struct Window {
  static constexpr int rows = rows_, columns = columns_;
  static constexpr int stride_h = stride_h_, stride_w = stride_w_;
  static constexpr int dilation_h = dilation_h_, dilation_w = dilation_w_;
};

// The filters of V channels. Small windows are read at once, before the input is there; of large ones a row is read
// when it is needed, since registers would not do.
template <class Win, int V, class X>
struct Filters {
  static constexpr int most_registers = 112;
  static constexpr bool at_once = Win::rows * Win::columns * V * static_cast<int>(sizeof(X)) / 4 <= most_registers;
  static constexpr int kept_rows = at_once ? Win::rows : 1;
  const X* weights;
  long long channels;
  Staged<V, X> rows[kept_rows][Win::columns];

  __device__ __forceinline__ void read_row(int r, int slot) {
#pragma unroll
    for (int s = 0; s < Win::columns; ++s) rows[slot][s].fetch(weights + (r * Win::columns + s) * channels, true);
  }
  __device__ __forceinline__ Filters(const X* at, long long count) : weights(at), channels(count) {
    if constexpr (at_once) {
#pragma unroll
      for (int r = 0; r < Win::rows; ++r) read_row(r, r);
    }
  }
  __device__ __forceinline__ const Staged<V, X>* row(int r) {
    if constexpr (at_once) return rows[r];
    read_row(r, 0);
    return rows[0];
  }
};

// One row of the input for the results that read it with row r of the filters.
template <class Win, int tile_w, int V, int span, class X>
__device__ __forceinline__ void take_row(const Staged<V, X> (&input)[span], const Staged<V, X>* filter,
                                         Compute<X> (&sum)[tile_w][V]) {
#pragma unroll
  for (int s = 0; s < Win::columns; ++s) {
#pragma unroll
    for (int t = 0; t < tile_w; ++t) {
#pragma unroll
      for (int k = 0; k < V; ++k) {
        sum[t][k] += widen(input[t * Win::stride_w + s * Win::dilation_w].elements[k]) * widen(filter[s].elements[k]);
      }
    }
  }
}

// x [N,H,W,C] by strides p.in (C innermost), weights [rows][columns][C], bias [C] in the compute type or null. One
// thread computes V channels of tile_h x tile_w neighbouring results, and reads each input once for all of them.
template <class Win, int tile_h, int tile_w, int V, class X, class Params, class E>
__device__ __forceinline__ void depthwise(const X* x, const Params& p, const E& elements) {
  using I = decltype(p.items);
  using A = Compute<X>;
  const I item = static_cast<I>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (item >= p.items) {
    wait_for_previous();
    return;
  }
  I rest = item, i1, i2, i3;
  divide(rest, p.size[3], rest, i3);
  divide(rest, p.size[2], rest, i2);
  divide(rest, p.size[1], rest, i1);
  const I i0 = rest;
  i3 *= V;
  i2 *= tile_w;
  i1 *= tile_h;
  Filters<Win, V, X> filters(reinterpret_cast<const X*>(p.weights) + i3, p.channels);
  A sum[tile_h][tile_w][V];
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const A b = p.bias ? reinterpret_cast<const A*>(p.bias)[i3 + k] : A(0);
#pragma unroll
    for (int t = 0; t < tile_h * tile_w; ++t) sum[t / tile_w][t % tile_w][k] = b;
  }
  const bool aligned = p.vector_reads && is_aligned<V>(x);
  const int top = static_cast<int>(i1) * Win::stride_h - p.pad_h;
  const int left = static_cast<int>(i2) * Win::stride_w - p.pad_w;
  const X* base = x + i0 * p.in[0] + i3 + top * p.in[1] + left * p.in[2];
  constexpr int span_h = (tile_h - 1) * Win::stride_h + (Win::rows - 1) * Win::dilation_h + 1;
  constexpr int span_w = (tile_w - 1) * Win::stride_w + (Win::columns - 1) * Win::dilation_w + 1;
  wait_for_previous();
#pragma unroll
  for (int a = 0; a < span_h; ++a) {
    const bool inside = static_cast<unsigned>(top + a) < static_cast<unsigned>(p.height);
    Staged<V, X> input[span_w];
#pragma unroll
    for (int c = 0; c < span_w; ++c) {
      const bool wanted = inside && static_cast<unsigned>(left + c) < static_cast<unsigned>(p.width);
      input[c].fetch_or_zero(base + a * p.in[1] + c * p.in[2], aligned, wanted);
    }
#pragma unroll
    for (int t = 0; t < tile_h; ++t) {
      const int below = a - t * Win::stride_h;
      if (below < 0 || below % Win::dilation_h != 0 || below / Win::dilation_h >= Win::rows) continue;
      take_row<Win, tile_w, V, span_w>(input, filters.row(below / Win::dilation_h), sum[t]);
    }
  }
#pragma unroll
  for (int t = 0; t < tile_h; ++t) {
#pragma unroll
    for (int u = 0; u < tile_w; ++u) {
      const bool exists = i1 + t < p.out_height && i2 + u < p.out_width;
      if (exists) elements.template run<V>(sum[t][u], i0, i1 + t, i2 + u, i3);
    }
  }
}

// x by strides p.in (N,H,W,C), weights [K][rows][columns][C / groups], bias [K] in the compute type or null. One thread
// computes one result; V channels are read at once (p.in[3] is 1 when V > 1).
template <bool channels_last, int V, class X, class Params, class E>
__device__ __forceinline__ void direct_conv(const X* x, const Params& p, const E& elements) {
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
  const I k = channels_last ? i3 : i1, h = channels_last ? i1 : i2, w = channels_last ? i2 : i3;
  I group, within;
  divide(k, p.group_outputs, group, within);
  const int depth = p.group_inputs;
  const X* weights = reinterpret_cast<const X*>(p.weights) + k * p.weight_step;
  A sums[V] = {};  // V short sums round less than a long one, and do not wait for each other.
  for (int r = 0; r < p.rows; ++r) {
    const int row = static_cast<int>(h) * p.stride_h - p.pad_h + r * p.dilation_h;
    if (row < 0 || row >= p.height) continue;
    for (int s = 0; s < p.columns; ++s) {
      const int column = static_cast<int>(w) * p.stride_w - p.pad_w + s * p.dilation_w;
      if (column < 0 || column >= p.width) continue;
      const X* at = x + i0 * p.in[0] + row * p.in[1] + column * p.in[2] + group * depth * p.in[3];
      const X* filter = weights + static_cast<I>(r * p.columns + s) * depth;
      for (int c = 0; c < depth; c += V) {
        A v[V], f[V];
        if constexpr (V > 1) {
          read<V>(at + c, aligned, v);
        } else {
          v[0] = widen(at[c * p.in[3]]);
        }
        read<V>(filter + c, true, f);
#pragma unroll
        for (int e = 0; e < V; ++e) sums[e] += v[e] * f[e];
      }
    }
  }
#pragma unroll
  for (int step = V / 2; step > 0; step /= 2) {
#pragma unroll
    for (int e = 0; e < step; ++e) sums[e] += sums[e + step];
  }
  const A result[1] = {sums[0] + (p.bias ? reinterpret_cast<const A*>(p.bias)[k] : A(0))};
  elements.template run<1>(result, i0, i1, i2, i3);
}

}  // namespace tw
