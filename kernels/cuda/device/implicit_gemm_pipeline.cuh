// Convolutions and linear layers as matrix products by warpgroups (sm_90a only), for many results. Blocks stay for many
// tiles of results. In each, one warpgroup does nothing but bring operands, stage of k by stage through a ring in
// shared memory, and the others multiply them; while these finish a tile, the ring fills with the next one's operands.
// Stages are laid out as in implicit_gemm_warpgroups.cuh.
//
// Where a block has several tiles, two teams may take them in turn: one multiplies while the other finishes its tile.
//
// Where there are few tiles, the blocks of a cluster have one tile together, each a slice of the channels; in the end
// sums of the blocks meet where the stages were.
//
// Tried on an H100: two blocks of a cluster that bring the weights for both (multicast), 1.1 to 2 times slower; a
// second warpgroup that begins two or three stages behind the first, so that one multiplies while the other finishes a
// tile, up to 5 % slower.
#pragma once

#include "implicit_gemm_warpgroups.cuh"

namespace tw {

// The registers of all threads of this warpgroup from here on.
template <int count>
__device__ __forceinline__ void take_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
#endif
}
template <int count>
__device__ __forceinline__ void leave_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
#endif
}

// A ring of `stages` stages. `blocks`: how many of these share a processor. `taps`: see stage_chunk. `clustered`: a
// cluster has a tile together. `teams`: of T::threads each, which take tiles in turn.
template <class T, class D, bool taps, int stages_, int blocks_, bool clustered_ = false, int teams_ = 1>
struct GemmPipeline {
  static constexpr bool clustered = clustered_;
  static constexpr int teams = teams_, multipliers = teams * T::threads;  // Threads that multiply.
  using S = typename T::Element;
  static constexpr int stages = stages_, blocks = blocks_;
  // Threads behind those that multiply. Of 65,536 registers a warpgroup of them leaves what the others need; where two
  // blocks share them, all threads have the same.
  static constexpr int loaders = blocks == 1 ? 128 : 64;
  static constexpr bool moves_registers = blocks == 1;
  static constexpr int few = 56, many = 224;
  static constexpr int row_bytes = 128 * T::rows, column_bytes = 128 * T::columns;
  static constexpr int stage_bytes = row_bytes + column_bytes;
  static constexpr int step = loaders / 8, per_thread = T::rows / step;
  static constexpr int header = 256, alignment = 1024;
  static constexpr int warps = T::threads / 32;  // Those that read a stage.
  static constexpr bool has_table = taps;
  static_assert(T::warps_n == 1 && T::warps_k == 1 && T::rows % 64 == 0, "tiles of warpgroups");
  static_assert(T::m_tiles == (teams > 1 ? T::rows / 64 : 1) && !(teams > 1 && clustered), "teams of one warpgroup");
  // A block has what it was launched with: as many as all threads can have, a multiple of 8 each.
  static_assert(!moves_registers || loaders * few + multipliers * many <=
                                        65536 / (loaders + multipliers) / 8 * 8 * (loaders + multipliers),
                "registers that are there");
  static_assert(stages >= 3 && stages <= 16, "stages that barriers have room for");
  static_assert(!T::skips || taps, "all results need the only tap");
  static constexpr int sums = header - 16;  // As GemmShared::barrier: that of the sums is 8 bytes behind it.
  static_assert(!clustered || stages * 16 <= sums, "barriers of stages and one of the sums");
  static_assert(!clustered || T::rows * T::slot_pitch * 4 <= stages * stage_bytes, "sums that fit");

  unsigned full, empty;  // Barriers, one for each stage.
  unsigned ring, table;
  int slot = 0;
  unsigned parity = 0;

  __device__ __forceinline__ void place(unsigned shared) {
    full = shared;
    empty = shared + stages * 8;
    ring = (shared + header + alignment - 1) / alignment * alignment;
    table = ring + stages * stage_bytes;
  }
  __device__ __forceinline__ GemmShared place_of_sums() const {
    GemmShared at;
    at.barrier = full + sums;
    at.slots = ring;
    return at;
  }
  // By one thread.
  template <class Params>
  __device__ __forceinline__ void make_barriers(const Params& p) const {
#pragma unroll
    for (int s = 0; s < stages; ++s) {
      init_barrier(full + s * 8, loaders / 32 + 1);
      init_barrier(empty + s * 8, warps);
    }
    if constexpr (clustered) init_barrier(place_of_sums().barrier + 8, 1);
    barriers_ready();
    if constexpr (clustered) expect_sums<T>(p, work_of_tile(p, first_tile(p)), place_of_sums());
  }
  __device__ __forceinline__ void advance() {
    slot = slot + 1 == stages ? 0 : slot + 1;
    parity ^= slot == 0;
  }
  __device__ __forceinline__ void advance(int count) {
    const int now = slot + count;
    slot = now % stages;
    parity ^= now / stages & 1;
  }

