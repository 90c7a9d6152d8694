// Layer normalisation on the way into a product by warpgroups. The product is taken of x as it is, with weights that
// the norm's have been multiplied into; mean and deviation of each row, gathered from shared memory while the tensor
// cores work, set the sums right: sum (x - mean) w / deviation = (sum x w - mean sum w) / deviation.
#pragma once

#include "implicit_gemm_warpgroups.cuh"

namespace tw {

// `kept`: the normalised x is written too, each block some of the columns of its rows.
template <class T, class D, class Stages, bool kept>
struct GemmNorm {
  using S = typename T::Element;
  static constexpr int bytes = T::rows * 8;  // Of shared memory: mean and 1 / deviation of each row.
  static_assert(D::channels % 64 == 0 && T::threads == 2 * T::rows, "two threads for a row without a rest");

  S* normed = nullptr;  // [rows, channels]
  float column_sums[2 * T::n_tiles];
  unsigned states, line;  // Shared addresses: of the states, and of this thread's row in the first stage.
  // Of this thread's half of the row, relative to the row's first number; two of each to be added up in parallel.
  float shift = 0, sum[2] = {0, 0}, squares[2] = {0, 0};

  __device__ __forceinline__ static int row() { return threadIdx.x / 2; }
  // The place of a chunk in rows like `r`.
  __device__ __forceinline__ static int place(int r, int chunk) { return (chunk ^ r % 8) * 16; }
  __device__ __forceinline__ static void read_chunk(unsigned at, float (&v)[8]) {
    unsigned words[4];
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(at));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[2 * i] = widen(S{static_cast<unsigned short>(words[i])});
      v[2 * i + 1] = widen(S{static_cast<unsigned short>(words[i] >> 16)});
    }
  }

  template <class Params>
  __device__ __forceinline__ void prepare(const Params& p, const GemmWork& work, unsigned states_at,
                                          const Stages& stages) {
    states = states_at;
    line = stages.rows + row() * 128;
    const float* from = p.column_sums + work.first_column + threadIdx.x % 4 * T::run;
#pragma unroll
    for (int j = 0; j < T::n_tiles; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        column_sums[2 * j + e] = __ldg(from + j / T::group * 8 * T::group + j % T::group * 2 + e);
        have_ready(column_sums[2 * j + e]);
      }
    }
  }

  template <int part>
  __device__ __forceinline__ void take() {
    const int half = threadIdx.x % 2 * 4;
    if constexpr (part == 0) {
      float first[8];
      read_chunk(line + place(row(), 0), first);
      shift = first[0];
    }
#pragma unroll
    for (int s = 0; s < Stages::stages_of(part); ++s) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        float v[8];
        read_chunk(line + (part * Stages::together + s) * Stages::row_bytes + place(row(), half + c), v);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float distance = v[i] - shift;
          sum[i % 2] += distance;
          squares[i % 2] += distance * distance;
        }
      }
    }
  }

  template <class Params>
  __device__ __forceinline__ void finish(const Params& p, const GemmWork& work, const Stages& stages,
                                         float (&sums)[T::n_tiles][4]) {
    float all = sum[0] + sum[1], all_squares = squares[0] + squares[1];
    all += __shfl_xor_sync(~0u, all, 1);
    all_squares += __shfl_xor_sync(~0u, all_squares, 1);
    constexpr float share = 1.f / D::channels;
    const float distance = all * share, variance = ::fmaxf(all_squares * share - distance * distance, 0.f);
    if (threadIdx.x % 2 == 0)
      asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(states + row() * 8), "f"(shift + distance),
                   "f"(::rsqrtf(variance + p.eps))
                   : "memory");
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float mean, scale;
      read_state(T::warp_m() * 16 + threadIdx.x % 32 / 4 + r * 8, mean, scale);
#pragma unroll
      for (int j = 0; j < T::n_tiles; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) sums[j][2 * r + e] = (sums[j][2 * r + e] - mean * column_sums[2 * j + e]) * scale;
      }
    }
    if constexpr (kept) keep(p, work, stages);
  }
  __device__ __forceinline__ void read_state(int r, float& mean, float& scale) const {
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(mean), "=f"(scale) : "r"(states + r * 8));
  }

  template <class Params>
  __device__ __forceinline__ void keep(const Params& p, const GemmWork& work, const Stages& stages) const {
    constexpr int chunks = D::channels / 8;
    const int first = static_cast<int>(blockIdx.y) * chunks / static_cast<int>(gridDim.y);
    const int count = static_cast<int>(blockIdx.y + 1) * chunks / static_cast<int>(gridDim.y) - first;
    const bool aligned = is_aligned<8>(normed);
#pragma unroll 1
    for (int item = threadIdx.x; item < count * T::rows; item += T::threads) {
      const int r = item % T::rows, c = first + item / T::rows, m = work.first_row + r;
      if (m >= p.rows) continue;
      float mean, scale, v[8], weight[8], bias[8];
      read_state(r, mean, scale);
      read_chunk(stages.rows + c / 8 * Stages::row_bytes + r * 128 + place(r, c % 8), v);
      read<8>(p.norm_weight + c * 8, true, weight);
      read<8>(p.norm_bias + c * 8, true, bias);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = (v[i] - mean) * scale * weight[i] + bias[i];
      write<8>(normed + (m * D::channels + c * 8), aligned, v);
    }
  }
};

}  // namespace tw
