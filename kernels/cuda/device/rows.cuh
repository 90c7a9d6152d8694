// Softmax, layer and RMS normalisation: the elements of a row depend on sums over the row.
#pragma once

#include "math.cuh"
#include "reduce.cuh"
#include "staged.cuh"
#include "types.cuh"

namespace tw {

// How an element follows from its row.
struct SoftmaxRow {
  static constexpr bool centered = true;
  template <class A, class Params>
  __device__ static A scale(A, A sum, const Params&) {
    return A(1) / sum;
  }
  template <class A>
  __device__ static A value(A x, A top, A inverse) {
    return exp(x - top) * inverse;
  }
};
struct LogSoftmaxRow {
  static constexpr bool centered = true;
  template <class A, class Params>
  __device__ static A scale(A, A sum, const Params&) {
    return log(sum);
  }
  template <class A>
  __device__ static A value(A x, A top, A log_sum) {
    return x - top - log_sum;
  }
};
struct NormalRow {
  static constexpr bool centered = true;
  template <class A, class Params>
  __device__ static A scale(A, A squares, const Params& p) {
    return rsqrt(squares / static_cast<A>(p.reduced) + static_cast<A>(p.parameter));
  }
  template <class A>
  __device__ static A value(A x, A mean, A inverse) {
    return (x - mean) * inverse;
  }
};
struct RootMeanSquareRow : NormalRow {
  static constexpr bool centered = false;
};

template <class Row>
struct RowStates {  // Softmax: largest element, then the exponentials' sum.
  template <class A>
  using First = MaxState<A>;
  template <class A>
  using Second = ExponentialsState<A>;
};
template <>
struct RowStates<NormalRow> {
  template <class A>
  using First = SumState<A>;
  template <class A>
  using Second = SquaresState<A>;
};
template <>
struct RowStates<RootMeanSquareRow> : RowStates<NormalRow> {};

template <class A>
__device__ __forceinline__ A center_of(const MaxState<A>& state, double) {
  return state.best;
}
template <class A>
__device__ __forceinline__ A center_of(const SumState<A>& state, double count) {
  return state.center(count);
}

struct AsItIs {
  template <class A>
  __device__ static A apply(A v) {
    return v;
  }
};

// `threads` threads per row whose elements start at `base`, p.reduced_stride[0] apart (V > 1: neighbours). `finish(acc,
// j)` takes V results from element j on. Weight and bias [row] of the compute type, or null.
template <class Row, int threads, int V, class X, class Params, class F>
__device__ __forceinline__ void transform_row(const X* base, bool aligned, const Params& p, const F& finish) {
  using A = Compute<X>;
  using I = decltype(p.items);
  using First = typename RowStates<Row>::template First<A>;
  using Second = typename RowStates<Row>::template Second<A>;
  __shared__ typename RawStates<Second, threads / 32>::type second_slots;
  const int lane = threadIdx.x % threads;
  A center = 0;
  if constexpr (Row::centered) {
    __shared__ typename RawStates<First, threads / 32>::type first_slots;
    const First first = merge_threads<threads>(gather_row<First, threads, V, 1, AsItIs>(base, aligned, lane, p, A(0)),
                                               reinterpret_cast<First*>(&first_slots));
    center = center_of(first, static_cast<double>(p.reduced));
  }
  const Second second =
      merge_threads<threads>(gather_row<Second, threads, V, 1, AsItIs>(base, aligned, lane, p, center),
                             reinterpret_cast<Second*>(&second_slots));
  const A scale = Row::scale(center, second.sum, p);
  const A* weight = reinterpret_cast<const A*>(p.weight);
  const A* bias = reinterpret_cast<const A*>(p.bias);
  for (I j = static_cast<I>(lane) * V; j < p.reduced; j += threads * V) {
    A v[V];
    read<V>(base + j * p.reduced_stride[0], aligned, v);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      v[k] = Row::value(v[k], center, scale);
      if (weight) v[k] *= weight[j + k];
      if (bias) v[k] += bias[j + k];
    }
    finish(v, j);
  }
}

// The same for a row that its threads keep in registers, `held` times V elements each, so that it is read once; weight
// and bias are on their way before the kernel ahead has ended. Without `there` nothing is done.
template <class Row, int threads, int V, int held, bool has_weight, bool has_bias, class X, class Params, class F>
__device__ __forceinline__ void transform_held_row(const X* base, bool there, const Params& p, const F& finish) {
  using A = Compute<X>;
  using I = decltype(p.items);
  using First = typename RowStates<Row>::template First<A>;
  using Second = typename RowStates<Row>::template Second<A>;
  __shared__ typename RawStates<Second, threads / 32>::type second_slots;
  const I start = static_cast<I>(threadIdx.x % threads) * V;
  A weight[has_weight ? held : 1][V], bias[has_bias ? held : 1][V];
#pragma unroll
  for (int h = 0; h < held; ++h) {
    const I j = start + h * threads * V;
    if constexpr (has_weight) {
      if (j < p.reduced) read<V>(reinterpret_cast<const A*>(p.weight) + j, true, weight[h]);
    }
    if constexpr (has_bias) {
      if (j < p.reduced) read<V>(reinterpret_cast<const A*>(p.bias) + j, true, bias[h]);
    }
  }
  wait_for_previous();
  if (!there) return;
  const bool aligned = is_aligned<V>(base);
  Staged<V, X> row[held];
#pragma unroll
  for (int h = 0; h < held; ++h) {
    const I j = start + h * threads * V;
    row[h].fetch_or_zero(base + j * p.reduced_stride[0], aligned, j < p.reduced);
  }
  auto gather = [&](auto state, A center) {
#pragma unroll
    for (int h = 0; h < held; ++h) {
      A v[V];
      row[h].widened(v);
      if (start + h * threads * V < p.reduced) {
#pragma unroll
        for (int k = 0; k < V; ++k) state.take(v[k], 0, center);
      }
    }
    return state;
  };
  A center = 0;
  if constexpr (Row::centered) {
    __shared__ typename RawStates<First, threads / 32>::type first_slots;
    const First first = merge_threads<threads>(gather(First(), A(0)), reinterpret_cast<First*>(&first_slots));
    center = center_of(first, static_cast<double>(p.reduced));
  }
  const Second second = merge_threads<threads>(gather(Second(), center), reinterpret_cast<Second*>(&second_slots));
  const A scale = Row::scale(center, second.sum, p);
#pragma unroll
  for (int h = 0; h < held; ++h) {
    const I j = start + h * threads * V;
    if (j >= p.reduced) continue;
    A v[V];
    row[h].widened(v);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      v[k] = Row::value(v[k], center, scale);
      if constexpr (has_weight) v[k] *= weight[h][k];
      if constexpr (has_bias) v[k] += bias[h][k];
    }
    finish(v, j);
  }
}

}  // namespace tw
