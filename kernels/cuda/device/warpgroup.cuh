// What warpgroups (sm_90a only) multiply: operands in shared memory, rows of 128 bytes, of which chunk c of row r has
// place c ^ r % 8 ("128-byte swizzle").
#pragma once

namespace tw {

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
