// The sizes of a tile of stem.cuh, and what it reads of the picture. For the struct C of constants see there.
#pragma once

#include "block.cuh"
#include "index.cuh"
#include "pixel_pairs.cuh"

namespace tw {

// Sizes that follow from the constants. The region is what the convolution computes for a tile, the patch is the part
// of the picture that this reads, in pixels of four numbers. k runs over the window's rows, then over its columns,
// filled up to whole steps of four, then over the four numbers.
template <class C>
struct StemSizes {
  static constexpr int threads = C::warps * 32, pixel_bytes = 8;
  static constexpr int region_h = (C::tile_h - 1) * C::pool_stride_h + (C::pool_rows - 1) * C::pool_dilation_h + 1;
  static constexpr int region_w = (C::tile_w - 1) * C::pool_stride_w + (C::pool_columns - 1) * C::pool_dilation_w + 1;
  static constexpr int positions = region_h * region_w;
  static constexpr int row_steps = (C::columns + 3) / 4, steps = C::rows * row_steps;
  static constexpr int patch_h = (region_h - 1) * C::stride_h + C::rows;
  static constexpr int patch_w = round_up((region_w - 1) * C::stride_w + row_steps * 4, 2);
  static constexpr int padded = round_up(C::channels, 16);
  // Odd multiples of 16 bytes, and of 32 bytes, so that neighbouring rows begin in different banks.
  static constexpr int weight_step = steps * 16 + 8;
  static constexpr int result_step = padded % 32 == 0 ? padded + 16 : padded;
  // Weights of 64 channels, for warpgroups: rows of 128 bytes.
  static constexpr int segment = steps * 16 * 128, alignment = C::warpgroups ? 1024 : 16;
  static constexpr int bias_at = C::warpgroups ? (padded + 63) / 64 * segment : padded * weight_step * 2;
  static constexpr int weights_bytes = bias_at + padded * 4;
  static constexpr int barrier_at = weights_bytes, patch_at = barrier_at + 16;
  static constexpr int results_at = patch_at + patch_h * patch_w * pixel_bytes;
  static constexpr int shared_bytes = results_at + positions * result_step * 2 + (C::warpgroups ? alignment : 0);
};

// Where a tile lies.
template <class C>
struct StemPlace {
  int sample, row, column;  // Of the first pooled result.

  template <class Params>
  __device__ __forceinline__ StemPlace(int tile, const Params& p) {
    const int line = tile / p.tiles_w;
    column = (tile - line * p.tiles_w) * C::tile_w;
    sample = line / p.tiles_h;
    row = (line - sample * p.tiles_h) * C::tile_h;
  }
  // The first position of the region and the first pixel of the patch; both may lie outside.
  __device__ __forceinline__ int region_row() const { return row * C::pool_stride_h - C::pool_pad_h; }
  __device__ __forceinline__ int region_column() const { return column * C::pool_stride_w - C::pool_pad_w; }
  __device__ __forceinline__ int picture_row() const { return region_row() * C::stride_h - C::pad_h; }
  __device__ __forceinline__ int picture_column() const { return region_column() * C::stride_w - C::pad_w; }
};

// Brings a tile's patch from a picture of any strides into shared memory, with zeros for what lies outside. The first
// pixels of each thread are under way between fetch and put.
template <class C, bool pairs = C::pairs>
struct StemPatch {
  using S = typename C::S;
  using Sizes = StemSizes<C>;
  static constexpr int count = Sizes::patch_h * Sizes::patch_w;
  static constexpr int rounds = (count + Sizes::threads - 1) / Sizes::threads, ahead = rounds < 6 ? rounds : 6;
  union Pixel {
    S elements[4];
    uint2 word;
  };
  int offsets[ahead];  // From the sample's first element; negative outside of the picture.
  Pixel held[ahead];

  template <class Params>
  __device__ __forceinline__ static int offset_of(int i, const StemPlace<C>& place, const Params& p) {
    const int row = place.picture_row() + i / Sizes::patch_w, column = place.picture_column() + i % Sizes::patch_w;
    const bool inside = i < count && is_within(row, p.height) && is_within(column, p.width);
    return inside ? row * p.x[1] + column * p.x[2] : -1;
  }
  template <class Params>
  __device__ __forceinline__ static Pixel pixel(const S* sample, int offset, const Params& p) {
    Pixel one;
#pragma unroll
    for (int c = 0; c < 4; ++c)
      one.elements[c] = c < C::in && offset >= 0 ? sample[offset + c * p.x[3]] : narrow<S>(0.f);
    return one;
  }

