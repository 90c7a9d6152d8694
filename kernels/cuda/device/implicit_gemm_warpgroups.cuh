// Convolutions and linear layers as matrix products by warpgroups (sm_90a only), for few results. As in
// implicit_gemm.cuh a block keeps everything it multiplies in shared memory, but it starts when the first part of k is
// there. Where not all fits, later stages take the places of earlier ones.
//
// k lies in stages of 128 bytes: of x [stage][row][8 chunks of 16 bytes], then of the weights [stage][column][8
// chunks]; chunk c of row r has place c ^ r % 8, as the instruction expects it ("128-byte swizzle"). Some stages
// together arrive as one part.
//
// The instruction multiplies 64 rows by any multiple of 8 columns. Where tiles of 64 rows of x would be mostly empty,
// operands are swapped: the weights' columns are the instruction's rows.
#pragma once

#include "implicit_gemm.cuh"
#include "warpgroup.cuh"

namespace tw {

// Rounds what this thread has brought to what multiply_add takes: the tensor cores read it as it lies in shared memory.
// `place(i)`: the address of chunk i of `count`; `together`: how many are in registers at a time.
template <class S, int count, int together, class Place>
__device__ __forceinline__ void prepare_chunks(const Place& place) {
  static_assert(count % together == 0, "whole groups");
  if constexpr (same<S, float>) {
#pragma unroll
    for (int first = 0; first < count; first += together) {
      unsigned words[together][4];
#pragma unroll
      for (int i = 0; i < together; ++i)
        asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(words[i][0]), "=r"(words[i][1]), "=r"(words[i][2]), "=r"(words[i][3])
                     : "r"(place(first + i)));
#pragma unroll
      for (int i = 0; i < together; ++i) {
        prepare_words<S>(words[i]);
        asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(place(first + i)), "r"(words[i][0]),
                     "r"(words[i][1]), "r"(words[i][2]), "r"(words[i][3])
                     : "memory");
      }
    }
  }
}

// The products of swapped operands, of 16 columns of weights and all rows of x, as those of rows and columns: every
// square of 8 x 8 is transposed in two exchanges. Lane 4 i + j has numbers 2 j and 2 j + 1 of its row i, and takes
// those of its column i. Lanes of odd i give and take their second number first, so that nobody is asked for two at a
// time.
template <int m_tiles>
__device__ __forceinline__ void swap_back(const float (&sums)[2 * m_tiles][4], float (&acc)[m_tiles][2][4]) {
  const int lane = threadIdx.x % 32, from = lane % 4 * 8 + lane / 8;  // Who has the first number to be taken.
  const bool odd = lane / 4 % 2 == 1;
#pragma unroll
  for (int i = 0; i < 2 * m_tiles; ++i) {
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const float* given = sums[i] + 2 * t;
      float* taken = acc[i / 2][t] + i % 2 * 2;
      const float one = __shfl_sync(~0u, odd ? given[1] : given[0], odd ? from + 4 : from);
      const float other = __shfl_sync(~0u, odd ? given[0] : given[1], odd ? from : from + 4);
      taken[0] = odd ? other : one;
      taken[1] = odd ? one : other;
    }
  }
}

// Adds the products of a stage: the 64 rows and all columns that start at these addresses.
template <class Multiply, class Sums>
__device__ __forceinline__ void multiply_stage(Sums& sums, unsigned rows, unsigned columns) {
#pragma unroll
  for (int k = 0; k < 4; ++k) Multiply::run(sums, place_in_shared(rows + k * 32), place_in_shared(columns + k * 32));
}

// Chunk `lane` of 8 in a stage of k. `taps` false: a window of 1 x 1 without padding, without a table; its offset
// leaves out the lane's.
template <class T, class D, bool taps, class Params>
__device__ __forceinline__ GemmChunk stage_chunk(const Params& p, const GemmWork& work, unsigned table, int stage,
                                                 int lane) {
  const int q = stage * 8 + lane;
  if constexpr (taps) return read_table(table, q);
  const int channel = work.first_channel + q * T::chunk;
  const unsigned count = min(T::chunk, D::channels - channel);
  return {stage * 8 * T::chunk * p.in[3], q < work.present ? 1u | 1u << 12 | count << 24 : kNeverThere};
}

