// Products with few rows: every weight is read once and used for all of them.
#pragma once

#include "types.cuh"

namespace tw {

// result[m][n] = sum over k of x[m][k] weights[n][k], plus bias[n]. One warp computes up to `rows` results of one n
// from p.first row on; `row_of(m)` gives where row m of x starts, `finish(acc, m, n)` takes a result. x's k are
// neighbours.
template <int rows, int V, class X, class Params, class R, class F>
__device__ __forceinline__ void linear_few_rows(const X* x, const Params& p, const R& row_of, const F& finish) {
  using I = decltype(p.items);
  using A = Compute<X>;
  const int lane = threadIdx.x % 32;
  const I n = static_cast<I>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  const I first = static_cast<I>(blockIdx.y) * rows;
  const bool active = n < p.outputs;
  const X* weights = reinterpret_cast<const X*>(p.weights) + (active ? n : 0) * p.depth;
  const A bias = p.bias && active ? reinterpret_cast<const A*>(p.bias)[n] : A(0);
  const bool aligned = p.vector_reads && is_aligned<V>(x);
  const X* row[rows];
  A sum[rows];
#pragma unroll
  for (int m = 0; m < rows; ++m) {
    row[m] = x + row_of(first + m < p.items ? first + m : first);
    sum[m] = A(0);
  }
  wait_for_previous();
  if (!active) return;
#pragma unroll 2
  for (I k = static_cast<I>(lane) * V; k < p.depth; k += 32 * V) {
    A w[V];
    read<V>(weights + k, true, w);
#pragma unroll
    for (int m = 0; m < rows; ++m) {
      if (first + m >= p.items) break;
      A v[V];
      read<V>(row[m] + k, aligned, v);
#pragma unroll
      for (int e = 0; e < V; ++e) sum[m] += v[e] * w[e];
    }
  }
  A mine = A(0);
#pragma unroll
  for (int m = 0; m < rows; ++m) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) sum[m] += __shfl_xor_sync(~0u, sum[m], mask);
    if (lane == m) mine = sum[m];
  }
  if (lane < rows && first + lane < p.items) {
    const A result[1] = {mine + bias};
    finish(result, first + lane, n);
  }
}

}  // namespace tw
