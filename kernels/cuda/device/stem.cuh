// A convolution of few input channels with pointwise functions and a max pool after it, as one kernel; without a pool,
// windows of one position stand for it. A block of threads takes tiles of pooled results, one after the other, and what
// the convolution gives for a tile's windows stays in its shared memory, rounded to the storage type as if it were
// written. Where windows of neighbouring tiles overlap, both compute the convolution.
//
// The host gives a struct C of constants (see kernels/cuda/stem.cpp):
//   S                                    storage type: f16 or bf16
//   in, channels                         channels of the picture, at most 4; channels of the result in one slice
//   pairs                                whether columns of the picture lie side by side
//   rows, columns, stride_h, stride_w, pad_h, pad_w                        of the convolution's window
//   pool_rows, pool_columns, pool_stride_*, pool_pad_*, pool_dilation_*    of the pool's window
//   tile_h, tile_w                       pooled results of a tile
//   row_tiles, channel_tiles             16 positions, and 16 channels, of the convolution that a warp computes at once
//   warps                                of a block
//   warpgroups, Multiply                 whether four warps multiply together (sm_90a only), each 16 positions by all
//                                        channels, and by what (see kernels/cuda/warpgroup_multiply.h)
//   finishes_pool                        whether pointwise functions follow the pool
// and functions after_conv(acc) and, if so, after_pool(acc).
#pragma once

#include "block.cuh"
#include "math.cuh"
#include "mma.cuh"
#include "stem_patch.cuh"
#include "warpgroup.cuh"

namespace tw {

// Rows of the region as tensor cores take them: 16 positions, 4 pixels of each.
template <class C>
struct StemRows {
  using Sizes = StemSizes<C>;
  static constexpr bool by_matrix = C::stride_w % 2 == 0;  // Every position's pixels begin at 16 bytes.
  unsigned at[2];

  __device__ __forceinline__ void find(unsigned base, int first) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < (by_matrix ? 1 : 2); ++h) {
      // Rows past the end are never stored.
      const int position = ::min(first + (by_matrix ? lane % 16 : lane / 4 + h * 8), Sizes::positions - 1);
      const int row = position / Sizes::region_w, column = position % Sizes::region_w;
      at[h] = base + Sizes::patch_at +
              (row * C::stride_h * Sizes::patch_w + column * C::stride_w) * Sizes::pixel_bytes +
              (by_matrix ? lane / 16 * 16 : lane % 4 * 4);
    }
  }
  // `step`: four columns of the window, in its row `row`.
  __device__ __forceinline__ void load(unsigned (&words)[4], int row, int step) const {
    const int offset = row * Sizes::patch_w * Sizes::pixel_bytes + step * 32;
    if constexpr (by_matrix) {
      load_matrix(words, at[0] + offset);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(words[e]) : "r"(at[e % 2] + offset + e / 2 * 16));
    }
    // Columns past the window belong to other positions; their numbers must not even be multiplied by zero.
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int column = step * 4 + (threadIdx.x % 4 + e / 2 * 4) / 2;
      if ((step + 1) * 4 > C::columns && column >= C::columns) words[e] = 0;
    }
  }
};

// Four neighbouring channels of this lane in each 16: their biases, as the sums of both positions of a fragment.
template <class C, int tiles>
__device__ __forceinline__ void begin_sums(const unsigned char* memory, int first_channel,
                                           float (&sums)[2 * tiles][4]) {
  const float* bias = reinterpret_cast<const float*>(memory + StemSizes<C>::bias_at);
#pragma unroll
  for (int j = 0; j < tiles; ++j) {
    const float4 add = *reinterpret_cast<const float4*>(bias + first_channel + j * 16 + threadIdx.x % 4 * 4);
    const float four[4] = {add.x, add.y, add.z, add.w};
#pragma unroll
    for (int e = 0; e < 8; ++e) sums[2 * j + e / 4][e % 4] = four[e / 4 * 2 + e % 2];
  }
}

