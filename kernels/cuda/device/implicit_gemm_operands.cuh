// What a block of implicit_gemm.cuh and its kin computes: its tile of results, its part of k, where x lies for both,
// and products of fragments.
#pragma once

#include "async_copy.cuh"
#include "index.cuh"
#include "mma.cuh"
#include "staged.cuh"

namespace tw {

// How a block's tile of results is computed: rows x columns, by warps_m x warps_n warps, each warps_k times for every
// warps_k-th step of k. `lanes` threads read one row of x together. `skips`: a tile's rows are results that need nearly
// the same taps of the window, and stages of k are left out that none of them needs; see result_of and GemmList.
template <class S, int rows_, int columns_, int warps_m_, int warps_n_, int warps_k_, int lanes_, bool skips_ = false>
struct GemmTile {
  using Element = S;
  static constexpr bool skips = skips_;
  static constexpr int rows = rows_, columns = columns_, lanes = lanes_;
  static constexpr int warps_m = warps_m_, warps_n = warps_n_, warps_k = warps_k_;
  static constexpr int threads = 32 * warps_m * warps_n * warps_k;
  static constexpr int chunk = 16 / sizeof(S);           // Elements of a chunk.
  static constexpr int m_tiles = rows / warps_m / 16;    // Of 16 rows, per warp.
  static constexpr int n_tiles = columns / warps_n / 8;  // Of 8 columns, per warp.
  static constexpr int n_pairs = (n_tiles + 1) / 2;
  static constexpr int group = n_tiles % 4 == 0 ? 4 : n_tiles % 2 == 0 ? 2 : 1;
  static constexpr int run = 2 * group;           // Neighbouring columns that a lane holds.
  static constexpr int slot_pitch = columns + 4;  // Floats.
  __device__ __forceinline__ static int warp_k() { return threadIdx.x / 32 / (warps_m * warps_n); }
  __device__ __forceinline__ static int warp_m() { return threadIdx.x / 32 / warps_n % warps_m; }
  __device__ __forceinline__ static int warp_n() { return threadIdx.x / 32 % warps_n; }
  static_assert(m_tiles * 16 * warps_m == rows && n_tiles * 8 * warps_n == columns, "a tile that warps cover");
};

// What a block multiplies over: `slice` chunks of the channels for every tap of the window, filled up to `steps` steps
// of two chunks. (For GemmPixels the slice is a row of the window.) `flat`: every result needs one pixel, and all
// pixels lie p.in[2] apart, so that images and their rows are of no account. The channels from `first` on are those of
// a second tensor, at positions p.second_in apart; then every result needs one pixel of each. Of a convolution with
// groups, channels and outputs are those of one; without, p.outputs says how many there are. Of several groups in a
// tile, each belongs to one of the warps along n.
template <class T, int channels_, int window_rows_, int window_columns_, int slice_, int steps_, bool flat_ = false,
          int first_ = channels_, int groups_ = 1, int group_outputs_ = 0, int tile_groups_ = 1>
struct GemmDepth {
  static constexpr bool flat = flat_;
  static constexpr int first = first_;
  static constexpr bool two = first < channels_;
  static constexpr int groups = groups_, group_outputs = group_outputs_, tile_groups = tile_groups_;
  static constexpr bool grouped = groups > 1;
  static_assert(tile_groups == 1 || tile_groups == T::warps_n, "a warp's columns are those of one group");
  static_assert(!(two && grouped), "groups of one tensor");
  static_assert(!flat || window_rows_ * window_columns_ == 1, "one pixel");
  static_assert(!two || (window_rows_ * window_columns_ == 1 && first % T::chunk == 0), "whole chunks of two tensors");
  static constexpr int channels = channels_, window_rows = window_rows_, window_columns = window_columns_;
  static constexpr int taps = window_rows * window_columns, slice = slice_, steps = steps_, chunks = 2 * steps;
  static constexpr int x_channels = tile_groups * channels;
  static constexpr int x_slice = tile_groups > 1 ? (x_channels + T::chunk - 1) / T::chunk
                                                 : slice;                            // Chunks of a pixel.
  static constexpr int pitch = (chunks + 1) * 16, pixel_pitch = (x_slice + 1) * 16;  // Bytes.
  static constexpr int rounds = steps / T::warps_k;
  static constexpr bool whole = x_channels % (x_slice * T::chunk) == 0;  // All chunks hold channels of x.
};

// Where things lie in the dynamic shared memory of a block.
struct GemmShared {
  static constexpr int header = 128;  // Barriers.
  unsigned barrier, slots, weights, extra, rows;
};

// One chunk of k as a block reads it from x: where it starts, relative to the pixel of the first tap, and what it
// needs.
struct GemmChunk {
  int offset;
  unsigned need;  // Bits of the tap's row (0...) and column (12...), and from bit 24 on how many channels exist.
};
inline constexpr unsigned kTapBits = 0xffffff;
inline constexpr unsigned kNeverThere = 1u << 23;

// The pixel of x under the first tap of result m, and which taps lie inside the image: none for m past the last result.
struct GemmPixel {
  int image, row, column;
  unsigned inside;
};
template <class D, class Params>
__device__ __forceinline__ GemmPixel pixel_of(const Params& p, int m) {
  if constexpr (D::flat) return {0, 0, min(m, p.rows - 1), m < p.rows ? 1u | 1u << 12 : 0};
  int rest, y, x;
  divide(min(m, p.rows - 1), p.out_width, rest, x);
  divide(rest, p.out_height, rest, y);
  GemmPixel pixel{rest, y * p.stride_h - p.pad_h, x * p.stride_w - p.pad_w, 0};
  if (m >= p.rows) return pixel;
#pragma unroll
  for (int r = 0; r < D::window_rows; ++r) {
    if (is_within(pixel.row + r * p.dilation_h, p.height)) pixel.inside |= 1u << r;
  }
#pragma unroll
  for (int s = 0; s < D::window_columns; ++s) {
    if (is_within(pixel.column + s * p.dilation_w, p.width)) pixel.inside |= 1u << (12 + s);
  }
  return pixel;
}
template <class S, class Params>
__device__ __forceinline__ const S* place_of(const S* x, const Params& p, const GemmPixel& pixel) {
  return x + (pixel.image * p.in[0] + pixel.row * p.in[1] + pixel.column * p.in[2]);
}

// The place of result m's pixel in the second tensor, as if the channels of the first were there ahead of its own.
template <class D, class S, class Params>
__device__ __forceinline__ const S* second_place_of(const S* second, const Params& p, int m) {
  if constexpr (D::two) {
    int rest, y, x;
    divide(min(m, p.rows - 1), p.out_width, rest, x);
    divide(rest, p.out_height, rest, y);
    return second + (rest * p.second_in[0] + y * p.second_in[1] + x * p.second_in[2] - D::first);
  } else {
    return second;
  }
}

// The result that a row of a tile is; a row past the last result stays that.
template <class T, class Params>
__device__ __forceinline__ int result_of(const Params& p, int row) {
  if constexpr (T::skips) {
    return row < p.rows ? __ldg(p.order + row) : row;
  } else {
    return row;
  }
}
template <class T, class D, class Params>
__device__ __forceinline__ GemmPixel pixel_of_row(const Params& p, int row) {
  return pixel_of<D>(p, result_of<T>(p, row));
}

// The stages of k that a tile of results needs, in the order of k: `count` of them, which may be none.
template <class T>
struct GemmList {
  const int* stages;
  int count;