// `taps`: see stage_chunk. T: 16 rows to a warp, all columns to each; or 16 columns and all rows, for swapped operands.
// `together` stages arrive as a part. `kept` parts are in shared memory at a time: all, or stages that come in turns.
template <class T, class D, bool taps, int stages_, int together_, int kept_>
struct GemmStages {
  using S = typename T::Element;
  static constexpr int stages = stages_, together = together_, parts = (stages + together - 1) / together;
  static constexpr int kept = kept_;
  static constexpr bool in_turns = kept < parts;
  static constexpr int places = in_turns ? kept : stages;  // Of stages.
  // Parts of x that are asked for before the first product. In turns, one place is multiplied, one read to its end.
  static constexpr int ahead = in_turns ? kept - 2 : parts;
  static constexpr int row_bytes = 128 * T::rows, column_bytes = 128 * T::columns;  // Of a stage.
  static constexpr int step = T::threads / 8, per_thread = T::rows / step;
  static constexpr int header = 256, alignment = 1024, table_bytes = taps ? stages * 64 : 0;
  static constexpr bool swapped = T::warps_n > 1;
  using Sums = float[swapped ? 2 * T::m_tiles : T::n_tiles][4];  // As the instruction leaves them.
  static_assert(T::warps_k == 1 && T::threads % 128 == 0, "whole warpgroups");
  static_assert(swapped ? T::warps_m == 1 && T::n_tiles == 2 : T::m_tiles == 1, "16 rows or columns to a warp");
  static_assert(T::rows % step == 0, "threads that all bring as much");
  static_assert(64 + kept * 8 <= header && step % 8 == 0, "parts that fit");
  static_assert(!in_turns || (together == 1 && kept >= 3), "single stages, of which one is on its way");
  static_assert(!T::skips || (in_turns && taps), "stages that are not needed are left out of those that come in turns");

  const S* x;
  const S* second;  // Null where D has no second tensor; to be set first.
  const S* from[per_thread];
  const S* other[D::two ? per_thread : 1];
  unsigned inside[per_thread];
  unsigned rows, weights, table, barriers;
  unsigned to;
  GemmList<T> list;  // Of stages: where some are left out, stage i below is the list's.
  bool vector;

  template <class Params>
  __device__ __forceinline__ GemmStages(const Params& p, const GemmWork& work) : list(p, work.first_row) {}

  // How many stages there are.
  __device__ __forceinline__ int count() const {
    if constexpr (T::skips) {
      return list.count;
    } else {
      return stages;
    }
  }
  __device__ __forceinline__ static constexpr int stages_of(int part) {
    return part + 1 < parts ? together : stages - part * together;
  }

  // Whether this thread's chunk of a stage is one of the second tensor's.
  __device__ __forceinline__ static bool is_second(const GemmWork& work, int stage) {
    return work.first_channel + (stage * 8 + static_cast<int>(threadIdx.x) % 8) * T::chunk >= D::first;
  }

  // By one thread, after the barriers were made.
  template <class Params>
  __device__ __forceinline__ void start_weights(const Params& p, const GemmWork& work, int part) const {
    const char* source =
        static_cast<const char*>(p.weights) +
        static_cast<long long>(static_cast<int>(blockIdx.y) * p.splits + work.rank) * (stages * column_bytes);
    const int stage = part * together, bytes = stages_of(part) * column_bytes;
    const unsigned barrier = barriers + part % kept * 8;
    expect_bytes(barrier, bytes);
    copy_bulk(weights + stage % places * column_bytes, source + list.stage(stage) * column_bytes, bytes, barrier);
  }

  template <class Params>
  __device__ __forceinline__ void prepare(const S* data, const Params& p, const GemmWork& work) {
    x = data;
    vector = p.vector_reads && is_aligned<T::chunk>(x) && is_aligned<T::chunk>(second);
    if constexpr (T::skips) {
      fill_table<T, D, 8>(p, work, table, list);
    } else if constexpr (taps) {
      fill_table<T, D>(p, work, table, stages * 8);
    }
    const int lane = threadIdx.x % 8, first = static_cast<int>(threadIdx.x) / 8;
#pragma unroll
    for (int i = 0; i < per_thread; ++i) {
      const GemmPixel pixel = pixel_of_row<T, D>(p, work.first_row + first + i * step);
      inside[i] = pixel.inside;
      from[i] = place_of(x, p, pixel);
      if constexpr (!taps) from[i] += (work.first_channel + lane * T::chunk) * p.in[3];
      have_ready(from[i]);
      if constexpr (D::two) {
        other[i] = second_chunk_of<T, D>(second, p, work, work.first_row + first + i * step, lane);
        have_ready(other[i]);
      }
      have_ready(inside[i]);
    }
    to = rows + first * 128 + (lane ^ first % 8) * 16;
    have_ready(to);
  }

