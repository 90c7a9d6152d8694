// What kernels for blocks of several layers have in common.
#pragma once

#include "async_copy.cuh"
#include "types.cuh"

namespace tw {

__device__ __forceinline__ constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

// Eight elements of 2 bytes from anywhere to shared memory (a 16-byte aligned shared address), one by one.
template <class S>
__device__ __forceinline__ void copy_one_by_one(unsigned to, const S* from) {
#pragma unroll
  for (int e = 0; e < 8; ++e) asm volatile("st.shared.u16 [%0], %1;" ::"r"(to + 2 * e), "h"(from[e].bits) : "memory");
}

// A number as it comes back from memory of type S.
template <class S>
__device__ __forceinline__ float rounded(float v) {
  return widen(narrow<S>(v));
}

// Eight neighbouring f32 numbers of shared memory.
__device__ __forceinline__ void read_eight(const float* p, float (&v)[8]) {
  const float4 a = reinterpret_cast<const float4*>(p)[0], b = reinterpret_cast<const float4*>(p)[1];
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

}  // namespace tw
