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
// x, j)` takes V results from element j on, and what they were. Weight and bias [row] of the compute type, or null.
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
    A x[V], v[V];
    read<V>(base + j * p.reduced_stride[0], aligned, x);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      v[k] = Row::value(x[k], center, scale);
      if (weight) v[k] *= weight[j + k];
      if (bias) v[k] += bias[j + k];
    }
    finish(v, x, j);
  }
}

// A row whose elements start at `base`, `stride` apart; kept as they lie in memory.
template <int V, class X, class I>
struct StoredRow {
  using Number = Compute<X>;
  using Kept = Staged<V, X>;
  const X* base;
  I stride;
  // Those from element `first` on, `threads` times V apart.
  template <int threads, int held>
  __device__ __forceinline__ void fetch(Kept (&row)[held], I first, I length) {
    const bool aligned = is_aligned<V>(base);
#pragma unroll
    for (int h = 0; h < held; ++h) {
      const I j = first + h * threads * V;
      row[h].fetch_or_zero(base + j * stride, aligned, j < length);
    }
  }
};
template <int V, class X, class I>
__device__ __forceinline__ StoredRow<V, X, I> stored_row(const X* base, I stride) {
  return {base, stride};
}

// A row that is computed (see emit_source in kernels/cuda/codegen.h), from operands of `together` vectors that are on
// their way at a time.
template <int V, class A, int together, class Source>
struct ComputedRow {
  using Number = A;
  struct Kept {
    A numbers[V];
    __device__ __forceinline__ void widened(A (&v)[V]) const {
#pragma unroll
      for (int k = 0; k < V; ++k) v[k] = numbers[k];
    }
  };
  Source source;
  // Past the end of the row, what the threads hold is of no use.
  template <int threads, int held, class I>
  __device__ __forceinline__ void fetch(Kept (&row)[held], I first, I length) {
    source.start();
#pragma unroll
    for (int begin = 0; begin < held; begin += together) {
      typename Source::template Early<V> early[together];
#pragma unroll
      for (int h = 0; h < together; ++h) {
        const I j = first + (begin + h) * threads * V;
        if (begin + h < held) source.fetch(early[h], j < length ? j : 0);
      }
#pragma unroll
      for (int h = 0; h < together; ++h) {
        if (begin + h < held) source.run(row[begin + h].numbers, early[h]);
      }
    }
  }
};
template <int V, class A, int together, class Source>
__device__ __forceinline__ ComputedRow<V, A, together, Source> computed_row(const Source& source) {
  return {source};
}

// The same for a row that its threads keep in registers, `held` times V elements each, so that it is fetched once;
// weight and bias are on their way before the kernel ahead has ended. Without `there` nothing is done.
template <class Row, int threads, int V, int held, bool has_weight, bool has_bias, class Source, class Params, class F>
__device__ __forceinline__ void transform_held_row(Source source, bool there, const Params& p, const F& finish) {
  using A = typename Source::Number;
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
  typename Source::Kept row[held];
  source.template fetch<threads>(row, start, p.reduced);
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
    A x[V], v[V];
    row[h].widened(x);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      v[k] = Row::value(x[k], center, scale);
      if constexpr (has_weight) v[k] *= weight[h][k];
      if constexpr (has_bias) v[k] += bias[h][k];
    }
    finish(v, x, j);
  }
}

}  // namespace tw