  template <class Params>
  __device__ __forceinline__ void load_stage(const Params& p, const GemmWork& work, int stage) const {
    const GemmChunk chunk = stage_chunk<T, D, taps>(p, work, table, stage, static_cast<int>(threadIdx.x) % 8);
    const unsigned need = chunk.need & kTapBits;
#pragma unroll
    for (int i = 0; i < per_thread; ++i) {
      const S* source = from[i];
      if constexpr (D::two) {
        if (is_second(work, stage)) source = other[i];
      }
      copy_async16(to + stage % places * row_bytes + i * step * 128, source + chunk.offset, (inside[i] & need) == need);
    }
  }
  template <class Params>
  __device__ __forceinline__ void load_rows(const Params& p, const GemmWork& work, int part) const {
#pragma unroll
    for (int s = 0; s < stages_of(part); ++s) load_stage(p, work, part * together + s);
  }
  template <class Params>
  __device__ __forceinline__ void gather_rows(const Params& p, const GemmWork& work, int first_stage, int end) const {
    const int lane = threadIdx.x % 8, first = static_cast<int>(threadIdx.x) / 8;
#pragma unroll 1
    for (int i = 0; i < per_thread; ++i) {
      const GemmPixel pixel = pixel_of_row<T, D>(p, work.first_row + first + i * step);
      const S* row = place_of(x, p, pixel);
      if constexpr (!taps) row += (work.first_channel + lane * T::chunk) * p.in[3];
      const S* second_row = second_chunk_of<T, D>(second, p, work, work.first_row + first + i * step, lane);
#pragma unroll 1
      for (int stage = first_stage; stage < end; ++stage) {
        const GemmChunk chunk = stage_chunk<T, D, taps>(p, work, table, stage, static_cast<int>(threadIdx.x) % 8);
        const unsigned need = chunk.need & kTapBits;
        const S* source = D::two && is_second(work, stage) ? second_row : row;
        gather_chunk(to + stage % places * row_bytes + i * step * 128, source + chunk.offset, p.in[3],
                     (pixel.inside & need) == need ? static_cast<int>(chunk.need >> 24) : 0);
      }
    }
  }

  // What lies in `count` stages from `first` on is there for the tensor cores, after the next barrier.
  template <int count>
  __device__ __forceinline__ void show(int first) const {
    prepare_chunks<S, count * per_thread, per_thread>(
        [&](int i) { return to + (first + i / per_thread) % places * row_bytes + i % per_thread * step * 128; });
    show_to_tensor_cores();
  }
  template <class Multiply>
  __device__ __forceinline__ void add_stage(Sums& sums, int stage) const {
    const unsigned own = threadIdx.x / 128 * 64 * 128;
    const unsigned x = rows + stage % places * row_bytes, w = weights + stage % places * column_bytes;
    if constexpr (swapped) {
      multiply_stage<Multiply>(sums, w + own, x);
    } else {
      multiply_stage<Multiply>(sums, x + own, w);
    }
  }

  template <class Multiply, int part = 0, class Params, class Norm>
  __device__ __forceinline__ void multiply(const Params& p, Sums& sums, Norm& norm) const {
    wait_for_copies<parts - 1 - part>();
    show<stages_of(part)>(part * together);
    wait_for_phase(barriers + part * 8, 0);
    __syncthreads();
    Multiply::begin();
#pragma unroll
    for (int s = 0; s < stages_of(part); ++s) add_stage<Multiply>(sums, part * together + s);
    Multiply::close();
    if constexpr (part == 0) norm.join(p);
    if constexpr (part + 1 < parts) multiply<Multiply, part + 1>(p, sums, norm);
  }

  template <class Multiply, class Params, class Norm>
  __device__ __forceinline__ void multiply_in_turns(const Params& p, const GemmWork& work, Sums& sums,
                                                    Norm& norm) const {
#pragma unroll 1
    for (int stage = 0; stage < count(); ++stage) {
      wait_for_copies<ahead - 1>();
      show<1>(stage);
      wait_for_phase(barriers + stage % places * 8, stage / places % 2);
      __syncthreads();  // And all have read the stage before the last one, whose place is filled next.
      Multiply::begin();
      add_stage<Multiply>(sums, stage);
      Multiply::close();
      const int next = stage + ahead;
      if (next < count()) {
        if (threadIdx.x == 0 && next >= kept) start_weights(p, work, next);
        if (vector) {
          load_stage(p, work, next);
        } else {
          gather_rows(p, work, next, next + 1);
        }
      }
      commit_copies();
      if (stage == 0) norm.join(p);
      __syncwarp();
      Multiply::wait_for_earlier();
    }
  }
};

