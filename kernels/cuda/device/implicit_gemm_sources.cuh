// x in shared memory for implicit_gemm.cuh: as rows of operands, or as a patch of pixels that rows are read from.
#pragma once

#include "implicit_gemm_operands.cuh"

namespace tw {

// ---- x as rows of operands: every row is read once per tap

// A window of 1 x 1 without padding (`taps` false) or any window.
template <class T, class D, bool taps>
struct GemmRows {
  using S = typename T::Element;
  static constexpr int step = T::threads / T::lanes;
  static constexpr int per_thread = T::rows / step;
  static constexpr bool vectors = true;
  static constexpr int extra_bytes = taps ? D::chunks * 8 : 0;  // The table.
  static_assert(per_thread * step == T::rows, "every thread reads the same number of rows");
  const S* x;
  const S* second;  // To be set first, where D has a second tensor.
  const S* from[per_thread];
  const S* other[D::two ? per_thread : 1];
  unsigned to;
  unsigned inside[per_thread];
  unsigned fragments[T::m_tiles];

  template <class Params>
  __device__ __forceinline__ void prepare(const S* data, const Params& p, const GemmWork& work, const GemmShared& at) {
    x = data;
    if constexpr (taps) {
      fill_table<T, D>(p, work, at.extra, D::chunks);
      __syncthreads();
    }
    const int lane = threadIdx.x % T::lanes, first = static_cast<int>(threadIdx.x) / T::lanes;
#pragma unroll
    for (int i = 0; i < per_thread; ++i) {
      const GemmPixel pixel = pixel_of<D>(p, work.first_row + first + i * step);
      inside[i] = pixel.inside;
      from[i] = place_of(x, p, pixel) + (taps ? 0 : work.first_channel + lane * T::chunk);
      have_ready(from[i]);
      if constexpr (D::two) {
        other[i] = second_chunk_of<T, D>(second, p, work, work.first_row + first + i * step, lane);
        have_ready(other[i]);
      }
      have_ready(inside[i]);
    }
    to = at.rows + first * D::pitch + lane * 16;
    have_ready(to);
    const int within = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < T::m_tiles; ++i) {
      const int r = (T::warp_m() * T::m_tiles + i) * 16 + within % 16;
      fragments[i] = at.rows + r * D::pitch + within / 16 * 16 + T::warp_k() * 32;
      have_ready(fragments[i]);
    }
  }

  // By 16 bytes. Rows past the last result are not read: all blocks would ask for the same lines at once.
  template <class Params>
  __device__ __forceinline__ void load(const Params&, const GemmWork& work, const GemmShared& at) {
    constexpr int count = (D::chunks + T::lanes - 1) / T::lanes;
    const int lane = threadIdx.x % T::lanes;
#pragma unroll(count <= 8 ? count : 4)
    for (int j = 0; j < count; ++j) {
      const int q = j * T::lanes + lane;
      if (D::chunks % T::lanes != 0 && q >= D::chunks) break;
      GemmChunk chunk{j * T::lanes * T::chunk, 1};
      if constexpr (taps) chunk = read_table(at.extra, q);
      const unsigned need = chunk.need & kTapBits;
      const bool whole = D::whole && D::chunks == D::slice;
#pragma unroll
      for (int i = 0; i < per_thread; ++i) {
        const bool there = taps ? (inside[i] & need) == need : inside[i] != 0 && (whole || q < work.present);
        const S* source = from[i];
        if constexpr (D::two) {
          if (work.first_channel + q * T::chunk >= D::first) source = other[i];
        }
        copy_async16(to + i * step * D::pitch + j * T::lanes * 16, source + chunk.offset, there);
      }
    }
  }