  // ---- tiles of results: blocks take them in turn, those of the same rows one after the other

  template <class Params>
  __device__ __forceinline__ static int tiles(const Params& p) {
    return (p.rows + T::rows - 1) / T::rows * column_tiles<T, D>(p);
  }
  template <class Params>
  __device__ __forceinline__ static int first_tile(const Params& p) {
    return clustered ? static_cast<int>(blockIdx.x) / p.splits : static_cast<int>(blockIdx.x);
  }
  template <class Params>
  __device__ __forceinline__ static int tiles_apart(const Params& p) {
    return clustered ? tiles(p) : static_cast<int>(gridDim.x);
  }
  template <class Params>
  __device__ __forceinline__ static GemmWork work_of_tile(const Params& p, int tile) {
    const int beside = column_tiles<T, D>(p), row = tile / beside;
    GemmWork work;
    work.first_row = row * T::rows;
    take_columns<T, D>(p, tile - row * beside, work);
    take_slice<T, D, clustered>(work);
    return work;
  }

  // ---- the warpgroup that brings operands

  // The weights of a stage. By one thread.
  template <class Params>
  __device__ __forceinline__ void load_weights_of(const Params& p, const GemmWork& work, int stage, int to) const {
    int part = work.column_tile;
    if constexpr (clustered) part = part * p.splits + work.rank;
    const char* source =
        static_cast<const char*>(p.weights) + static_cast<long long>(part * p.stage_count + stage) * column_bytes;
    expect_bytes(full + to * 8, column_bytes);
    copy_bulk(ring + to * stage_bytes + row_bytes, source, column_bytes, full + to * 8);
  }

  template <class Params>
  __device__ __forceinline__ void load(const S* x, const Params& p) {
    const int thread = static_cast<int>(threadIdx.x) - multipliers, lane = thread % 8, first = thread / 8;
    const bool vector = p.vector_reads && is_aligned<T::chunk>(x);
    const unsigned to = ring + first * 128 + (lane ^ first % 8) * 16;
    const int count = tiles(p);
    int tile = first_tile(p);
    // The weights of the first stages do not depend on the kernel before.
    const GemmWork first_work = work_of_tile(p, tile);
    const GemmList<T> first_list(p, first_work.first_row);
    const int early = min(stages, first_list.count);
    if (thread == 0) {
      for (int s = 0; s < early; ++s) load_weights_of(p, first_work, first_list.stage(s), s);
    }
    wait_for_previous();
    // Copies run ahead of their arrival at the barrier. Two stages must have arrived when the next place is waited for:
    // those who multiply leave one only when they have begun with the one behind it.
    constexpr int ahead = stages - 2;
    int loaded = 0, arrived = 0;
    for (; tile < count; tile += tiles_apart(p)) {
      const GemmWork work = work_of_tile(p, tile);
      const GemmList<T> list(p, work.first_row);
      int from[per_thread];
      unsigned inside[per_thread];
#pragma unroll
      for (int i = 0; i < per_thread; ++i) {
        const GemmPixel pixel = pixel_of_row<T, D>(p, work.first_row + first + i * step);
        inside[i] = pixel.inside;
        from[i] = static_cast<int>(place_of(x, p, pixel) - x) + first_channel_of(work, lane) * p.in[3];
      }
      for (int turn = 0; turn < list.count; ++turn) {
        const int stage = list.stage(turn);
        wait_for_phase(empty + slot * 8, parity ^ 1);
        if (thread == 0 && loaded >= early) load_weights_of(p, work, stage, slot);
        const GemmChunk chunk = stage_chunk<T, D, taps>(p, work, table, stage, lane);
        const unsigned need = chunk.need & kTapBits;
        if (vector) {
#pragma unroll
          for (int i = 0; i < per_thread; ++i)
            copy_async16(to + slot * stage_bytes + i * step * 128, x + (from[i] + chunk.offset),
                         (inside[i] & need) == need);
        } else {
#pragma unroll 1
          for (int i = 0; i < per_thread; ++i) {
            const GemmPixel pixel = pixel_of_row<T, D>(p, work.first_row + first + i * step);
            const S* row = place_of(x, p, pixel) + first_channel_of(work, lane) * p.in[3];
            gather_chunk(to + slot * stage_bytes + i * step * 128, row + chunk.offset, p.in[3],
                         (pixel.inside & need) == need ? static_cast<int>(chunk.need >> 24) : 0);
          }
        }
        commit_copies();
        advance();
        if (++loaded > ahead) {
          wait_for_copies<ahead>();
          rows_are_there(to, arrived);
        }
      }
    }
    wait_for_copies<0>();
    for (int left = min(loaded, ahead); left > 0; --left) rows_are_there(to, arrived);
  }
  // What stage_chunk leaves out.
  __device__ __forceinline__ static int first_channel_of(const GemmWork& work, int lane) {
    return work.group_channel + (taps ? 0 : work.first_channel + lane * T::chunk);
  }
  __device__ __forceinline__ void rows_are_there(unsigned to, int& arrived) const {
    prepare_chunks<S, per_thread, 4>([&](int i) { return to + arrived * stage_bytes + i * step * 128; });
    show_to_tensor_cores();
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(full + arrived * 8);
    arrived = arrived + 1 == stages ? 0 : arrived + 1;
  }