// x is multiplied as it is; see implicit_gemm_norm.cuh for something else.
struct GemmAsItIs {
  static constexpr int bytes = 0;
  template <class Params>
  __device__ __forceinline__ void prepare(const Params&, const GemmWork&, unsigned) {}
  template <class Params>
  __device__ __forceinline__ void fetch(const Params&, const GemmWork&) {}
  template <class Params>
  __device__ __forceinline__ void join(const Params&) {}
  template <class Params, class Stages, class Results>
  __device__ __forceinline__ void finish(const Params&, const GemmWork&, const Stages&, Results&) {}
};

// Blocks, Params and `second` as in implicit_gemm.cuh, the weights packed by stages. Multiply: see
// kernels/cuda/warpgroup_multiply.h.
template <class T, class D, class Stages, class Multiply, bool clustered, int width, class Params, class E, class Norm>
__device__ __forceinline__ void implicit_gemm_warpgroups(const typename T::Element* x, const Params& p,
                                                         const E& elements, Norm norm,
                                                         const typename T::Element* second = nullptr) {
  extern __shared__ __align__(128) unsigned char shared[];
  const GemmWork work = work_of<T, D, clustered>(p);
  x += work.group_channel * p.in[3];
  GemmShared at;
  Stages stages(p, work);
  at.barrier = shared_address(shared);
  stages.barriers = at.barrier + 64;
  stages.rows = (at.barrier + Stages::header + Stages::alignment - 1) / Stages::alignment * Stages::alignment;
  stages.weights = stages.rows + Stages::places * Stages::row_bytes;
  stages.table = stages.weights + Stages::places * Stages::column_bytes;
  const unsigned states = stages.table + Stages::table_bytes;
  at.slots = states + Norm::bytes;
  if (threadIdx.x == 0) {
#pragma unroll
    for (int part = 0; part < Stages::kept; ++part) init_barrier(stages.barriers + part * 8, 1);
  }
  start_barriers<T, clustered>(p, work, at);
  if (threadIdx.x == 0) {
#pragma unroll
    for (int part = 0; part < Stages::kept; ++part) {
      if (part < stages.count()) stages.start_weights(p, work, part);
    }
  }
  stages.second = second;
  stages.prepare(x, p, work);
  norm.prepare(p, work, states);
  GemmSummed<T, clustered, width, E> sum;
  GemmDirect<T, width, E> direct;
  if constexpr (clustered) {
    sum.prepare(p, work, at);
  } else {
    direct.prepare(p, work);
  }
  __syncthreads();
  if constexpr (clustered) cluster_arrive();

  // Always true; as a branch, it keeps the compiler from moving what was computed above behind the wait.
  if (p.rows > 0) {
    wait_for_previous();
    norm.fetch(p, work);
  }
  if (!stages.vector)
    stages.gather_rows(p, work, 0, min(Stages::in_turns ? Stages::ahead : Stages::stages, stages.count()));
#pragma unroll
  for (int part = 0; part < Stages::ahead; ++part) {
    if (stages.vector && part < stages.count()) stages.load_rows(p, work, part);
    commit_copies();
  }
  if constexpr (clustered) {
    sum.fetch(p, elements);
  } else {
    direct.fetch(p, elements);
  }
  typename Stages::Sums sums = {};
  if constexpr (Stages::in_turns) {
    stages.template multiply_in_turns<Multiply>(p, work, sums, norm);
  } else {
    stages.template multiply<Multiply>(p, sums, norm);
  }
  Multiply::finish(sums);
  float acc[T::m_tiles][T::n_tiles][4];
  if constexpr (Stages::swapped) {
    swap_back(sums, acc);
  } else {
#pragma unroll
    for (int i = 0; i < T::n_tiles * 4; ++i) acc[0][i / 4][i % 4] = sums[i / 4][i % 4];
  }
  norm.finish(p, work, stages, acc);
  if constexpr (clustered) {
    cluster_wait();
    sum.push(p, work, at, acc);
    wait_for_phase(at.barrier + 8, 0);
    sum.run(p, elements);
  } else {
    direct.run(p, elements, acc);
  }
}

}  // namespace tw
