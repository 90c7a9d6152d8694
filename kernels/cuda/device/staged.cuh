// Elements that are read long before they are used: kept as they lie in memory, so that nothing waits for them early.
#pragma once

#include "types.cuh"

namespace tw {

// V elements of type S on their way.
template <int V, class S>
struct Staged {
  using W = Word<sizeof(S) * V>;
  union {
    W words[sizeof(S) * V / sizeof(W)];
    S elements[V];
  };

  // Neighbouring elements. `aligned`: is_aligned<V>(p).
  __device__ __forceinline__ void fetch(const S* p, bool aligned) {
    if (aligned) {
#pragma unroll
      for (int i = 0; i < static_cast<int>(sizeof(S) * V / sizeof(W)); ++i) words[i] = reinterpret_cast<const W*>(p)[i];
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) elements[i] = p[i];
    }
  }
  // The same, or zeros without reading.
  __device__ __forceinline__ void fetch_or_zero(const S* p, bool aligned, bool wanted) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(S) * V / sizeof(W)); ++i) words[i] = W{};
    if (wanted) fetch(p, aligned);
  }
  // Elements `step` apart.
  template <class I>
  __device__ __forceinline__ void fetch_apart(const S* p, I step) {
#pragma unroll
    for (int i = 0; i < V; ++i) elements[i] = p[i * step];
  }
  __device__ __forceinline__ void widened(Compute<S> (&v)[V]) const {
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = widen(elements[i]);
  }
};

// Makes the compiler have `value` ready here, and take it from here on as it is instead of computing it again.
template <class V>
__device__ __forceinline__ void have_ready(V& value) {
  if constexpr (same<V, float>) {
    asm volatile("" : "+f"(value));
  } else if constexpr (sizeof(V) == 8) {
    asm volatile("" : "+l"(value));
  } else {
    asm volatile("" : "+r"(value));
  }
}

}  // namespace tw