  // ---- the warpgroups that multiply

  // Teams multiply one after the other: one that ran ahead would take an earlier filling of a stage for its own, since
  // barriers tell only odd phases from even ones.
  __device__ __forceinline__ static void wait_for_turn(int team) {
    asm volatile("bar.sync %0, %1;" ::"r"(1 + team), "n"(multipliers) : "memory");
  }
  __device__ __forceinline__ static void pass_turn_to(int team) {
    asm volatile("bar.arrive %0, %1;" ::"r"(1 + team), "n"(multipliers) : "memory");
  }

  // This warp has read the stage at `place`.
  __device__ __forceinline__ void leave(int place) const {
    if (threadIdx.x % 32 == 0) arrive(empty + place * 8);
  }

  template <class Multiply, int width, class Params, class E>
  __device__ __forceinline__ void multiply(const Params& p, const E& elements) {
    const int team = threadIdx.x / T::threads;
    const unsigned rows = ring + threadIdx.x % T::threads / 128 * 64 * 128, columns = ring + row_bytes;
    const int count = tiles(p);
    int next_team = 0;
    GemmSummed<T, clustered, width, E> sum;
    if constexpr (clustered) sum.prepare(p, work_of_tile(p, first_tile(p)), place_of_sums());
    wait_for_previous();
    if constexpr (clustered) sum.fetch(p, elements);
    for (int tile = first_tile(p); tile < count; tile += tiles_apart(p)) {
      const int turns = GemmList<T>(p, work_of_tile(p, tile).first_row).count;
      if constexpr (teams > 1) {
        const bool is_mine = next_team == team;
        next_team ^= 1;
        if (!is_mine) {
          advance(turns);
          continue;
        }
        if (tile != first_tile(p)) wait_for_turn(team);
      }
      float acc[T::m_tiles][T::n_tiles][4] = {};
      int before = 0;
#pragma unroll 1
      for (int turn = 0; turn < turns; ++turn) {
        wait_for_phase(full + slot * 8, parity);
        Multiply::begin();
#pragma unroll
        for (int i = 0; i < T::m_tiles; ++i)
          multiply_stage<Multiply>(acc[i], rows + i * 64 * 128 + slot * stage_bytes, columns + slot * stage_bytes);
        Multiply::close();
        Multiply::wait_for_earlier();
        if (turn > 0) leave(before);
        before = slot;
        advance();
      }
      if (teams > 1 && tile + tiles_apart(p) < count) pass_turn_to(next_team);
#pragma unroll
      for (int i = 0; i < T::m_tiles; ++i) Multiply::finish(acc[i]);
      if (!T::skips || turns > 0) leave(before);
      if constexpr (clustered) {
        __syncwarp();
        cluster_barrier();  // All blocks have read the last of their stages, and have made their barriers.
        sum.push(p, work_of_tile(p, tile), place_of_sums(), acc);
        wait_for_phase(place_of_sums().barrier + 8, 0);
        sum.run(p, elements);
      } else {
        GemmWork work = work_of_tile(p, tile);
#pragma unroll
        for (int i = 0; i < T::m_tiles; ++i, work.first_row += 64)
          GemmStreamed<T, width, blocks == 1 && teams == 1, E>::run(p, work, elements, acc[i]);
      }
    }
  }
};

// Blocks: along x, no more than there are tiles; with `clustered`, a cluster for each. Weights are packed by stages.
// Params: see kernels/cuda/implicit_gemm_program.cpp; Multiply: see kernels/cuda/warpgroup_multiply.h.
template <class T, class D, class Pipeline, class Multiply, int width, class Params, class E>
__device__ __forceinline__ void implicit_gemm_pipeline(const typename T::Element* x, const Params& p,
                                                       const E& elements) {
  extern __shared__ __align__(128) unsigned char shared[];
  Pipeline pipeline;
  pipeline.place(shared_address(shared));
  if (threadIdx.x == 0) pipeline.make_barriers(p);
  if constexpr (Pipeline::has_table)
    fill_table<T, D>(p, Pipeline::work_of_tile(p, 0), pipeline.table, p.stage_count * 8);
  __syncthreads();
  if (threadIdx.x >= Pipeline::multipliers) {
    if constexpr (Pipeline::moves_registers) leave_registers<Pipeline::few>();
    pipeline.load(x, p);
    if constexpr (Pipeline::clustered) {
      __syncwarp();
      cluster_barrier();
    }
  } else {
    if constexpr (Pipeline::moves_registers) take_registers<Pipeline::many>();
    pipeline.template multiply<Multiply, width>(p, elements);
  }
}

}  // namespace tw
