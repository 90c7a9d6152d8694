// Copies that run beside the program: from global memory into shared memory, and between the blocks of a cluster.
// Addresses called "shared" are 32-bit ones (shared_address). What an architecture lacks is either done by plain means,
// where that means the same, or traps: the host must not launch it there.
#pragma once

namespace tw {

__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// ---- sm_80: 16 bytes per thread; plain loads and stores before that

// 16 bytes to shared memory, both sides aligned to 16; zeros when not `valid` (`from` is then not read).
__device__ __forceinline__ void copy_async16(unsigned to, const void* from, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
#else
  const uint4 v = valid ? *static_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
#endif
}

// Closes a group of copies of this thread.
__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `pending` of the newest groups of this thread are under way. Other threads see the data after the
// next __syncthreads().
template <int pending>
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

// `count` elements `step` apart, then zeros, as one chunk of shared memory.
template <class S>
__device__ __forceinline__ void gather_chunk(unsigned to, const S* from, int step, int count) {
  constexpr int chunk = 16 / sizeof(S);
  union {
    uint4 word;
    S elements[chunk];
  };
  word = make_uint4(0, 0, 0, 0);
#pragma unroll
  for (int e = 0; e < chunk; ++e) {
    if (e < count) elements[e] = from[e * step];
  }
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w)
               : "memory");
}

// ---- sm_90: whole blocks of memory, counted by a barrier of 8 bytes in shared memory

#if __CUDA_ARCH__ >= 900
inline constexpr bool has_bulk_copies = true;
#else
inline constexpr bool has_bulk_copies = false;
#endif

// By one thread, before anybody else uses the barrier (barriers_ready, then __syncthreads or a cluster barrier).
__device__ __forceinline__ void init_barrier(unsigned barrier, unsigned arrivals) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
#else
  __trap();
#endif
}

// By the thread that made the barriers: copies and other blocks of the cluster see them from here on.
__device__ __forceinline__ void barriers_ready() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// Arrives, and makes the phase wait for `bytes` more bytes.
__device__ __forceinline__ void expect_bytes(unsigned barrier, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
#else
  __trap();
#endif
}

__device__ __forceinline__ void arrive(unsigned barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
#else
  __trap();
#endif
}

// Waits until the phase of this parity (0 for the first, then alternating) has ended.
__device__ __forceinline__ void wait_for_phase(unsigned barrier, unsigned parity) {
#if __CUDA_ARCH__ >= 900
  unsigned done;
  do {
    asm volatile(
        "{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (!done);
#else
  __trap();
#endif
}

// `bytes` (a multiple of 16, below 2^20) from global to shared memory of this block, both aligned to 16. One thread
// calls; they count at `barrier`.
__device__ __forceinline__ void copy_bulk(unsigned to, const void* from, unsigned bytes, unsigned barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
#else
  __trap();
#endif
}

// ---- sm_90: clusters of blocks

__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}

// Every thread of the cluster calls both. `cluster_arrive` orders nothing but what barriers_ready() released.
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#else
  __trap();
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __trap();
#endif
}
// A full barrier: what any thread of the cluster wrote before it, all see after it.
__device__ __forceinline__ void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __trap();
#endif
}

// The address in shared memory of block `rank` of the cluster that corresponds to `address` in this block.
__device__ __forceinline__ unsigned peer_address(unsigned address, unsigned rank) {
#if __CUDA_ARCH__ >= 900
  unsigned peer;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(peer) : "r"(address), "r"(rank));
  return peer;
#else
  __trap();
  return address;
#endif
}

// Two or four numbers into a peer's shared memory (aligned to 8 or 16); their bytes count at the peer's barrier. Both
// addresses come from peer_address and name the same block.
__device__ __forceinline__ void store_async(unsigned to, float a, float b, unsigned barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(to), "f"(a),
               "f"(b), "r"(barrier)
               : "memory");
#else
  __trap();
#endif
}
__device__ __forceinline__ void store_async(unsigned to, float a, float b, float c, float d, unsigned barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
               "f"(a), "f"(b), "f"(c), "f"(d), "r"(barrier)
               : "memory");
#else
  __trap();
#endif
}

}  // namespace tw
