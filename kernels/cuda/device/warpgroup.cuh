// What warpgroups (sm_90a only) multiply: operands in shared memory, rows of 128 bytes, of which chunk c of row r has
// place c ^ r % 8 ("128-byte swizzle").
#pragma once

#include "staged.cuh"

namespace tw {

// The instruction reads registers when it runs: what is in them must have been computed ahead of begin().
template <class V, int tiles>
__device__ __forceinline__ void have_all_ready(V (&values)[tiles][4]) {
#pragma unroll
  for (int j = 0; j < tiles; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) have_ready(values[j][e]);
  }
}

// Writes to shared memory by this thread become visible to the tensor cores' own reads (after the next barrier).
__device__ __forceinline__ void show_to_tensor_cores() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// A matrix descriptor: groups of 8 rows are 1024 bytes apart. Where the rows are what is summed over, those of further
// columns, 64 elements of 2 bytes at a time, lie `apart` bytes behind each other.
__device__ __forceinline__ unsigned long long place_in_shared(unsigned address, unsigned apart = 16) {
  return 1ull << 62 | 64ull << 32 | static_cast<unsigned long long>(apart >> 4) << 16 | (address & 0x3ffff) >> 4;
}

}  // namespace tw
