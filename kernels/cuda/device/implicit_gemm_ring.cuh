// Convolutions and linear layers as matrix products by tensor cores, for many results or a long k: operands pass
// through a ring of stages in shared memory, the next ones under way while the present ones are multiplied.
//
// Terms and layouts are those of implicit_gemm.cuh; a stage holds `stage_chunks` chunks of k for the block's rows and
// columns.
#pragma once

#include "implicit_gemm.cuh"

namespace tw {

template <class T, class D, int stages_, int stage_chunks_>
struct GemmRing {
  using S = typename T::Element;
  static constexpr int stages = stages_, stage_chunks = stage_chunks_;
  static constexpr int pitch = (stage_chunks + 1) * 16;
  static constexpr int row_bytes = T::rows * pitch, column_bytes = T::columns * pitch;
  static constexpr int stage_bytes = row_bytes + column_bytes;
  static constexpr int step = T::threads / stage_chunks, per_thread = T::rows / step;
  static_assert(per_thread * step == T::rows && stages * 8 <= GemmShared::header, "a stage that threads can fill");

  const S* x;
  const S* from[per_thread];
  unsigned inside[per_thread];
  unsigned to;
  unsigned ring, table, barriers;
  const char* weights;
  GemmList<T> list;
  bool vector;

  template <class Params>
  __device__ __forceinline__ GemmRing(const Params& p, const GemmWork& work) : list(p, work.first_row) {}

  template <class Params>
  __device__ __forceinline__ void prepare(const S* data, const Params& p, const GemmWork& work, unsigned shared) {
    x = data;
    barriers = shared;
    ring = shared + GemmShared::header;
    table = ring + stages * stage_bytes;
    vector = p.vector_reads && is_aligned<T::chunk>(x);
    weights = static_cast<const char*>(p.weights) + static_cast<long long>(blockIdx.y) * p.stage_count * column_bytes;
    fill_table<T, D, stage_chunks>(p, work, table, list);
    const int lane = threadIdx.x % stage_chunks, first = threadIdx.x / stage_chunks;
#pragma unroll
    for (int i = 0; i < per_thread; ++i) {
      const GemmPixel pixel = pixel_of_row<T, D>(p, work.first_row + first + i * step);
      inside[i] = pixel.inside;
      from[i] = place_of(x, p, pixel);
    }
    to = ring + first * pitch + lane * 16;
  }

  // Operands of stage `turn` of the list.
  __device__ __forceinline__ void load_weights_of(int turn, int slot) const {
    const unsigned target = ring + slot * stage_bytes + row_bytes;
    const char* source = weights + static_cast<long long>(list.stage(turn)) * column_bytes;
    if constexpr (has_bulk_copies) {
      if (threadIdx.x == 0) {
        expect_bytes(barriers + slot * 8, column_bytes);
        copy_bulk(target, source, column_bytes, barriers + slot * 8);
      }
    } else {
      for (int i = threadIdx.x * 16; i < column_bytes; i += T::threads * 16) copy_async16(target + i, source + i, true);
    }
  }

  template <class Params>
  __device__ __forceinline__ void load_rows_of(const Params& p, const GemmWork& work, int turn, int slot) const {
    const GemmChunk chunk = read_table(table, turn * stage_chunks + static_cast<int>(threadIdx.x) % stage_chunks);
    const unsigned need = chunk.need & kTapBits;
    if (vector) {
#pragma unroll
      for (int i = 0; i < per_thread; ++i)
        copy_async16(to + slot * stage_bytes + i * step * pitch, from[i] + chunk.offset, (inside[i] & need) == need);
    } else {
#pragma unroll 1
      for (int i = 0; i < per_thread; ++i) {
        const int row = static_cast<int>(threadIdx.x) / stage_chunks + i * step;
        const GemmPixel pixel = pixel_of_row<T, D>(p, work.first_row + row);
        gather_chunk(to + slot * stage_bytes + i * step * pitch, place_of(x, p, pixel) + chunk.offset, p.in[3],
                     (pixel.inside & need) == need ? static_cast<int>(chunk.need >> 24) : 0);
      }
    }
  }
};

// Blocks: rows / T::rows along x, columns / T::columns along y. Params: see kernels/cuda/implicit_gemm_program.cpp.
template <class T, class D, class Ring, int width, class Params, class E>
__device__ __forceinline__ void implicit_gemm_ring(const typename T::Element* x, const Params& p, const E& elements) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int lane = threadIdx.x % 32;
  const GemmWork work = work_of<T, D, false>(p);
  x += work.group_channel * p.in[3];
  Ring ring(p, work);
  if constexpr (has_bulk_copies) {
    if (threadIdx.x == 0) {
#pragma unroll
      for (int s = 0; s < Ring::stages; ++s) init_barrier(shared_address(shared) + s * 8, 1);
      barriers_ready();
    }
  }
  ring.prepare(x, p, work, shared_address(shared));
  unsigned rows[T::m_tiles], weights[T::n_pairs];
#pragma unroll
  for (int i = 0; i < T::m_tiles; ++i)
    rows[i] = ring.ring + ((T::warp_m() * T::m_tiles + i) * 16 + lane % 16) * Ring::pitch + lane / 16 * 16;
  weight_addresses<T, Ring::pitch>(weights, ring.ring + Ring::row_bytes);
  GemmDirect<T, width, E> direct;
  direct.prepare(p, work);
  __syncthreads();
  constexpr int ahead = Ring::stages - 1;
  const int turns = ring.list.count;
  for (int s = 0; s < ahead && s < turns; ++s) ring.load_weights_of(s, s);

  wait_for_previous();
  for (int s = 0; s < ahead; ++s) {
    if (s < turns) ring.load_rows_of(p, work, s, s);
    commit_copies();
  }
  float acc[T::m_tiles][T::n_tiles][4] = {};
  int slot = 0, parity = 0;
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
    wait_for_copies<ahead - 1>();
    if constexpr (has_bulk_copies) wait_for_phase(ring.barriers + slot * 8, parity);
    __syncthreads();  // The stage is here for all, and all have left the one before it, whose place is filled next.
    if (turn + ahead < turns) {
      const int free = slot == 0 ? Ring::stages - 1 : slot - 1;
      ring.load_weights_of(turn + ahead, free);
      ring.load_rows_of(p, work, turn + ahead, free);
    }
    commit_copies();
#pragma unroll
    for (int k = 0; k < Ring::stage_chunks / 2; ++k) {
      const int at = slot * Ring::stage_bytes + k * 32;
      unsigned b[T::n_tiles][2];
      load_weights<T>(b, weights, at);
#pragma unroll
      for (int i = 0; i < T::m_tiles; ++i) {
        unsigned a[4];
        load_matrix(a, rows[i] + at);
        prepare_words<typename T::Element>(a);
#pragma unroll
        for (int j = 0; j < T::n_tiles; ++j) multiply_add<typename T::Element>(acc[i][j], a, b[j]);
      }
    }
    slot = slot + 1 == Ring::stages ? 0 : slot + 1;
    parity ^= slot == 0;
  }
  direct.fetch(p, elements);
  direct.run(p, elements, acc);
}

}  // namespace tw
