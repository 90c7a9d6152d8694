// Reductions: what is gathered (states) and who gathers it (threads along the reduced elements, or along the results).
#pragma once

#include "math.cuh"
#include "types.cuh"

namespace tw {

// A state starts empty, takes elements x with their index, and merges with another one. Kinds in two passes gather a
// first state, whose `center` the second pass gets with each element.
template <class T>
struct SumState {
  T sum = T(0);
  __device__ __forceinline__ void take(T x, long long, T) { sum += x; }
  __device__ __forceinline__ void merge(const SumState& other) { sum += other.sum; }
  __device__ __forceinline__ T center(double count) const { return static_cast<T>(sum / static_cast<T>(count)); }
};
template <class T>
struct ProductState {
  T product = T(1);
  __device__ __forceinline__ void take(T x, long long, T) { product *= x; }
  __device__ __forceinline__ void merge(const ProductState& other) { product *= other.product; }
};
template <class T>
struct MaxState {
  T best = lowest();
  __device__ static T lowest() {
    if constexpr (is_float<T>()) return -T(INFINITY);
    if constexpr (same<T, bool>) return false;
    if constexpr (T(-1) > T(0)) return T(0);
    return static_cast<T>(1ull << (8 * sizeof(T) - 1));
  }
  __device__ __forceinline__ void take(T x, long long, T) { best = max(best, x); }
  __device__ __forceinline__ void merge(const MaxState& other) { best = max(best, other.best); }
  // An infinite maximum must not make NaN of infinity - infinity.
  __device__ __forceinline__ T center(double) const { return isinf(best) ? T(0) : best; }
};
template <class T>
struct MinState {
  T best = highest();
  __device__ static T highest() {
    if constexpr (is_float<T>()) return T(INFINITY);
    if constexpr (same<T, bool>) return true;
    if constexpr (T(-1) > T(0)) return static_cast<T>(-1);
    return static_cast<T>((1ull << (8 * sizeof(T) - 1)) - 1);
  }
  __device__ __forceinline__ void take(T x, long long, T) { best = min(best, x); }
  __device__ __forceinline__ void merge(const MinState& other) { best = min(best, other.best); }
};
template <class T>
struct AnyState {
  int found = 0;
  __device__ __forceinline__ void take(T x, long long, T) { found |= x != T(0); }
  __device__ __forceinline__ void merge(const AnyState& other) { found |= other.found; }
};
template <class T>
struct AllState {
  int hold = 1;
  __device__ __forceinline__ void take(T x, long long, T) { hold &= x != T(0); }
  __device__ __forceinline__ void merge(const AllState& other) { hold &= other.hold; }
};
// The first of the best elements; the first NaN wins.
template <class T, bool largest>
struct PlaceState {
  long long place = -1;
  T best = T(0);
  __device__ __forceinline__ void take(T x, long long i, T) {
    if (place < 0 || beats(x, i)) {
      best = x;
      place = i;
    }
  }
  __device__ __forceinline__ void merge(const PlaceState& other) {
    if (other.place >= 0) take(other.best, other.place, T(0));
  }
  __device__ __forceinline__ bool beats(T x, long long i) const {
    if (is_nan(best)) return is_nan(x) && i < place;
    if (is_nan(x)) return true;
    return largest ? x > best || (x == best && i < place) : x < best || (x == best && i < place);
  }
};
template <class T>
struct SquaresState {
  T sum = T(0);
  __device__ __forceinline__ void take(T x, long long, T center) { sum += (x - center) * (x - center); }
  __device__ __forceinline__ void merge(const SquaresState& other) { sum += other.sum; }
};
// Squared distances from a rounded mean; what the mean is off shows in the sum of the distances and is taken out again
// (the corrected two-pass formula of Chan, Golub and LeVeque, 1983).
template <class T>
struct DeviationState {
  T squares = T(0);
  T sum = T(0);
  __device__ __forceinline__ void take(T x, long long, T center) {
    squares += (x - center) * (x - center);
    sum += x - center;
  }
  __device__ __forceinline__ void merge(const DeviationState& other) {
    squares += other.squares;
    sum += other.sum;
  }
};
template <class T>
struct ExponentialsState {
  T sum = T(0);
  __device__ __forceinline__ void take(T x, long long, T center) { sum += exp(x - center); }
  __device__ __forceinline__ void merge(const ExponentialsState& other) { sum += other.sum; }
};

// A kind: the states of its passes and the result from the last one.
template <class T>
struct ReduceSum {
  using State = SumState<T>;
  static constexpr bool two_passes = false;
  __device__ static T result(const State& s, double, T, double) { return s.sum; }
};
template <class T>
struct ReduceMean {
  using State = SumState<T>;
  static constexpr bool two_passes = false;
  __device__ static T result(const State& s, double count, T, double) { return s.sum / static_cast<T>(count); }
};
template <class T>
struct ReduceProd {
  using State = ProductState<T>;
  static constexpr bool two_passes = false;
  __device__ static T result(const State& s, double, T, double) { return s.product; }
};
template <class T>
struct ReduceAmax {
  using State = MaxState<T>;
  static constexpr bool two_passes = false;
  __device__ static T result(const State& s, double, T, double) { return s.best; }
};
template <class T>
struct ReduceAmin {
  using State = MinState<T>;
  static constexpr bool two_passes = false;
  __device__ static T result(const State& s, double, T, double) { return s.best; }
};
template <class T>
struct ReduceAny {
  using State = AnyState<T>;
  static constexpr bool two_passes = false;
  __device__ static bool result(const State& s, double, T, double) { return s.found; }
};
template <class T>
struct ReduceAll {
  using State = AllState<T>;
  static constexpr bool two_passes = false;
  __device__ static bool result(const State& s, double, T, double) { return s.hold; }
};
template <class T>
struct ReduceArgmax {
  using State = PlaceState<T, true>;
  static constexpr bool two_passes = false;
  __device__ static long long result(const State& s, double, T, double) { return s.place; }
};
template <class T>
struct ReduceArgmin {
  using State = PlaceState<T, false>;
  static constexpr bool two_passes = false;
  __device__ static long long result(const State& s, double, T, double) { return s.place; }
};
// `parameter` is the correction. Fewer elements than that give a division by 0, as in LibTorch.
template <class T>
struct ReduceVar {
  using First = SumState<T>;
  using State = DeviationState<T>;
  static constexpr bool two_passes = true;
  __device__ static T result(const State& s, double count, T, double parameter) {
    const double divisor = count - parameter;
    const T squares = s.squares - s.sum * s.sum / static_cast<T>(count);
    return max(squares, T(0)) / static_cast<T>(divisor > 0 ? divisor : 0);
  }
};
template <class T>
struct ReduceStd : ReduceVar<T> {
  __device__ static T result(const DeviationState<T>& s, double count, T center, double parameter) {
    return sqrt(ReduceVar<T>::result(s, count, center, parameter));
  }
};
template <class T>
struct ReduceLogsumexp {
  using First = MaxState<T>;
  using State = ExponentialsState<T>;
  static constexpr bool two_passes = true;
  __device__ static T result(const State& s, double, T center, double) { return log(s.sum) + center; }
};

template <class T>
struct ReduceNorm {
  using State = SquaresState<T>;
  static constexpr bool two_passes = false;
  __device__ static T result(const State& s, double, T, double) { return sqrt(s.sum); }
};
template <class T>
struct AbsoluteState {
  T sum = T(0);
  __device__ __forceinline__ void take(T x, long long, T) { sum += abs(x); }
  __device__ __forceinline__ void merge(const AbsoluteState& other) { sum += other.sum; }
};
template <class T>
struct ReduceNorm1 {
  using State = AbsoluteState<T>;
  static constexpr bool two_passes = false;
  __device__ static T result(const State& s, double, T, double) { return s.sum; }
};

// Shared memory for `count` states, which have constructors that shared variables may not run.
template <class S, int count>
struct RawStates {
  struct alignas(alignof(S)) type {
    unsigned char bytes[sizeof(S) * (count > 0 ? count : 1)];
  };
};

// Any state from another lane of the warp.
template <class S>
__device__ __forceinline__ S shuffle_xor(const S& state, int mask) {
  static_assert(sizeof(S) % 4 == 0 || sizeof(S) < 4, "state");
  if constexpr (sizeof(S) < 4) {
    union {
      S state;
      unsigned word;
    } u{};
    u.word = 0;
    u.state = state;
    u.word = __shfl_xor_sync(~0u, u.word, mask);
    return u.state;
  } else {
    S other;
    const unsigned* from = reinterpret_cast<const unsigned*>(&state);
    unsigned* to = reinterpret_cast<unsigned*>(&other);
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(S) / 4); ++i) to[i] = __shfl_xor_sync(~0u, from[i], mask);
    return other;
  }
}

