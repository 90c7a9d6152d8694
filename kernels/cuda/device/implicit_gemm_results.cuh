// Results of implicit_gemm.cuh: sums over warps and blocks, and what follows the product.
#pragma once

#include "implicit_gemm_operands.cuh"

namespace tw {

// V columns of a result row to the elements behind the product, in pieces of `width` or less.
template <int V, int width, class E>
struct GemmFinish {
  static constexpr int piece = V < width ? V : width;
  typename E::template Early<piece> early[V / piece];

  __device__ __forceinline__ void fetch(const E& elements, int m, int n, int columns) {
#pragma unroll
    for (int e = 0; e < V / piece; ++e) {
      if (n + e * piece < columns) elements.fetch(early[e], m, n + e * piece);
    }
  }
  // Leaves the first of the results in v.
  __device__ __forceinline__ void run(const E& elements, float (&v)[V], int m, int n, int columns) const {
#pragma unroll
    for (int e = 0; e < V / piece; ++e) {
      if (n + e * piece >= columns) continue;
      float part[piece];
#pragma unroll
      for (int k = 0; k < piece; ++k) part[k] = v[e * piece + k];
      elements.run(part, early[e], m, n + e * piece);
#pragma unroll
      for (int k = 0; k < piece; ++k) v[e * piece + k] = part[k];
    }
  }
};

// Elements with a place for the moments of the first result's rows, [row][part][2], which the layer norm behind wants
// (implicit_gemm_norm.cuh). A part is what neighbouring lanes have of a row.
template <class E>
struct GemmWithMoments : E {
  float* moments;
};
template <class E>
constexpr bool writes_moments = false;
template <class E>
constexpr bool writes_moments<GemmWithMoments<E>> = true;

// Mean and sum of squared distances from it of the V results, as they are stored in S, of each of `lanes` lanes: of a
// lane's own, then of twice as many each time (Chan, Golub and LeVeque, 1979).
template <class S, int lanes, int V, class E>
__device__ __forceinline__ void write_moments(const E& elements, float (&v)[V], int row, int part, int parts) {
  static_assert(lanes <= 32 && (lanes & (lanes - 1)) == 0, "neighbours in a warp");
  const unsigned group = (lanes == 32 ? ~0u : (1u << lanes % 32) - 1) << threadIdx.x % 32 / lanes * lanes;
  float sum = 0, squares = 0;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    v[i] = widen(narrow<S>(v[i]));
    sum += v[i];
  }
  float mean = sum * (1.f / V);
#pragma unroll
  for (int i = 0; i < V; ++i) squares += (v[i] - mean) * (v[i] - mean);
#pragma unroll
  for (int d = 1; d < lanes; d *= 2) {
    const float distance = __shfl_xor_sync(group, mean, d) - mean;
    squares += __shfl_xor_sync(group, squares, d) + distance * distance * (d * V * 0.5f);
    mean += distance * 0.5f;
  }
  if (threadIdx.x % lanes == 0) reinterpret_cast<float2*>(elements.moments)[row * parts + part] = float2{mean, squares};
}

// The results in `count` rows of a tile that are 8 apart.
template <class T, int count>
struct GemmLaneResults {
  int row;  // The first.
  int results[T::skips ? count : 1];

  template <class Params>
  __device__ __forceinline__ void prepare(const Params& p, int first_row) {
    row = first_row;
    have_ready(row);
    if constexpr (T::skips) {
#pragma unroll
      for (int i = 0; i < count; ++i) {
        results[i] = result_of<T>(p, row + i * 8);
        have_ready(results[i]);
      }
    }
  }
  __device__ __forceinline__ int operator[](int i) const {
    if constexpr (T::skips) {
      return results[i];
    } else {
      return row + i * 8;
    }
  }
};

// Results from the registers of one warp: nothing has to be added up.
template <class T, int width, class E>
struct GemmDirect {
  static constexpr int runs = T::n_tiles / T::group;
  float bias[T::n_tiles * 2];
  GemmFinish<T::run, width, E> finish[T::m_tiles * 2][runs];
  GemmLaneResults<T, T::m_tiles * 2> results;
  int column, end_column;