  // Element by element.
  template <class Params>
  __device__ __forceinline__ void gather(const Params& p, const GemmWork& work, const GemmShared& at) {
    const int lane = threadIdx.x % T::lanes;
#pragma unroll 1
    for (int r = static_cast<int>(threadIdx.x) / T::lanes; r < T::rows; r += step) {
      const GemmPixel pixel = pixel_of<D>(p, work.first_row + r);
      const S* row = place_of(x, p, pixel);
      const S* second_row = second_place_of<D>(second, p, work.first_row + r);
#pragma unroll 1
      for (int q = lane; q < D::chunks; q += T::lanes) {
        const int channel = work.first_channel + q * T::chunk;
        GemmChunk chunk{channel * p.in[3], kNeverThere};
        if constexpr (taps) {
          chunk = read_table(at.extra, q);
        } else if (q < work.present) {
          chunk.need = 1u | static_cast<unsigned>(min(T::chunk, D::channels - channel)) << 24;
        }
        const unsigned need = chunk.need & kTapBits;
        const S* source = D::two && channel >= D::first ? second_row : row;
        gather_chunk(at.rows + r * D::pitch + q * 16, source + chunk.offset, p.in[3],
                     (pixel.inside & need) == need ? static_cast<int>(chunk.need >> 24) : 0);
      }
    }
  }

  template <class Acc>
  __device__ __forceinline__ void multiply(const GemmShared&, const unsigned (&weights)[T::n_pairs], Acc& acc) const {
    auto load = [&](GemmFragments<T>& f, int i) {
      f.load(fragments, i * 32 * T::warps_k, weights, i * 32 * T::warps_k);
    };
    constexpr int few = 16;
    if constexpr (D::rounds <= few) {
      multiply_unrolled<T, D::rounds>(acc, load);
    } else {
      multiply_rounds<T>(D::rounds, acc, load);
    }
  }
};

// ---- x as a patch: the block's rows of the image are read once for all taps

// The steps of every tap are shared evenly by the warps along k.
template <class T, class D>
struct GemmPatch {
  using S = typename T::Element;
  static constexpr int step = T::threads / T::lanes;
  static constexpr int per_tap = D::slice / 2 / T::warps_k;  // Steps of a warp.
  static constexpr bool vectors = true;
  static constexpr int extra_bytes = D::slice * 16;  // A pixel of zeros.
  static_assert(per_tap * T::warps_k * 2 == D::slice, "warps share a tap evenly");
  const S* from;
  unsigned to;
  int from_step, pixels;
  unsigned zeros;
  unsigned first[T::m_tiles];  // Address of the first tap's pixel.
  unsigned inside[T::m_tiles];
  int row_bytes, column_bytes;

