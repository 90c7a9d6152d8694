// Operands of implicit_gemm.cuh for x of at most four channels: a patch of pixels of four numbers, with its padding.
#pragma once

#include "implicit_gemm_operands.cuh"
#include "pixel_pairs.cuh"

namespace tw {

// k runs over the window's rows, then over its columns, filled up to whole steps, then over four channels. Any layout
// of x; no dilation, no split of k. The pixels of several groups lie beside each other.
template <class T, class D>
struct GemmPixels {
  using S = typename T::Element;
  static constexpr int window_rows = D::window_rows, window_columns = D::window_columns, extra_bytes = 0;
  static constexpr int pixel_bytes = 4 * sizeof(S), pixel_words = sizeof(S);
  // An odd number of pixels of one group, for the banks of shared memory.
  static constexpr int pitch = (D::tile_groups > 1 ? D::tile_groups + 1 : 1) * pixel_bytes;
  static constexpr int per_step = 8 / pixel_words, row_steps = (window_columns + per_step - 1) / per_step;
  static constexpr bool vectors = false;
  static_assert(T::warps_k == 1, "no warps share k");
  const S* x;
  int first_line, lines;
  unsigned line_bytes;
  unsigned first[T::m_tiles][2];  // Address of this lane's word of the first tap, for rows g and g + 8.

  // Lines of all images with their padding, one image after the other.
  template <class Params>
  __device__ __forceinline__ static int line_of(const Params& p, const GemmPixel& pixel) {
    return pixel.image * static_cast<int>(p.lines.size) + pixel.row + p.pad_h;
  }

  template <class Params>
  __device__ __forceinline__ void prepare(const S* data, const Params& p, const GemmWork& work, const GemmShared& at) {
    x = data;
    first_line = line_of(p, pixel_of<D>(p, work.first_row));
    const int last = line_of(p, pixel_of<D>(p, min(work.first_row + T::rows, p.rows) - 1));
    lines = last - first_line + window_rows;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < T::m_tiles * 2; ++i) {
      const int m = min(work.first_row + T::warp_m() * T::m_tiles * 16 + i * 8 + lane / 4, p.rows - 1);
      const GemmPixel pixel = pixel_of<D>(p, m);
      const int index = (line_of(p, pixel) - first_line) * static_cast<int>(p.line_width.size) + pixel.column + p.pad_w;
      first[i / 2][i % 2] = at.rows + (index + lane % 4 / pixel_words) * pitch + lane % 4 % pixel_words * 4;
      if constexpr (D::tile_groups > 1) first[i / 2][i % 2] += T::warp_n() * pixel_bytes;
      have_ready(first[i / 2][i % 2]);
    }
    line_bytes = p.line_width.size * pitch;
    have_ready(line_bytes);
    have_ready(first_line);
    have_ready(lines);
  }

  // Four channels of a group lie side by side.
  template <class Params>
  __device__ __forceinline__ bool are_words(const Params& p) const {
    return D::channels == 4 && p.in[3] == 1 && (p.in[0] | p.in[1] | p.in[2]) % 4 == 0 && is_aligned<4>(x);
  }
  template <class Params>
  __device__ __forceinline__ bool is_there(const Params& p, int row, int column) const {
    return is_within(row, p.height) && is_within(column, p.width);
  }
  template <class Params>
  __device__ __forceinline__ void gather(const Params& p, const GemmWork&, const GemmShared& at) {
    if constexpr (sizeof(S) == 2 && D::tile_groups == 1) {
      if (p.in[2] == 1 && pairs_are_words<D::channels>(x, p.in, p.width)) return gather_pairs(p, at);
    }
    const bool words = are_words(p);
    const int pixels = lines * static_cast<int>(p.line_width.size);
#pragma unroll 4
    for (int item = threadIdx.x; item < pixels * D::tile_groups; item += T::threads) {
      const int index = item / D::tile_groups, group = item % D::tile_groups;
      int line, column, image, row;
      divide(index, p.line_width, line, column);
      divide(first_line + line, p.lines, image, row);
      row -= p.pad_h;
      column -= p.pad_w;
      const bool there = is_there(p, row, column);
      const S* from = x + (image * p.in[0] + row * p.in[1] + column * p.in[2] + group * D::channels * p.in[3]);
      union {
        S elements[4];
        Word<pixel_bytes> word;
      } pixel;
      if (words) {
        pixel.word = there ? *reinterpret_cast<const Word<pixel_bytes>*>(from) : Word<pixel_bytes>{};
      } else {
#pragma unroll
        for (int c = 0; c < 4; ++c) pixel.elements[c] = there && c < D::channels ? from[c * p.in[3]] : narrow<S>(0.f);
      }
      store_pixel(at.rows + index * pitch + group * pixel_bytes, pixel.word);
    }
  }
  // The first pair of a padded line begins before it where the padding is odd.
  template <class Params>
  __device__ __forceinline__ void gather_pairs(const Params& p, const GemmShared& at) {
    const int before = p.pad_w % 2, width = p.line_width.size;
#pragma unroll 4
    for (int item = threadIdx.x; item < lines * static_cast<int>(p.line_pairs.size); item += T::threads) {
      int line, number, image, row;
      divide(item, p.line_pairs, line, number);
      divide(first_line + line, p.lines, image, row);
      row -= p.pad_h;
      const int place = 2 * number - before, column = place - p.pad_w;
      PixelPair<S, D::channels> pair;
      pair.read(x + (image * p.in[0] + row * p.in[1] + column), p.in[3], is_there(p, row, column));
      const unsigned to = at.rows + (line * width + place) * pitch;
      if (place >= 0) store_pixel(to, pair.first());
      if (place + 1 < width) store_pixel(to + pitch, pair.second());
    }
  }
  __device__ __forceinline__ static void store_pixel(unsigned to, uint2 v) {
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(to), "r"(v.x), "r"(v.y) : "memory");
  }
  __device__ __forceinline__ static void store_pixel(unsigned to, uint4 v) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
  }

  template <class Acc>
  __device__ __forceinline__ void multiply(const GemmShared&, const unsigned (&weights)[T::n_pairs], Acc& acc) const {
#pragma unroll(window_rows <= 7 ? window_rows : 1)
    for (int r = 0; r < window_rows; ++r) {
#pragma unroll
      for (int s = 0; s < row_steps; ++s) {
        unsigned a[T::m_tiles][4], b[T::n_tiles][2];
        load_weights<T>(b, weights, (r * row_steps + s) * 32);
#pragma unroll
        for (int i = 0; i < T::m_tiles; ++i) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            // Columns past the window belong to other results; their numbers must not even be multiplied by zero.
            const int column = s * per_step + (threadIdx.x % 4 + e / 2 * 4) / pixel_words;
            asm volatile("ld.shared.u32 %0, [%1];"
                         : "=r"(a[i][e])
                         : "r"(first[i][e % 2] + r * line_bytes + (s * per_step + e / 2 * 4 / pixel_words) * pitch));
            if ((s + 1) * per_step > window_columns && column >= window_columns) a[i][e] = 0;
          }
          prepare_words<S>(a[i]);
#pragma unroll
          for (int j = 0; j < T::n_tiles; ++j) multiply_add<S>(acc[i][j], a[i], b[j]);
        }
      }
    }
  }
};

}  // namespace tw