// Merges the states of `threads` neighbouring threads (32 or a whole block of that many); all get the result. `slots`
// holds a state per warp.
template <int threads, class S>
__device__ __forceinline__ S merge_threads(S state, S* slots) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) state.merge(shuffle_xor(state, mask));
  if constexpr (threads > 32) {
    __syncthreads();
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = state;
    __syncthreads();
    state = slots[0];
#pragma unroll
    for (int w = 1; w < threads / 32; ++w) state.merge(slots[w]);
  }
  return state;
}

// Offset of the j-th reduced element.
template <int rank, class I, class Params>
__device__ __forceinline__ I reduced_offset(const Params& p, I j) {
  if constexpr (rank == 1) {
    return j * p.reduced_stride[0];
  } else {
    I offset = 0;
#pragma unroll
    for (int d = rank - 1; d > 0; --d) {
      I index;
      divide(j, p.reduced_size[d], j, index);
      offset += index * p.reduced_stride[d];
    }
    return offset + j * p.reduced_stride[0];
  }
}

// Steps of a thread whose elements are gathered in a state of their own: in one long row of additions small elements
// would be lost beside the sum so far.
constexpr int kGatherRun = 256;

// Gathers elements j, j + step, ..., V neighbours each, those of some steps on their way together: one after the other,
// they would take memory's latency each. `take(run, v, j)` adds those of one step to a run.
template <class Run, int V, int rank, class X, class Params, class Take, class Merge>
__device__ __forceinline__ void gather_steps(const X* base, bool aligned, decltype(Params::items) j,
                                             decltype(Params::items) step, const Params& p, const Take& take,
                                             const Merge& merge) {
  using I = decltype(p.items);
  constexpr int together = sizeof(X) == 8 ? 2 : 4;
  while (j < p.reduced) {
    Run run;
    for (int i = 0; i < kGatherRun && j < p.reduced; i += together, j += together * step) {
      Compute<X> v[together][V];
#pragma unroll
      for (int t = 0; t < together; ++t) {
        const I at = j + t * step;
        read<V>(base + reduced_offset<rank>(p, at < p.reduced ? at : j), aligned, v[t]);
      }
#pragma unroll
      for (int t = 0; t < together; ++t) {
        if (j + t * step < p.reduced) take(run, v[t], j + t * step);
      }
    }
    merge(run);
  }
}