  template <class Params>
  __device__ __forceinline__ void prepare(const Params& p, const GemmWork& work) {
    const int lane = threadIdx.x % 32;
    results.prepare(p, work.first_row + T::warp_m() * T::m_tiles * 16 + lane / 4);
    const int within = T::warp_n() * T::n_tiles * 8 + lane % 4 * T::run;
    column = work.first_column + within;
    end_column = work.end_column;
    have_ready(column);
#pragma unroll
    for (int r = 0; r < runs; ++r) {
#pragma unroll
      for (int e = 0; e < T::run; ++e) {
        bias[r * T::run + e] = __ldg(p.bias + work.column_tile * T::columns + within + r * 8 * T::group + e);
        have_ready(bias[r * T::run + e]);
      }
    }
  }
  template <class Params>
  __device__ __forceinline__ void fetch(const Params& p, const E& elements) {
#pragma unroll
    for (int i = 0; i < T::m_tiles * 2; ++i) {
#pragma unroll
      for (int r = 0; r < runs; ++r) {
        if (results.row + i * 8 < p.rows)
          finish[i][r].fetch(elements, results[i], column + r * 8 * T::group, end_column);
      }
    }
  }
  template <class Params>
  __device__ __forceinline__ void run(const Params& p, const E& elements, float (&acc)[T::m_tiles][T::n_tiles][4]) {
#pragma unroll
    for (int i = 0; i < T::m_tiles * 2; ++i) {
      const bool is_row = results.row + i * 8 < p.rows;
      float all[T::n_tiles * 2];
#pragma unroll
      for (int r = 0; r < runs; ++r) {
        float v[T::run];
#pragma unroll
        for (int e = 0; e < T::run; ++e)
          v[e] = acc[i / 2][r * T::group + e / 2][i % 2 * 2 + e % 2] + bias[r * T::run + e];
        if (is_row) finish[i][r].run(elements, v, results[i], column + r * 8 * T::group, end_column);
#pragma unroll
        for (int e = 0; e < T::run; ++e) all[r * T::run + e] = v[e];
      }
      if constexpr (writes_moments<E>) {
        const int part = static_cast<int>(blockIdx.y) * T::warps_n + T::warp_n();
        const int parts = static_cast<int>(gridDim.y) * T::warps_n;
        if (is_row) write_moments<typename T::Element, 4>(elements, all, results[i], part, parts);
      }
    }
  }
};

// The same for many results, with no more than one run of columns beside them, or two: the next one's on its way.
template <class T, int width, bool ahead, class E>
struct GemmStreamed {
  static constexpr int runs = T::n_tiles / T::group;
  struct Run {
    float bias[T::run];
    GemmFinish<T::run, width, E> finish[2];
  };

  template <class Params>
  __device__ __forceinline__ static void run(const Params& p, const GemmWork& work, const E& elements,
                                             const float (&acc)[T::n_tiles][4]) {
    const int lane = threadIdx.x % 32;
    const int row = work.first_row + T::warp_m() * 16 + lane / 4;
    const int column = work.first_column + lane % 4 * T::run;
    const int packed = work.column_tile * T::columns + lane % 4 * T::run;
    GemmLaneResults<T, 2> results;
    results.prepare(p, row);
    auto fetch = [&](Run& next, int r) {
#pragma unroll
      for (int e = 0; e < T::run; ++e) next.bias[e] = __ldg(p.bias + packed + r * 8 * T::group + e);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (row + i * 8 < p.rows)
          next.finish[i].fetch(elements, results[i], column + r * 8 * T::group, work.end_column);
      }
    };
    Run two[ahead ? 2 : 1];
    if (ahead) fetch(two[0], 0);
#pragma unroll
    for (int r = 0; r < runs; ++r) {
      const int next = ahead ? r + 1 : r;
      if (next < runs) fetch(two[ahead ? next % 2 : 0], next);
      const Run& run = two[ahead ? r % 2 : 0];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float v[T::run];
#pragma unroll
        for (int e = 0; e < T::run; ++e) v[e] = acc[r * T::group + e / 2][i * 2 + e % 2] + run.bias[e];
        if (row + i * 8 < p.rows)
          run.finish[i].run(elements, v, results[i], column + r * 8 * T::group, work.end_column);
      }
    }
  }
};

// The sums' barrier waits for those of this block's rows. By one thread.
template <class T, class Params>
__device__ __forceinline__ void expect_sums(const Params& p, const GemmWork& work, const GemmShared& at) {
  const int own = T::rows / p.splits;
  const int rows = min(max(p.rows - work.first_row - work.rank * own, 0), own);
  expect_bytes(at.barrier + 8, rows * T::columns * 4 * T::warps_k * p.splits);
}

// Results that warps (and, with `clustered`, blocks) have added up parts of: the parts meet in shared memory, those of
// T::rows / splits rows in each block.
template <class T, bool clustered, int width, class E>
struct GemmSummed {
  static constexpr int items_per_row = T::columns / 4;
  static constexpr int row_step = T::threads / items_per_row;  // Between the rows of one thread's items.
  float bias[4];
  GemmFinish<4, width, E> finish;
  int own_rows, inverse;  // That divides a row of the tile by own_rows.
  int line, m, n;         // This thread's first item.
  int end_column;
  unsigned part;  // Where its first part will be.
  unsigned slot;  // Where this lane's sums go, in row 0 of its warp's slot.
  int lines;      // This lane's first row.