  template <class Params>
  __device__ __forceinline__ void prepare(const S* x, const Params& p, const GemmWork& work, const GemmShared& at) {
    const int lane = threadIdx.x % T::lanes, start = static_cast<int>(threadIdx.x) / T::lanes;
    const GemmPixel begin = pixel_of<D>(p, work.first_row);
    const GemmPixel end = pixel_of<D>(p, min(work.first_row + T::rows, p.rows) - 1);
    // Rows of all images, one image after the other.
    const int top = begin.image * p.height + min(max(begin.row, 0), p.height - 1);
    const int lowest = min(end.row + (D::window_rows - 1) * p.dilation_h, p.height - 1);
    pixels = max(end.image * p.height + max(lowest, -1) + 1 - top, 0) * p.width;
    from = x + (top * p.in[1] + start * p.in[2] + (work.first_channel + lane * T::chunk) * p.in[3]);
    from_step = step * p.in[2];
    to = at.rows + start * D::pixel_pitch + lane * 16;
    const int within = threadIdx.x % 32, part = within / 16 * 16 + T::warp_k() * 32;
    zeros = at.extra + part;
#pragma unroll
    for (int i = 0; i < T::m_tiles; ++i) {
      const GemmPixel pixel = pixel_of<D>(p, work.first_row + (T::warp_m() * T::m_tiles + i) * 16 + within % 16);
      const int index = (pixel.image * p.height + pixel.row - top) * p.width + pixel.column;
      first[i] = at.rows + index * D::pixel_pitch + part;
      inside[i] = pixel.inside;
      if constexpr (D::tile_groups > 1) {
        first[i] += T::warp_n() * (D::channels / T::chunk) * 16;
        // The second chunk of a step is the next group's: zeros instead.
        if (D::channels == T::chunk && within >= 16) inside[i] = 0;
      }
      have_ready(first[i]);
      have_ready(inside[i]);
    }
    row_bytes = p.dilation_h * p.width * D::pixel_pitch;
    column_bytes = p.dilation_w * D::pixel_pitch;
    have_ready(row_bytes);
    have_ready(column_bytes);
    have_ready(zeros);
    have_ready(from);
    have_ready(from_step);
    have_ready(to);
    have_ready(pixels);
    for (int q = threadIdx.x; q < D::slice; q += T::threads)
      asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(at.extra + q * 16), "r"(0) : "memory");
  }

  template <class Params>
  __device__ __forceinline__ void load(const Params&, const GemmWork& work, const GemmShared&) {
    const int lane = threadIdx.x % T::lanes, start = static_cast<int>(threadIdx.x) / T::lanes;
    for (int q = lane; q < D::x_slice; q += T::lanes) {
      const bool there = D::whole || q < work.present;
      const S* source = from + (q - lane) * T::chunk;
      unsigned target = to + (q - lane) * 16;
#pragma unroll 4
      for (int pixel = start; pixel < pixels; pixel += step) {
        copy_async16(target, source, there);
        source += from_step;
        target += step * D::pixel_pitch;
      }
    }
  }
  template <class Params>
  __device__ __forceinline__ void gather(const Params& p, const GemmWork& work, const GemmShared&) {
    const int lane = threadIdx.x % T::lanes, start = static_cast<int>(threadIdx.x) / T::lanes;
#pragma unroll 1
    for (int q = lane; q < D::x_slice; q += T::lanes) {
      const int left = q < work.present ? D::x_channels - work.first_channel - q * T::chunk : 0;
      const S* source = from + (q - lane) * T::chunk * p.in[3];
      unsigned target = to + (q - lane) * 16;
#pragma unroll 1
      for (int pixel = start; pixel < pixels; pixel += step) {
        gather_chunk(target, source, p.in[3], left);
        source += from_step;
        target += step * D::pixel_pitch;
      }
    }
  }

  // Some taps of a row of the window at a time.
  template <class Acc>
  __device__ __forceinline__ void multiply(const GemmShared&, const unsigned (&weights)[T::n_pairs], Acc& acc) const {
    constexpr int many = 32;
    constexpr int together = per_tap * D::window_columns <= many ? D::window_columns : 1;
    unsigned part[T::n_pairs];
#pragma unroll
    for (int j = 0; j < T::n_pairs; ++j) part[j] = weights[j];
    unsigned row_bit = 1;
    int line = 0;
#pragma unroll 1
    for (int r = 0; r < D::window_rows; ++r) {
      unsigned column_bit = 1u << 12;
      int place = line;
#pragma unroll 1
      for (int s = 0; s < D::window_columns; s += together) {
        unsigned rows[together][T::m_tiles];
#pragma unroll
        for (int tap = 0; tap < together; ++tap) {
          const unsigned need = row_bit | column_bit << tap;
#pragma unroll
          for (int i = 0; i < T::m_tiles; ++i)
            rows[tap][i] = (inside[i] & need) == need ? first[i] + place + tap * column_bytes : zeros;
        }
        auto load = [&](GemmFragments<T>& f, int i) {
          f.load(rows[together == 1 ? 0 : i / per_tap], (together == 1 ? i : i % per_tap) * 32 * T::warps_k, part,
                 i * 32 * T::warps_k);
        };
        if constexpr (per_tap * together <= many) {
          multiply_unrolled<T, per_tap * together>(acc, load);
        } else {
          multiply_rounds<T>(per_tap * together, acc, load);
        }
        column_bit <<= together;
        place += together * column_bytes;
#pragma unroll
        for (int j = 0; j < T::n_pairs; ++j) part[j] += per_tap * together * 32 * T::warps_k;
      }
      row_bit <<= 1;
      line += row_bytes;
    }
  }
};

}  // namespace tw