  template <class Params>
  __device__ __forceinline__ void find(const StemPlace<C>& place, const Params& p) {
#pragma unroll
    for (int r = 0; r < ahead; ++r) {
      offsets[r] = offset_of(static_cast<int>(threadIdx.x) + r * Sizes::threads, place, p);
      asm volatile("" ::"r"(offsets[r]));
    }
  }
  // `sample`: the tile's, as in put.
  template <class Params>
  __device__ __forceinline__ void fetch(const S* sample, const Params& p) {
#pragma unroll
    for (int r = 0; r < ahead; ++r) held[r] = pixel(sample, offsets[r], p);
  }
  template <class Params>
  __device__ __forceinline__ void put(unsigned char* memory, const S* sample, const StemPlace<C>& place,
                                      const Params& p) {
    uint2* patch = reinterpret_cast<uint2*>(memory + Sizes::patch_at);
#pragma unroll
    for (int r = 0; r < ahead; ++r) {
      const int i = static_cast<int>(threadIdx.x) + r * Sizes::threads;
      if (i < count) patch[i] = held[r].word;
    }
#pragma unroll 2
    for (int i = static_cast<int>(threadIdx.x) + ahead * Sizes::threads; i < count; i += Sizes::threads)
      patch[i] = pixel(sample, offset_of(i, place, p), p).word;
  }
};

// The same by pairs of columns that lie side by side; the first pair begins at an even column of the picture. Where all
// pairs are words they are read as such.
template <class C>
struct StemPatch<C, true> {
  using S = typename C::S;
  using Sizes = StemSizes<C>;
  static constexpr int line_pairs = Sizes::patch_w / 2 + 1, count = Sizes::patch_h * line_pairs;
  static constexpr int rounds = (count + Sizes::threads - 1) / Sizes::threads, ahead = rounds < 6 ? rounds : 6;
  struct Pair {
    int offset;   // From the sample's first element; negative outside of the picture.
    bool second;  // Whether the second pixel is in the picture, if the first is.
  };
  Pair pairs[ahead];
  PixelPair<S, C::in> held[ahead];

  template <class Params>
  __device__ __forceinline__ static Pair pair_of_item(int i, const StemPlace<C>& place, const Params& p) {
    const int row = place.picture_row() + i / line_pairs, column = (place.picture_column() & ~1) + i % line_pairs * 2;
    const bool inside = i < count && is_within(row, p.height) && is_within(column, p.width);
    return {inside ? row * p.x[1] + column : -1, column + 1 < p.width};
  }
  template <class Params>
  __device__ __forceinline__ void find(const StemPlace<C>& place, const Params& p) {
#pragma unroll
    for (int r = 0; r < ahead; ++r) {
      pairs[r] = pair_of_item(static_cast<int>(threadIdx.x) + r * Sizes::threads, place, p);
      asm volatile("" ::"r"(pairs[r].offset));
    }
  }
  template <class Params>
  __device__ __forceinline__ void fetch(const S* sample, const Params& p) {
    if (pairs_are_words<C::in>(sample, p.x, p.width)) {
#pragma unroll
      for (int r = 0; r < ahead; ++r) held[r].read(sample + pairs[r].offset, p.x[3], pairs[r].offset >= 0);
    } else {
#pragma unroll
      for (int r = 0; r < ahead; ++r)
        held[r].read_apart(sample + pairs[r].offset, p.x[3], pairs[r].offset >= 0, pairs[r].second);
    }
  }
  template <class Params>
  __device__ __forceinline__ void put(unsigned char* memory, const S* sample, const StemPlace<C>& place,
                                      const Params& p) {
#pragma unroll
    for (int r = 0; r < ahead; ++r) store(memory, static_cast<int>(threadIdx.x) + r * Sizes::threads, place, held[r]);
    if constexpr (rounds > ahead) {
      auto put_rest = [&](auto read) {
#pragma unroll 2
        for (int i = static_cast<int>(threadIdx.x) + ahead * Sizes::threads; i < count; i += Sizes::threads) {
          const Pair pair = pair_of_item(i, place, p);
          PixelPair<S, C::in> pixels;
          read(pixels, sample + pair.offset, pair);
          store(memory, i, place, pixels);
        }
      };
      if (pairs_are_words<C::in>(sample, p.x, p.width)) {
        put_rest([&](auto& pixels, const S* from, Pair pair) { pixels.read(from, p.x[3], pair.offset >= 0); });
      } else {
        put_rest([&](auto& pixels, const S* from, Pair pair) {
          pixels.read_apart(from, p.x[3], pair.offset >= 0, pair.second);
        });
      }
    }
  }
  __device__ __forceinline__ static void store(unsigned char* memory, int i, const StemPlace<C>& place,
                                               const PixelPair<S, C::in>& pair) {
    const int column = i % line_pairs * 2 - (place.picture_column() & 1);
    uint2* to = reinterpret_cast<uint2*>(memory + Sizes::patch_at) + (i / line_pairs * Sizes::patch_w + column);
    if (i < count && column >= 0 && column < Sizes::patch_w) to[0] = pair.first();
    if (i < count && column + 1 < Sizes::patch_w) to[1] = pair.second();
  }
};

}  // namespace tw
