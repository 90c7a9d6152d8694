// Attention as in attention.cuh, with products by warpgroups (sm_90a only): the tensor cores read keys and values from
// shared memory themselves, once for 64 queries, where otherwise each of four warps fetches fragments of all of them.
// A matrix lies there in segments of 128 bytes along its rows: [segment][row][8 chunks of 16 bytes]; see warpgroup.cuh.
#pragma once

#include "attention.cuh"

namespace tw {

template <class T, class M, bool causal, bool alike>
struct AttentionWarpOfGroup;

// Elements of 2 bytes. Scores and Values: see kernels/cuda/warpgroup_multiply.h; for `keys` columns with rows from
// shared memory, and for the columns of v with rows from registers.
template <class S, int head_, int value_, int warps_q_, int keys_, int stages_, class Scores_, class Values_>
struct AttentionGroups : AttentionTile<S, head_, value_, warps_q_, 1, keys_, stages_> {
  using Scores = Scores_;
  using Values = Values_;
  using Base = AttentionTile<S, head_, value_, warps_q_, 1, keys_, stages_>;
  static constexpr bool swizzled = true;
  static constexpr int alignment = 1024;
  static constexpr int head_segments = (head_ + 63) / 64, value_segments = (value_ + 63) / 64;
  static constexpr int queries_segment = Base::queries * 128, keys_segment = keys_ * 128;  // Bytes.
  static constexpr int query_bytes = head_segments * queries_segment, values_at = head_segments * keys_segment;
  static constexpr int stage_bytes = (head_segments + value_segments) * keys_segment;
  static_assert(sizeof(S) == 2 && warps_q_ % 4 == 0, "what warpgroups multiply here");
  template <class M, bool causal, bool alike>
  using Warp = AttentionWarpOfGroup<AttentionGroups, M, causal, alike>;
};

// As AttentionWarp; four of these multiply together.
template <class T, class M, bool causal, bool alike>
struct AttentionWarpOfGroup : AttentionWarp<T, M, causal, alike> {
  unsigned queries;  // Where those of this warpgroup lie.

  __device__ __forceinline__ void load_queries(unsigned at) { queries = at + threadIdx.x / 128 * 64 * 128; }

  __device__ __forceinline__ void multiply_keys(unsigned at) {
    this->clear_scores();
    have_all_ready(this->scores);
    T::Scores::begin();
#pragma unroll
    for (int k = 0; k < T::steps; ++k)
      T::Scores::run(this->scores, place_in_shared(queries + k / 4 * T::queries_segment + k % 4 * 32),
                     place_in_shared(at + k / 4 * T::keys_segment + k % 4 * 32));
    T::Scores::close();
    T::Scores::finish(this->scores);
  }

  __device__ __forceinline__ void multiply_values(unsigned at) {
    unsigned weights[T::keys / 16][4];
#pragma unroll
    for (int k = 0; k < T::keys / 16; ++k) this->get_exponentials(k, weights[k]);
    have_all_ready(weights);
    have_all_ready(this->out);
    T::Values::begin();
#pragma unroll
    for (int k = 0; k < T::keys / 16; ++k)
      T::Values::run(this->out, weights[k], place_in_shared(at + k * 16 * 128, T::keys_segment));
    T::Values::close();
    T::Values::finish(this->out);
  }
};

}  // namespace tw
