// Layer normalisation on the way into a product by warpgroups. The product is taken of x as it is, with weights that
// the norm's have been multiplied into; mean and deviation of each row set the sums right:
// sum (x - mean) w / deviation = (sum x w - mean sum w) / deviation. The kernel that wrote x has left moments of parts
// of its rows (write_moments in implicit_gemm_results.cuh), which are joined while the tensor cores work, by the
// formula of Chan, Golub and LeVeque (1979) for parts of equal size. The mean square, by which RMS normalisation
// divides, is the variance and the square of the mean.
#pragma once

#include "implicit_gemm_warpgroups.cuh"

namespace tw {

// `centred`: means are subtracted. `kept`: the normalised x is written too, each block some of the columns of its rows.
template <class T, class D, class Stages, int parts, bool centred, bool kept>
struct GemmNorm {
  using S = typename T::Element;
  static constexpr int bytes = T::rows * 8;  // Of shared memory: mean and 1 / deviation of each row.
  static constexpr int pairs = T::threads / 2, turns = (T::rows + pairs - 1) / pairs;
  static constexpr int own = (parts + 1) / 2, step = T::threads / T::rows;
  static_assert(D::channels % 64 == 0 && (!kept || pairs == T::rows), "two threads for a row without a rest");
  static_assert(!Stages::in_turns || !kept, "what is kept is there in the end");
  static_assert(centred || !kept, "an infinite x has no moments");

  const float* moments = nullptr;  // [rows][parts][2]
  S* normed = nullptr;             // [rows, channels]
  float column_sums[2 * T::n_tiles];
  unsigned states;           // Shared address.
  float2 found[turns][own];  // Of every second part of rows that are `pairs` apart.
  // Of what is kept, a thread writes chunks of one row: the first one, how many, and that one's numbers of the norm.
  int first_chunk, chunk_count;
  float weight[8], bias[8];

  __device__ __forceinline__ static int row(int turn) { return static_cast<int>(threadIdx.x) / 2 + turn * pairs; }

  template <class Params>
  __device__ __forceinline__ void prepare(const Params& p, const GemmWork& work, unsigned states_at) {
    states = states_at;
    if constexpr (kept) {
      constexpr int chunks = D::channels / 8;
      const int begin = static_cast<int>(blockIdx.y) * chunks / static_cast<int>(gridDim.y);
      const int end = static_cast<int>(blockIdx.y + 1) * chunks / static_cast<int>(gridDim.y);
      first_chunk = begin + static_cast<int>(threadIdx.x) / T::rows;
      chunk_count = (end - first_chunk + step - 1) / step;
      if (chunk_count > 0) {
        read_norm(p, first_chunk);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          have_ready(weight[i]);
          have_ready(bias[i]);
        }
      }
    }
    if constexpr (!centred) return;
    const float* from = p.column_sums + work.first_column + T::warp_n() * T::n_tiles * 8 + threadIdx.x % 4 * T::run;
#pragma unroll
    for (int j = 0; j < T::n_tiles; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        column_sums[2 * j + e] = __ldg(from + j / T::group * 8 * T::group + j % T::group * 2 + e);
        have_ready(column_sums[2 * j + e]);
      }
    }
  }

  __device__ __forceinline__ static int own_part(int i) { return 2 * i + static_cast<int>(threadIdx.x % 2); }

  // Behind the last row, or part, comes that one again. At once: what is fetched later waits behind all of x.
  template <class Params>
  __device__ __forceinline__ void fetch(const Params& p, const GemmWork& work) {
#pragma unroll
    for (int turn = 0; turn < turns; ++turn) {
      const float* from = moments + ::min(work.first_row + row(turn), p.rows - 1) * (2 * parts);
#pragma unroll
      for (int i = 0; i < own; ++i) {
        asm volatile("ld.global.v2.f32 {%0, %1}, [%2];"
                     : "=f"(found[turn][i].x), "=f"(found[turn][i].y)
                     : "l"(from + 2 * ::min(own_part(i), parts - 1))
                     : "memory");
      }
    }
  }

  // While the first products are under way.
  template <class Params>
  __device__ __forceinline__ void join(const Params& p) {
#pragma unroll
    for (int turn = 0; turn < turns; ++turn) join_row(p, found[turn], row(turn));
    __syncwarp();  // All wait for the tensor cores together.
  }
  template <class Params>
  __device__ __forceinline__ void join_row(const Params& p, const float2 (&found)[own], int row) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < own; ++i) {
      if (own_part(i) < parts) sum += found[i].x;
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    const float mean = sum * (1.f / parts);
    float between = 0, within = 0;
#pragma unroll
    for (int i = 0; i < own; ++i) {
      if (own_part(i) >= parts) continue;
      const float distance = found[i].x - mean;
      between += distance * distance;
      within += found[i].y;
    }
    float variance = between * (1.f / parts) + within * (1.f / D::channels);
    variance += __shfl_xor_sync(~0u, variance, 1);
    if constexpr (!centred) variance += mean * mean;
    if (threadIdx.x % 2 == 0 && (turns * pairs == T::rows || row < T::rows))
      asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(states + row * 8), "f"(mean),
                   "f"(::rsqrtf(variance + p.eps))
                   : "memory");
  }

  template <class Params>
  __device__ __forceinline__ void finish(const Params& p, const GemmWork& work, const Stages& stages,
                                         float (&sums)[T::m_tiles][T::n_tiles][4]) {
    __syncthreads();
#pragma unroll
    for (int r = 0; r < T::m_tiles * 2; ++r) {
      float mean, scale;
      read_state(T::warp_m() * T::m_tiles * 16 + threadIdx.x % 32 / 4 + r * 8, mean, scale);
#pragma unroll
      for (int j = 0; j < T::n_tiles; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& sum = sums[r / 2][j][r % 2 * 2 + e];
          if constexpr (centred) sum -= mean * column_sums[2 * j + e];
          sum *= scale;
        }
      }
    }
    if constexpr (kept) keep(p, work, stages);
  }
  __device__ __forceinline__ void read_state(int r, float& mean, float& scale) const {
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(mean), "=f"(scale) : "r"(states + r * 8));
  }

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
  __device__ __forceinline__ void read_norm(const Params& p, int chunk) {
    read<8>(p.norm_weight + chunk * 8, true, weight);
    read<8>(p.norm_bias + chunk * 8, true, bias);
  }
  template <class Params>
  __device__ __forceinline__ void keep(const Params& p, const GemmWork& work, const Stages& stages) {
    const int r = static_cast<int>(threadIdx.x) % T::rows, m = work.first_row + r;
    if (m >= p.rows) return;
    const bool aligned = is_aligned<8>(normed);
    float mean, scale;
    read_state(r, mean, scale);
#pragma unroll 1
    for (int n = 0; n < chunk_count; ++n) {
      const int c = first_chunk + n * step;
      float v[8];
      read_chunk(stages.rows + c / 8 * Stages::row_bytes + r * 128 + place(r, c % 8), v);
      if (n > 0) read_norm(p, c);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = (v[i] - mean) * scale * weight[i] + bias[i];
      write<8>(normed + (m * D::channels + c * 8), aligned, v);
    }
  }
};

}  // namespace tw