  template <class Params>
  __device__ __forceinline__ void prepare(const Params& p, const GemmWork& work, const GemmShared& at) {
    own_rows = clustered ? T::rows / p.splits : T::rows;
    inverse = (65536 + own_rows - 1) / own_rows;
    line = static_cast<int>(threadIdx.x) / items_per_row;
    m = work.first_row + work.rank * own_rows + line;
    const int c = static_cast<int>(threadIdx.x) % items_per_row * 4;
    n = work.first_column + c;
    end_column = work.end_column;
    part = at.slots + (line * T::slot_pitch + c) * 4;
    const int lane = threadIdx.x % 32;
    slot = at.slots + ((work.rank * T::warps_k + T::warp_k()) * own_rows * T::slot_pitch +
                       T::warp_n() * T::n_tiles * 8 + lane % 4 * T::run) *
                          4;
    lines = T::warp_m() * T::m_tiles * 16 + lane / 4;
    const float4 four = __ldg(reinterpret_cast<const float4*>(p.bias + work.column_tile * T::columns + c));
    bias[0] = four.x, bias[1] = four.y, bias[2] = four.z, bias[3] = four.w;
#pragma unroll
    for (int e = 0; e < 4; ++e) have_ready(bias[e]);
    have_ready(line);
    have_ready(m);
    have_ready(n);
    have_ready(part);
    have_ready(slot);
    have_ready(lines);
  }
  template <class Params>
  __device__ __forceinline__ void fetch(const Params& p, const E& elements) {
    if (line < own_rows && m < p.rows) finish.fetch(elements, result_of<T>(p, m), n, end_column);
  }

  // Each warp's part into its slot of the block that finishes the row.
  template <class Params>
  __device__ __forceinline__ void push(const Params& p, const GemmWork& work, const GemmShared& at,
                                       const float (&acc)[T::m_tiles][T::n_tiles][4]) const {
#pragma unroll
    for (int i = 0; i < T::m_tiles * 2; ++i) {
      const int r = lines + i * 8;
      if (work.first_row + r >= p.rows) continue;
      const int owner = clustered ? r * inverse >> 16 : 0;
      unsigned to = slot + (r - owner * own_rows) * T::slot_pitch * 4, barrier = 0;
      if constexpr (clustered) {
        to = peer_address(to, owner);
        barrier = peer_address(at.barrier + 8, owner);
      }
#pragma unroll
      for (int run = 0; run < T::n_tiles / T::group; ++run)
        push_run(acc[i / 2], run, i % 2 * 2, to + run * 32 * T::group, barrier);
    }
  }
  __device__ __forceinline__ static void push_run(const float (&acc)[T::n_tiles][4], int run, int half, unsigned to,
                                                  unsigned barrier) {
    if constexpr (T::group == 1) {
      const float a = acc[run][half], b = acc[run][half + 1];
      if constexpr (clustered) {
        store_async(to, a, b, barrier);
      } else {
        asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(a), "f"(b) : "memory");
      }
    } else {
#pragma unroll
      for (int j = 0; j < T::group; j += 2) {
        const float a = acc[run * T::group + j][half], b = acc[run * T::group + j][half + 1];
        const float c = acc[run * T::group + j + 1][half], d = acc[run * T::group + j + 1][half + 1];
        if constexpr (clustered) {
          store_async(to + j * 8, a, b, c, d, barrier);
        } else {
          asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to + j * 8), "f"(a), "f"(b), "f"(c), "f"(d)
                       : "memory");
        }
      }
    }
  }

  template <class Params>
  __device__ __forceinline__ void run(const Params& p, const E& elements) {
    static_assert(row_step * items_per_row == T::threads, "all items of a thread are in the same columns");
    const int parts = clustered ? p.splits * T::warps_k : T::warps_k;
    const unsigned part_bytes = own_rows * T::slot_pitch * 4;
    for (int ahead = 0; line + ahead < own_rows && m + ahead < p.rows; ahead += row_step) {
      const int result = result_of<T>(p, m + ahead);
      if (ahead > 0) finish.fetch(elements, result, n, end_column);
      float v[4] = {bias[0], bias[1], bias[2], bias[3]};
      unsigned from = part + ahead * T::slot_pitch * 4;
#pragma unroll(clustered ? 4 : T::warps_k)
      for (int q = 0; q < parts; ++q) {
        float a, b, c, d;
        asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(a), "=f"(b), "=f"(c), "=f"(d) : "r"(from));
        v[0] += a, v[1] += b, v[2] += c, v[3] += d;
        from += part_bytes;
      }
      finish.run(elements, v, result, n, end_column);
      if constexpr (writes_moments<E>)
        write_moments<typename T::Element, items_per_row>(elements, v, result, blockIdx.y, gridDim.y);
    }
  }
};

}  // namespace tw