// Whether a position is one of the convolution's image. Windows of a single position never read others.
template <class C, class Params>
__device__ __forceinline__ bool is_inside(const StemPlace<C>& place, const Params& p, int position) {
  using Sizes = StemSizes<C>;
  if constexpr (C::pool_rows * C::pool_columns == 1) return true;
  const int row = place.region_row() + position / Sizes::region_w;
  const int column = place.region_column() + position % Sizes::region_w;
  return static_cast<unsigned>(row) < static_cast<unsigned>(p.conv_height) &&
         static_cast<unsigned>(column) < static_cast<unsigned>(p.conv_width);
}

// Keeps the results of one position, `tiles` times 16 channels, which are the halves `h` of `sums`; minus infinity
// outside of the convolution's image, where the pool has its padding.
template <class C, int tiles, class Params>
__device__ __forceinline__ void keep_results(unsigned char* memory, const StemPlace<C>& place, const Params& p,
                                             int position, int first_channel, int h,
                                             const float (&sums)[2 * tiles][4]) {
  using S = typename C::S;
  using Sizes = StemSizes<C>;
  if (position >= Sizes::positions) return;
  S* results = reinterpret_cast<S*>(memory + Sizes::results_at) + position * Sizes::result_step;
  const bool inside = is_inside(place, p, position);
  const unsigned nothing = pair_of<S>(-INFINITY, -INFINITY);
#pragma unroll
  for (int j = 0; j < tiles; ++j) {
    const float* left = sums[2 * j] + 2 * h;
    const float* right = sums[2 * j + 1] + 2 * h;
    float v[4] = {left[0], left[1], right[0], right[1]};
    C::after_conv(v);
    const unsigned words[2] = {pair_of<S>(v[0], v[1]), pair_of<S>(v[2], v[3])};
    *reinterpret_cast<uint2*>(results + first_channel + j * 16 + threadIdx.x % 4 * 4) = {inside ? words[0] : nothing,
                                                                                         inside ? words[1] : nothing};
  }
}