// One pass of `threads` threads over the reduced elements, V neighbours at a time.
template <class S, int threads, int V, int rank, class Prepare, class X, class Params, class T>
__device__ __forceinline__ S gather_row(const X* base, bool aligned, int lane, const Params& p, T center) {
  using I = decltype(p.items);
  S all;
  auto take = [&](S& run, const Compute<X>(&v)[V], I j) {
#pragma unroll
    for (int k = 0; k < V; ++k) run.take(Prepare::apply(v[k]), j + k, center);
  };
  gather_steps<S, V, rank>(base, aligned, static_cast<I>(lane) * V, static_cast<I>(threads * V), p, take,
                           [&](const S& run) { all.merge(run); });
  return all;
}

// `threads` threads per result; the index of the result among p.items. Returns the result (in every thread).
template <class Kind, int threads, int V, int rank, class Prepare, class T, class X, class Params>
__device__ __forceinline__ auto reduce_row(const X* base, bool aligned, const Params& p) {
  const int lane = threadIdx.x % threads;
  const double count = static_cast<double>(p.reduced);
  T center = T(0);
  if constexpr (Kind::two_passes) {
    using First = typename Kind::First;
    __shared__ typename RawStates<First, threads / 32>::type first_slots;
    First first = gather_row<First, threads, V, rank, Prepare>(base, aligned, lane, p, center);
    center = merge_threads<threads>(first, reinterpret_cast<First*>(&first_slots)).center(count);
  }
  using State = typename Kind::State;
  __shared__ typename RawStates<State, threads / 32>::type slots;
  State state = gather_row<State, threads, V, rank, Prepare>(base, aligned, lane, p, center);
  state = merge_threads<threads>(state, reinterpret_cast<State*>(&slots));
  return Kind::result(state, count, center, p.parameter);
}

