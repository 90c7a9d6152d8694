// Convolutions without tensor cores: depthwise, and any grouping one result at a time.
#pragma once

#include "types.cuh"

namespace tw {

// What the compiler must know of a depthwise convolution.
template <int rows_, int columns_, int stride_h_, int stride_w_, int dilation_h_, int dilation_w_>
struct Window {
  static constexpr int rows = rows_, columns = columns_;
  static constexpr int stride_h = stride_h_, stride_w = stride_w_;
  static constexpr int dilation_h = dilation_h_, dilation_w = dilation_w_;
};

// One row of the window for `tile` neighbouring results of V channels each. Input columns are read once and serve every
// result whose window covers them.
template <class W, int tile, int V, class X, class I>
__device__ __forceinline__ void depthwise_row(const X* row, I step, bool aligned, int first, int width,
                                              const X* weights, I weight_step, Compute<X> (&sum)[tile][V]) {
  Compute<X> w[W::columns][V];
#pragma unroll
  for (int s = 0; s < W::columns; ++s) read<V>(weights + s * weight_step, true, w[s]);
  constexpr int span = (tile - 1) * W::stride_w + (W::columns - 1) * W::dilation_w + 1;
#pragma unroll
  for (int c = 0; c < span; ++c) {
    const int column = first + c;
    if (column < 0 || column >= width) continue;
    Compute<X> v[V];
    read<V>(row + column * step, aligned, v);
#pragma unroll
    for (int s = 0; s < W::columns; ++s) {
      const int ahead = c - s * W::dilation_w;
      if (ahead < 0 || ahead % W::stride_w != 0 || ahead / W::stride_w >= tile) continue;
#pragma unroll
      for (int k = 0; k < V; ++k) sum[ahead / W::stride_w][k] += v[k] * w[s][k];
    }
  }
}

// x [N,H,W,C] by strides p.in (C innermost), weights [rows][columns][C], bias [C] in the compute type or null. One
// thread computes V channels of `tile` results in a row.
template <class Win, int tile, int V, class X, class Params, class E>
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
  i2 *= tile;
  const X* weights = reinterpret_cast<const X*>(p.weights) + i3;
  A sum[tile][V];
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const A b = p.bias ? reinterpret_cast<const A*>(p.bias)[i3 + k] : A(0);
#pragma unroll
    for (int t = 0; t < tile; ++t) sum[t][k] = b;
  }
  const bool aligned = p.vector_reads && is_aligned<V>(x);
  const int top = static_cast<int>(i1) * Win::stride_h - p.pad_h;
  const int left = static_cast<int>(i2) * Win::stride_w - p.pad_w;
  wait_for_previous();
  const X* base = x + i0 * p.in[0] + i3;
#pragma unroll
  for (int r = 0; r < Win::rows; ++r) {
    const int row = top + r * Win::dilation_h;
    if (row < 0 || row >= p.height) continue;
    depthwise_row<Win, tile, V>(base + row * p.in[1], p.in[2], aligned, left, p.width,
                                weights + static_cast<I>(r * Win::columns) * p.channels, p.channels, sum);
  }
#pragma unroll
  for (int t = 0; t < tile; ++t) {
    if (i2 + t < p.out_width) elements.template run<V>(sum[t], i0, i1, i2 + t, i3);
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
  A sum = p.bias ? reinterpret_cast<const A*>(p.bias)[k] : A(0);
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
        for (int e = 0; e < V; ++e) sum += v[e] * f[e];
      }
    }
  }
  const A result[1] = {sum};
  elements.template run<1>(result, i0, i1, i2, i3);
}

}  // namespace tw