  template <class Params>
  __device__ __forceinline__ GemmList(const Params& p, int first_row) : stages(nullptr), count(p.stage_count) {
    if constexpr (T::skips) {
      const int2 tile = __ldg(reinterpret_cast<const int2*>(p.lists) + first_row / T::rows);
      stages = p.lists + tile.x;
      count = tile.y;
    }
  }
  __device__ __forceinline__ int stage(int i) const {
    if constexpr (T::skips) {
      return __ldg(stages + i);
    } else {
      return i;
    }
  }
};

// What a block has to do: its tile of results and its slice of the channels.
struct GemmWork {
  int first_row;
  int column_tile;               // Among those of all groups.
  int first_column, end_column;  // The tile's first result, and the end of its (this warp's) group's.
  int group_channel;             // The first of its (first) group's.
  int rank;                      // In the cluster; 0 without one.
  int first_channel;             // Of the slice, in the group.
  int present;                   // Chunks of the slice that hold channels of x.
};
// Tiles of columns for all results of a row: those of a group after those of the group before.
template <class T, class D, class Params>
__device__ __forceinline__ int column_tiles(const Params& p) {
  static_assert(D::tile_groups == 1, "tiles of one group");
  return D::grouped ? D::groups * ((D::group_outputs + T::columns - 1) / T::columns)
                    : (p.outputs + T::columns - 1) / T::columns;
}
// Fills in what depends on the tile of columns.
template <class T, class D, class Params>
__device__ __forceinline__ void take_columns(const Params& p, int tile, GemmWork& work) {
  work.column_tile = tile;
  if constexpr (D::tile_groups > 1) {
    const int group = tile * D::tile_groups + T::warp_n();
    // As if the groups had as many results as columns in the tile.
    work.first_column = group * D::group_outputs - T::warp_n() * T::n_tiles * 8;
    work.end_column = (group + 1) * D::group_outputs;
    work.group_channel = tile * D::x_channels;
  } else if constexpr (D::grouped) {
    constexpr int beside = (D::group_outputs + T::columns - 1) / T::columns;
    const int group = tile / beside;
    work.first_column = group * D::group_outputs + tile % beside * T::columns;
    work.end_column = (group + 1) * D::group_outputs;
    work.group_channel = group * D::channels;
  } else {
    work.first_column = tile * T::columns;
    work.end_column = p.outputs;
    work.group_channel = 0;
  }
}
// Fills in what depends on this block's rank.
template <class T, class D, bool clustered>
__device__ __forceinline__ void take_slice(GemmWork& work) {
  work.rank = clustered ? static_cast<int>(cluster_rank()) : 0;
  work.first_channel = work.rank * D::slice * T::chunk;
  work.present = max(min(D::x_slice, (D::x_channels - work.first_channel + T::chunk - 1) / T::chunk), 0);
}
template <class T, class D, bool clustered, class Params>
__device__ __forceinline__ GemmWork work_of(const Params& p) {
  GemmWork work;
  work.first_row = static_cast<int>(clustered ? blockIdx.x / p.splits : blockIdx.x) * T::rows;
  take_columns<T, D>(p, static_cast<int>(blockIdx.y), work);
  take_slice<T, D, clustered>(work);
  return work;
}

// Where chunk `lane` of the slice lies in the second tensor for row m, as in second_place_of.
template <class T, class D, class S, class Params>
__device__ __forceinline__ const S* second_chunk_of(const S* second, const Params& p, const GemmWork& work, int m,
                                                    int lane) {
  return second_place_of<D>(second, p, m) + work.first_channel + lane * T::chunk;
}

// ---- products

// The weights of one step, for all columns of a warp, `ahead` bytes after the given addresses.
template <class T>
__device__ __forceinline__ void load_weights(unsigned (&b)[T::n_tiles][2], const unsigned (&weights)[T::n_pairs],
                                             unsigned ahead) {
#pragma unroll
  for (int j = 0; j < T::n_tiles / 2; ++j) {
    unsigned two[4];
    load_matrix(two, weights[j] + ahead);
#pragma unroll
    for (int e = 0; e < 4; ++e) b[2 * j + e / 2][e % 2] = two[e];
  }
  if constexpr (T::n_tiles % 2 == 1) load_matrix(b[T::n_tiles - 1], weights[T::n_tiles / 2] + ahead);
}

// The operands of one step of a warp.
template <class T>
struct GemmFragments {
  unsigned a[T::m_tiles][4], b[T::n_tiles][2];