// One pass of a block of 256 threads, `columns` of them along results (V each), the others along the reduced elements.
// All threads of a column get the merged states.
template <class S, int columns, int V, int rank, class Prepare, class X, class Params, class T>
__device__ __forceinline__ void gather_columns(const X* base, bool aligned, bool active, const Params& p,
                                               const T (&center)[V], S (&state)[V]) {
  using I = decltype(p.items);
  constexpr int rows = 256 / columns;
  const int tx = threadIdx.x % columns, ty = threadIdx.x / columns;
  if (active) {
    struct Run {
      S of[V];
    };
    auto take = [&](Run& run, const Compute<X>(&v)[V], I j) {
#pragma unroll
      for (int k = 0; k < V; ++k) run.of[k].take(Prepare::apply(v[k]), j, center[k]);
    };
    gather_steps<Run, V, rank>(base, aligned, static_cast<I>(ty), static_cast<I>(rows), p, take, [&](const Run& run) {
#pragma unroll
      for (int k = 0; k < V; ++k) state[k].merge(run.of[k]);
    });
  }
  __shared__ typename RawStates<S, 256 * V>::type slots;
  S* shared = reinterpret_cast<S*>(&slots);
#pragma unroll
  for (int k = 0; k < V; ++k) shared[(ty * V + k) * columns + tx] = state[k];
  __syncthreads();
#pragma unroll
  for (int half = rows / 2; half > 0; half /= 2) {
    if (ty < half) {
#pragma unroll
      for (int k = 0; k < V; ++k)
        shared[(ty * V + k) * columns + tx].merge(shared[((ty + half) * V + k) * columns + tx]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int k = 0; k < V; ++k) state[k] = shared[k * columns + tx];
  __syncthreads();
}

template <class Kind, int columns, int V, int rank, class Prepare, class T, class R, class X, class Params>
__device__ __forceinline__ void reduce_columns(const X* base, bool aligned, bool active, const Params& p,
                                               R (&result)[V]) {
  const double count = static_cast<double>(p.reduced);
  T center[V];
#pragma unroll
  for (int k = 0; k < V; ++k) center[k] = T(0);
  if constexpr (Kind::two_passes) {
    typename Kind::First first[V];
    gather_columns<typename Kind::First, columns, V, rank, Prepare>(base, aligned, active, p, center, first);
#pragma unroll
    for (int k = 0; k < V; ++k) center[k] = first[k].center(count);
  }
  typename Kind::State state[V];
  gather_columns<typename Kind::State, columns, V, rank, Prepare>(base, aligned, active, p, center, state);
#pragma unroll
  for (int k = 0; k < V; ++k) result[k] = Kind::result(state[k], count, center[k], p.parameter);
}

}  // namespace tw
