// Convolutions and linear layers as matrix products by tensor cores, for few results: a block keeps everything it
// multiplies in shared memory, so that its weights can be under way before the kernel ahead has ended and the products
// run without a pause.
//
// Rows are the results' pixels (batch, height, width), columns the output channels. k runs over the window's taps and,
// within a tap, over the channels of the block's slice. A block's columns are those of one group of a convolution, and
// x begins for it with that group's channels: channels of other groups must not even be multiplied by zero, for the
// sake of infinities and NaN. In shared memory k lies in chunks of 16 bytes; a row of operands takes an odd number of
// chunks, so that eight rows at the same chunk never meet in a bank.
#pragma once

#include "implicit_gemm_operands.cuh"
#include "implicit_gemm_pixels.cuh"
#include "implicit_gemm_results.cuh"
#include "implicit_gemm_sources.cuh"

namespace tw {

// The block's weights, [column][chunk] with the pitch of operand rows, under way.
template <class T, class D, class Params>
__device__ __forceinline__ void start_weights(const Params& p, const GemmWork& work, const GemmShared& at) {
  constexpr int bytes = T::columns * D::pitch;
  const int part = static_cast<int>(blockIdx.y) * p.splits + work.rank;
  const char* from = static_cast<const char*>(p.weights) + static_cast<long long>(part) * bytes;
  if constexpr (has_bulk_copies) {
    if (threadIdx.x == 0) {
      expect_bytes(at.barrier, bytes);
      copy_bulk(at.weights, from, bytes, at.barrier);
    }
  } else {
    for (int i = threadIdx.x * 16; i < bytes; i += T::threads * 16) copy_async16(at.weights + i, from + i, true);
  }
}

template <class T, bool clustered, class Params>
__device__ __forceinline__ void start_barriers(const Params& p, const GemmWork& work, const GemmShared& at) {
  if constexpr (has_bulk_copies) {
    if (threadIdx.x == 0) {
      init_barrier(at.barrier, 1);
      if constexpr (clustered) init_barrier(at.barrier + 8, 1);
      barriers_ready();
      if constexpr (clustered) expect_sums<T>(p, work, at);
    }
  }
}

// Where the weights of this lane's columns start, two blocks of eight columns each.
template <class T, int pitch>
__device__ __forceinline__ void weight_addresses(unsigned (&weights)[T::n_pairs], unsigned start) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < T::n_pairs; ++j) {
    const int within = 2 * j + 1 < T::n_tiles ? lane % 8 + lane / 16 * 8 : lane % 8;
    const int n = (T::warp_n() * T::n_tiles + 2 * j) * 8 + within;
    weights[j] = start + n * pitch + lane / 8 % 2 * 16 + T::warp_k() * 32;
    have_ready(weights[j]);
  }
}

// Bytes of shared memory before the rows of x: barriers, sums that warps or blocks exchange, weights, what Source
// wants.
template <class T, class D, class Source, bool clustered>
struct GemmHead {
  static constexpr bool summed = clustered || T::warps_k > 1;
  static constexpr int slots = GemmShared::header;
  static constexpr int weights = slots + (summed ? T::warps_k * T::rows * T::slot_pitch * 4 : 0);
  static constexpr int extra = weights + T::columns * D::pitch;
  static constexpr int bytes = extra + Source::extra_bytes;
};

// Source: GemmRows, GemmPatch or GemmPixels, over D. Blocks: rows / T::rows x splits of the channels (one cluster)
// along x, columns / T::columns along y. Params: see kernels/cuda/implicit_gemm_program.cpp; weights packed there.
// `second`: the second tensor where D has one.
template <class T, class D, class Source, bool clustered, int width, class Params, class E>
__device__ __forceinline__ void implicit_gemm(const typename T::Element* x, const Params& p, const E& elements,
                                              const typename T::Element* second = nullptr) {
  using Head = GemmHead<T, D, Source, clustered>;
  constexpr bool summed = Head::summed;
  extern __shared__ __align__(128) unsigned char shared[];
  const GemmWork work = work_of<T, D, clustered>(p);
  x += work.group_channel * p.in[3];
  GemmShared at;
  at.barrier = shared_address(shared);
  at.slots = at.barrier + Head::slots;
  at.weights = at.barrier + Head::weights;
  at.extra = at.barrier + Head::extra;
  at.rows = at.barrier + Head::bytes;
  start_barriers<T, clustered>(p, work, at);
  start_weights<T, D>(p, work, at);
  int vector = p.vector_reads && is_aligned<T::chunk>(x) && is_aligned<T::chunk>(second);
  have_ready(vector);
  have_ready(work.present);
  Source source;
  if constexpr (D::two) source.second = second;
  source.prepare(x, p, work, at);
  GemmSummed<T, clustered, width, E> sum;
  GemmDirect<T, width, E> direct;
  if constexpr (summed) {
    sum.prepare(p, work, at);
  } else {
    direct.prepare(p, work);
  }
  unsigned weights[T::n_pairs];
  weight_addresses<T, D::pitch>(weights, at.weights);
  __syncthreads();
  if constexpr (clustered) cluster_arrive();

  // Always true; as a branch, it keeps the compiler from moving what was computed above behind the wait.
  if (p.rows > 0) wait_for_previous();
  if constexpr (Source::vectors) {
    if (vector) {
      source.load(p, work, at);
    } else {
      source.gather(p, work, at);
    }
  } else {
    source.gather(p, work, at);
  }
  commit_copies();
  if constexpr (summed) {
    sum.fetch(p, elements);
  } else {
    direct.fetch(p, elements);
  }
  float acc[T::m_tiles][T::n_tiles][4] = {};
  wait_for_copies<0>();
  if constexpr (has_bulk_copies) wait_for_phase(at.barrier, 0);
  __syncthreads();
  source.multiply(at, weights, acc);
  if constexpr (summed) {
    if constexpr (clustered) cluster_wait();
    sum.push(p, work, at, acc);
    if constexpr (clustered) {
      wait_for_phase(at.barrier + 8, 0);
    } else {
      __syncthreads();
    }
    sum.run(p, elements);
  } else {
    direct.run(p, elements, acc);
  }
}

}  // namespace tw