// The convolution of the whole region, warp by warp.
template <class C, class Params>
__device__ __forceinline__ void convolve_by_warps(unsigned char* memory, unsigned base, const StemPlace<C>& place,
                                                  const Params& p) {
  using S = typename C::S;
  using Sizes = StemSizes<C>;
  constexpr int M = C::row_tiles, N = C::channel_tiles, across = Sizes::padded / 16 / N;
  static_assert(across * N * 16 == Sizes::padded, "channels are shared out evenly");
  constexpr int units = (Sizes::positions + M * 16 - 1) / (M * 16) * across;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int unit = warp; unit < units; unit += C::warps) {
    const int first_channel = unit % across * (N * 16), first_position = unit / across * (M * 16);
    StemRows<C> rows[M];
#pragma unroll
    for (int i = 0; i < M; ++i) rows[i].find(base, first_position + i * 16);
    const unsigned weights =
        base + ((first_channel + lane % 8 + lane / 16 * 8) * Sizes::weight_step + lane / 8 % 2 * 8) * 2;
    float sum[M][2 * N][4];
#pragma unroll
    for (int i = 0; i < M; ++i) begin_sums<C, N>(memory, first_channel, sum[i]);
#pragma unroll(Sizes::steps <= 4 ? C::rows : 1)
    for (int r = 0; r < C::rows; ++r) {
#pragma unroll
      for (int s = 0; s < Sizes::row_steps; ++s) {
        unsigned b[N][4];
#pragma unroll
        for (int j = 0; j < N; ++j)
          load_matrix(b[j], weights + j * 16 * Sizes::weight_step * 2 + (r * Sizes::row_steps + s) * 32);
#pragma unroll
        for (int i = 0; i < M; ++i) {
          unsigned a[4];
          rows[i].load(a, r, s);
#pragma unroll
          for (int j = 0; j < N; ++j) {
            const unsigned left[2] = {b[j][0], b[j][1]}, right[2] = {b[j][2], b[j][3]};
            multiply_add<S>(sum[i][2 * j], a, left);
            multiply_add<S>(sum[i][2 * j + 1], a, right);
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < M * 2; ++i)
      keep_results<C, N>(memory, place, p, first_position + i * 8 + lane / 4, first_channel, i % 2, sum[i / 2]);
  }
}

// The same warpgroup by warpgroup; the tensor cores read weights from shared memory themselves, once for 64 positions.
template <class C, class Params>
__device__ __forceinline__ void convolve_by_warpgroups(unsigned char* memory, unsigned base, const StemPlace<C>& place,
                                                       const Params& p) {
  using Sizes = StemSizes<C>;
  constexpr int N = Sizes::padded / 16, units = (Sizes::positions + 63) / 64;
  // Rows of the window whose pixels are in registers at a time.
  constexpr int together = Sizes::row_steps < 8 ? 8 / Sizes::row_steps : 1;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int unit = warp / 4; unit < units; unit += C::warps / 4) {
    const int first_position = unit * 64 + warp % 4 * 16;
    StemRows<C> rows;
    rows.find(base, first_position);
    float sum[2 * N][4];
    begin_sums<C, N>(memory, 0, sum);
#pragma unroll
    for (int first = 0; first < C::rows; first += together) {
      constexpr int most = together * Sizes::row_steps;
      const int count = (C::rows - first < together ? C::rows - first : together) * Sizes::row_steps;
      unsigned a[most][4];
#pragma unroll
      for (int s = 0; s < most; ++s) {
        if (s < count) rows.load(a[s], first + s / Sizes::row_steps, s % Sizes::row_steps);
#pragma unroll
        for (int e = 0; e < 4; ++e) a[s][e] = s < count ? a[s][e] : 0;
      }
      have_all_ready(a);
      have_all_ready(sum);
      C::Multiply::begin();
#pragma unroll
      for (int s = 0; s < most; ++s) {
        if (s < count)
          C::Multiply::run(sum, a[s],
                           place_in_shared(base + (first * Sizes::row_steps + s) * 16 * 128, Sizes::segment));
      }
      C::Multiply::close();
      C::Multiply::finish(sum);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) keep_results<C, N>(memory, place, p, first_position + h * 8 + lane / 4, 0, h, sum);
  }
}

template <class C, class Params>
__device__ __forceinline__ void convolve_region(unsigned char* memory, unsigned base, const StemPlace<C>& place,
                                                const Params& p) {
  if constexpr (C::warpgroups) {
    convolve_by_warpgroups<C>(memory, base, place, p);
  } else {
    convolve_by_warps<C>(memory, base, place, p);
  }
}

// The larger of two pairs of elements; NaN wins.
template <class S>
__device__ __forceinline__ unsigned larger_pair(unsigned a, unsigned b) {
#if __CUDA_ARCH__ >= 800
  unsigned r;
  if constexpr (same<S, f16>) {
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  } else {
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  }
  return r;
#else
  __trap();
  return a;
#endif
}

// Pools the region and writes the tile's results, 8 channels per thread at once. `y`: the slice's first channel.
template <class C, class Params>
__device__ __forceinline__ void pool_region(const unsigned char* memory, typename C::S* y, const StemPlace<C>& place,
                                            const Params& p) {
  using S = typename C::S;
  using Sizes = StemSizes<C>;
  constexpr int chunks = C::channels / 8, window = C::pool_rows * C::pool_columns;
  const bool aligned = is_aligned<8>(y);
  const S* results = reinterpret_cast<const S*>(memory + Sizes::results_at);
  S* image = y + static_cast<long long>(place.sample) * p.y[0];
  for (int i = threadIdx.x; i < C::tile_h * C::tile_w * chunks; i += Sizes::threads) {
    const int chunk = i % chunks, down = i / chunks / C::tile_w, across = i / chunks % C::tile_w;
    const int row = place.row + down, column = place.column + across;
    if (row >= p.out_height || column >= p.out_width) continue;
    const S* corner = results +
                      (down * C::pool_stride_h * Sizes::region_w + across * C::pool_stride_w) * Sizes::result_step +
                      chunk * 8;
    union {
      uint4 word;
      S elements[8];
    } best;
    best.word = *reinterpret_cast<const uint4*>(corner);
#pragma unroll(window <= 9 ? window : 1)
    for (int t = 1; t < window; ++t) {
      const int at =
          t / C::pool_columns * C::pool_dilation_h * Sizes::region_w + t % C::pool_columns * C::pool_dilation_w;
      const uint4 one = *reinterpret_cast<const uint4*>(corner + at * Sizes::result_step);
      best.word.x = larger_pair<S>(best.word.x, one.x);
      best.word.y = larger_pair<S>(best.word.y, one.y);
      best.word.z = larger_pair<S>(best.word.z, one.z);
      best.word.w = larger_pair<S>(best.word.w, one.w);
    }
    S* to = image + (row * p.y[1] + column * p.y[2] + chunk * 8);
    if (!C::finishes_pool && aligned) {
      *reinterpret_cast<uint4*>(to) = best.word;
      continue;
    }
    float v[8];
#pragma unroll
    for (int e = 0; e < 8; ++e) v[e] = widen(best.elements[e]);
    if constexpr (C::finishes_pool) C::after_pool(v);
    write<8>(to, aligned, v);
  }
}

// Starts the copy of a slice's packed weights and biases.
template <class C>
__device__ __forceinline__ void fetch_stem_weights(const unsigned char* weights, unsigned base) {
  using Sizes = StemSizes<C>;
  if constexpr (has_bulk_copies) {
    if (threadIdx.x == 0) {
      const unsigned barrier = base + Sizes::barrier_at;
      init_barrier(barrier, 1);
      barriers_ready();
      expect_bytes(barrier, Sizes::weights_bytes);
      copy_bulk(base, weights, Sizes::weights_bytes, barrier);
    }
  } else {
    for (int i = threadIdx.x; i < Sizes::weights_bytes / 16; i += Sizes::threads)
      copy_async16(base + i * 16, weights + i * 16, true);
    commit_copies();
  }
}

// Block y takes a slice of the channels.
template <class C, class Params>
__device__ __forceinline__ void stem(const typename C::S* x, typename C::S* y, const Params& p) {
  using Sizes = StemSizes<C>;
  extern __shared__ __align__(128) unsigned char shared[];
  unsigned char* memory = shared + (Sizes::alignment - shared_address(shared) % Sizes::alignment) % Sizes::alignment;
  const unsigned base = shared_address(memory);
  const int slice = static_cast<int>(blockIdx.y);
  fetch_stem_weights<C>(static_cast<const unsigned char*>(p.weights) + slice * Sizes::weights_bytes, base);
  y += slice * C::channels;
  int tile = static_cast<int>(blockIdx.x);
  StemPlace<C> place(tile, p);
  StemPatch<C> patch;
  auto sample_of = [&](const StemPlace<C>& at) { return x + static_cast<long long>(at.sample) * p.x[0]; };
  patch.find(place, p);
  wait_for_previous();
  patch.fetch(sample_of(place), p);
  patch.put(memory, sample_of(place), place, p);
  wait_for_copies<0>();
  __syncthreads();
  if constexpr (has_bulk_copies) wait_for_phase(base + Sizes::barrier_at, 0);
  for (;;) {
    convolve_region<C>(memory, base, place, p);
    __syncthreads();
    tile += static_cast<int>(gridDim.x);
    const bool more = tile < p.tiles;
    const StemPlace<C> next(tile, p);
    if (more) {
      patch.find(next, p);
      patch.fetch(sample_of(next), p);
    }
    pool_region<C>(memory, y, place, p);
    if (!more) return;
    patch.put(memory, sample_of(next), next, p);
    __syncthreads();
    place = next;
  }
}

}  // namespace tw