  __device__ __forceinline__ void load(const unsigned (&rows)[T::m_tiles], unsigned rows_ahead,
                                       const unsigned (&weights)[T::n_pairs], unsigned weights_ahead) {
#pragma unroll
    for (int i = 0; i < T::m_tiles; ++i) load_matrix(a[i], rows[i] + rows_ahead);
    load_weights<T>(b, weights, weights_ahead);
  }
  __device__ __forceinline__ void multiply(float (&acc)[T::m_tiles][T::n_tiles][4]) {
#pragma unroll
    for (int i = 0; i < T::m_tiles; ++i) {
      prepare_words<typename T::Element>(a[i]);
#pragma unroll
      for (int j = 0; j < T::n_tiles; ++j) multiply_add<typename T::Element>(acc[i][j], a[i], b[j]);
    }
  }
};

// Multiplies `rounds` steps, those of this warp; `load(fragments, i)` reads the operands of one, the next ones while
// those before are multiplied.
template <class T, int rounds, class Load>
__device__ __forceinline__ void multiply_unrolled(float (&acc)[T::m_tiles][T::n_tiles][4], const Load& load) {
  GemmFragments<T> two[2];
  load(two[0], 0);
#pragma unroll
  for (int i = 0; i < rounds; ++i) {
    if (i + 1 < rounds) load(two[(i + 1) % 2], i + 1);
    two[i % 2].multiply(acc);
  }
}
template <class T, class Load>
__device__ __forceinline__ void multiply_rounds(int rounds, float (&acc)[T::m_tiles][T::n_tiles][4], const Load& load) {
  GemmFragments<T> even, odd;
  load(even, 0);
  int i = 1;
#pragma unroll 1
  for (; i + 1 < rounds; i += 2) {
    load(odd, i);
    even.multiply(acc);
    load(even, i + 1);
    odd.multiply(acc);
  }
  if (i < rounds) load(odd, i);
  even.multiply(acc);
  if (i < rounds) odd.multiply(acc);
}

// Chunk q of k as a GemmChunk at the shared address `to`.
template <class T, class D, class Params>
__device__ __forceinline__ void write_chunk(const Params& p, const GemmWork& work, unsigned to, int q) {
  const int tap = q / D::slice, c = q % D::slice;
  const int r = tap / D::window_columns, s = tap % D::window_columns;
  const int channel = work.first_channel + c * T::chunk, count = min(T::chunk, D::channels - channel);
  const int offset = r * p.dilation_h * p.in[1] + s * p.dilation_w * p.in[2] + channel * p.in[3];
  const bool there = c < work.present && r < D::window_rows;
  const unsigned need = there ? 1u << r | 1u << (12 + s) | static_cast<unsigned>(count) << 24 : kNeverThere;
  asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(to), "r"(offset), "r"(need) : "memory");
}
// The first `chunks` chunks of k that a block reads, as an array of GemmChunk at the shared address `table`.
template <class T, class D, class Params>
__device__ __forceinline__ void fill_table(const Params& p, const GemmWork& work, unsigned table, int chunks) {
  for (int q = threadIdx.x; q < chunks; q += T::threads) write_chunk<T, D>(p, work, table + q * 8, q);
}
// The same for the stages of `list`, one after the other.
template <class T, class D, int stage_chunks, class Params>
__device__ __forceinline__ void fill_table(const Params& p, const GemmWork& work, unsigned table,
                                           const GemmList<T>& list) {
  for (int i = threadIdx.x; i < list.count * stage_chunks; i += T::threads)
    write_chunk<T, D>(p, work, table + i * 8, list.stage(i / stage_chunks) * stage_chunks + i % stage_chunks);
}
__device__ __forceinline__ GemmChunk read_table(unsigned table, int q) {
  GemmChunk chunk;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(chunk.offset), "=r"(chunk.need) : "r"(table + q * 8));
  return chunk;
}

}  // namespace tw
