// Products of a vector in shared memory by a block of threads, and how the blocks of a cluster put theirs together.
#pragma once

#include "block.cuh"

namespace tw {

// dot products of `rows` rows of weights with `depth` (a multiple of 8) numbers: `take(row, dot)` by one lane each.
template <class S, int threads, int lanes, int rows, int depth, int step, class F>
__device__ __forceinline__ void dot_rows(const S* weights, const float* numbers, const F& take) {
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  for (int first = 0; first < rows; first += threads / lanes) {
    const int row = first + static_cast<int>(threadIdx.x) / lanes;
    float dot = 0.f;
    if (row < rows) {
#pragma unroll 4
      for (int k = lane * 8; k < depth; k += lanes * 8) {
        float w[8], v[8];
        read<8>(weights + row * step + k, true, w);
        read_eight(numbers + k, v);
#pragma unroll
        for (int e = 0; e < 8; ++e) dot += w[e] * v[e];
      }
    }
#pragma unroll
    for (int mask = lanes / 2; mask > 0; mask /= 2) dot += __shfl_xor_sync(~0u, dot, mask);
    if (lane == 0 && row < rows) take(row, dot);
  }
}

// Sends `count` (a multiple of 4) f32 numbers at shared address `from` to place `to` of every block of the cluster.
template <int blocks, int threads, int count>
__device__ __forceinline__ void send_to_all(const float* from, unsigned to, unsigned barrier) {
  cluster_wait();
  for (int i = threadIdx.x; i < blocks * count / 4; i += threads) {
    const int peer = i / (count / 4), at = i % (count / 4);
    const float4 v = reinterpret_cast<const float4*>(from)[at];
    store_async(peer_address(to + at * 16, peer), v.x, v.y, v.z, v.w, peer_address(barrier, peer));
  }
  wait_for_phase(barrier, 0);
}

}  // namespace tw
