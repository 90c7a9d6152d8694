// Expansion (1x1), depthwise and projection (1x1) convolutions as one kernel: a block of threads computes a tile of
// results, and what lies between the convolutions stays in its shared memory. Each part has its pointwise functions
// after it; values between the parts are rounded to the storage type, as if they were written.
//
// The host gives a struct C of constants (see kernels/cuda/inverted_residual_program.cpp):
//   S                                    storage type: f16 or bf16
//   expands, projects, adds_input        which parts there are; whether the block's input is an operand at the end
//   scales, pools, excites               see scaled_projection.cuh and excited_residual.cuh
//   in, hidden, out                      channels; `hidden` are those of one of the `splits` shares of the work
//   rows, columns, stride_*, dilation_*, pad_*        of the depthwise window
//   tile_h, tile_w, splits, warps        a block's results; shares of the hidden channels; warps of a block
//   persistent                           a block takes every gridDim.y-th row's tile of its column, of all samples
//   group_h, group_w, width              results and channels that a thread computes at once in the depthwise part
//   *_at                                 where things lie in shared memory, in bytes; those of weights from weights_at
//   *_step                               elements from row to row of matrices in shared memory
// and functions after_expand(acc), after_depthwise(acc), after_project(acc, added).
//
// With several shares of a projecting block they form a cluster, and each adds up and finishes its part of the results.
#pragma once

#include "block.cuh"
#include "index.cuh"
#include "mma.cuh"

namespace tw {

// The order of 16 columns of weights (rows of the packed matrix) by which a lane's results are 4 neighbouring channels.
// c[m][j][2 h + u] of multiply_rows is row lane / 4 + 8 h, channel 4 (lane % 4) + 2 j + u.
//
// The product of M times 16 rows at `a` and 16 columns at `b`, both shared addresses of this lane's ldmatrix row.
template <class S, int M, int steps, int a_step>
__device__ __forceinline__ void multiply_rows(unsigned a, unsigned b, float (&c)[M][2][4]) {
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int i = 0; i < 4; ++i) c[m][0][i] = c[m][1][i] = 0.f;
  }
#pragma unroll(steps <= 12 ? steps : 6)
  for (int k = 0; k < steps; ++k) {
    unsigned columns[4];
    load_matrix(columns, b + k * 32);
    const unsigned first[2] = {columns[0], columns[1]}, second[2] = {columns[2], columns[3]};
#pragma unroll
    for (int m = 0; m < M; ++m) {
      unsigned rows[4];
      load_matrix(rows, a + (m * 16 * a_step) * 2 + k * 32);
      multiply_add<S>(c[m][0], rows, first);
      multiply_add<S>(c[m][1], rows, second);
    }
  }
}

// Where the barriers of a cluster lie, behind that of the weights.
inline constexpr unsigned sums_barrier = 8, exchange_barrier = 16;

// One tile of the image: where it and its input lie.
template <class C>
struct TilePlace {
  static constexpr int region_h = (C::tile_h - 1) * C::stride_h + (C::rows - 1) * C::dilation_h + 1;
  static constexpr int region_w = (C::tile_w - 1) * C::stride_w + (C::columns - 1) * C::dilation_w + 1;
  static constexpr int region = region_h * region_w;
  static constexpr int tile = C::tile_h * C::tile_w;

  int sample, row, column;  // Of the first result.
  int top, left;            // Of the first input pixel; may lie outside of the image.
  int split;

  // `line`: which row of tiles, of all samples'.
  template <class Params>
  __device__ __forceinline__ TilePlace(int line, const Params& p) {
    split = static_cast<int>(blockIdx.x % C::splits);
    column = static_cast<int>(blockIdx.x / C::splits) * C::tile_w;
    sample = line / p.tiles_h;
    row = (line - sample * p.tiles_h) * C::tile_h;
    top = row * C::stride_h - C::pad_h;
    left = column * C::stride_w - C::pad_w;
  }
  // True when this pixel of the region lies in the image.
  template <class Params>
  __device__ __forceinline__ bool covers(int pixel, const Params& p) const {
    const int h = top + pixel / region_w, w = left + pixel % region_w;
    return is_within(h, p.height) && is_within(w, p.width);
  }
};

// Copies the region's pixels, `channels` each, into shared memory, with zeros outside of the image and for channels up
// to `filled`. Addresses are computed before the kernel ahead has ended.
template <class C, int channels, int filled, int step, class Params>
__device__ __forceinline__ void load_region(const typename C::S* x, unsigned to, const TilePlace<C>& place,
                                            const Params& p) {
  using S = typename C::S;
  constexpr int chunks = filled / 8, threads = C::warps * 32, count = TilePlace<C>::region * chunks;
  constexpr int rounds = (count + threads - 1) / threads, ahead = rounds < 8 ? rounds : 8;
  const S* image = x + static_cast<long long>(place.sample) * p.x[0];
  const bool aligned = is_aligned<8>(x);
  auto source = [&](int i, bool& valid) {
    const int pixel = i / chunks, chunk = i % chunks;
    valid = place.covers(pixel, p) && chunk * 8 < channels;
    const int h = place.top + pixel / TilePlace<C>::region_w, w = place.left + pixel % TilePlace<C>::region_w;
    return valid ? image + (h * p.x[1] + w * p.x[2] + chunk * 8) : image;
  };
  auto target = [&](int i) { return to + (i / chunks * step + i % chunks * 8) * 2; };
  const S* from[ahead];
  unsigned at[ahead];
  bool valid[ahead];
#pragma unroll
  for (int r = 0; r < ahead; ++r) {
    const int i = static_cast<int>(threadIdx.x) + r * threads;
    from[r] = source(i, valid[r]);
    at[r] = target(i);
    asm volatile("" ::"l"(from[r]), "r"(at[r]));
  }
  wait_for_previous();
  if (aligned) {
#pragma unroll
    for (int r = 0; r < ahead; ++r) {
      if (static_cast<int>(threadIdx.x) + r * threads < count) copy_async16(at[r], from[r], valid[r]);
    }
    for (int i = static_cast<int>(threadIdx.x) + ahead * threads; i < count; i += threads) {
      bool inside;
      const S* one = source(i, inside);
      copy_async16(target(i), one, inside);
    }
  } else {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) {
      bool inside;
      const S* one = source(i, inside);
      if (inside) {
        copy_one_by_one(target(i), one);
      } else {
        copy_async16(target(i), image, false);
      }
    }
  }
  commit_copies();
}

// Notes for every row of the expansion whether it is a pixel of the image.
template <class C, class Params>
__device__ __forceinline__ void note_covered(unsigned char* memory, const TilePlace<C>& place, const Params& p) {
  for (int i = threadIdx.x; i < round_up(TilePlace<C>::region, 16); i += C::warps * 32)
    memory[C::covered_at + i] = place.covers(i, p);
}

// The expansion of every pixel of the region; zeros outside of the image, where the depthwise part has its padding.
template <class C>
__device__ __forceinline__ void expand(unsigned char* memory, unsigned base) {
  using S = typename C::S;
  constexpr int tiles_m = round_up(TilePlace<C>::region, 16) / 16, tiles_n = round_up(C::hidden, 16) / 16;
  constexpr int steps = round_up(C::in, 16) / 16;
  constexpr int M = tiles_m % 2 == 0 && tiles_m * tiles_n >= 2 * C::warps ? 2 : 1;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned a = base + C::x_at + ((lane & 15) * C::in_step + (lane >> 4) * 8) * 2;
  const unsigned b = base + C::weights_at + C::expand_at +
                     (((lane & 7) + ((lane >> 4) << 3)) * C::in_step + ((lane >> 3) & 1) * 8) * 2;
  const float* bias = reinterpret_cast<const float*>(memory + C::weights_at + C::expand_bias_at);
  S* hidden = reinterpret_cast<S*>(memory + C::hidden_at);
  for (int unit = warp; unit < tiles_m / M * tiles_n; unit += C::warps) {
    const int n = unit % tiles_n, m = unit / tiles_n * M;
    const int channel = n * 16 + lane % 4 * 4;
    const float4 add = *reinterpret_cast<const float4*>(bias + channel);
    bool covered[M][2];
#pragma unroll
    for (int i = 0; i < M; ++i) {
      covered[i][0] = memory[C::covered_at + (m + i) * 16 + lane / 4];
      covered[i][1] = memory[C::covered_at + (m + i) * 16 + lane / 4 + 8];
    }
    float c[M][2][4];
    multiply_rows<S, M, steps, C::in_step>(a + m * 16 * C::in_step * 2, b + n * 16 * C::in_step * 2, c);
#pragma unroll
    for (int i = 0; i < M; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int pixel = (m + i) * 16 + lane / 4 + h * 8;
        float v[4] = {c[i][0][2 * h] + add.x, c[i][0][2 * h + 1] + add.y, c[i][1][2 * h] + add.z,
                      c[i][1][2 * h + 1] + add.w};
        C::after_expand(v);
#pragma unroll
        for (int e = 0; e < 4; ++e) v[e] = covered[i][h] ? v[e] : 0.f;
        write<4>(hidden + pixel * C::hidden_step + channel, true, v);
      }
    }
  }
}

// `width` numbers of a row of packed f32 constants: those of channels `group` times width and on.
template <int width, int groups>
__device__ __forceinline__ void read_packed(const float* row, int group, float (&v)[width]) {
  if constexpr (width == 2) {
    const float2 two = *reinterpret_cast<const float2*>(row + group * 2);
    v[0] = two.x, v[1] = two.y;
  } else {
#pragma unroll
    for (int part = 0; part < width / 4; ++part) {
      const float4 four = *reinterpret_cast<const float4*>(row + (part * groups + group) * 4);
      v[part * 4] = four.x, v[part * 4 + 1] = four.y, v[part * 4 + 2] = four.z, v[part * 4 + 3] = four.w;
    }
  }
}

// The depthwise part: takes `finish(acc, row, column, channel)` for every result of the tile, `width` channels at once.
template <class C, class F>
__device__ __forceinline__ void depthwise_tile(const unsigned char* memory, const F& finish) {
  using S = typename C::S;
  using Place = TilePlace<C>;
  constexpr int groups = C::hidden / C::width, across = C::tile_w / C::group_w, down = C::tile_h / C::group_h;
  constexpr int span = (C::group_w - 1) * C::stride_w + (C::columns - 1) * C::dilation_w + 1;
  const float* weights = reinterpret_cast<const float*>(memory + C::weights_at + C::depthwise_at);
  const float* bias = reinterpret_cast<const float*>(memory + C::weights_at + C::depthwise_bias_at);
  const S* hidden = reinterpret_cast<const S*>(memory + C::hidden_at);
  for (int item = threadIdx.x; item < down * across * groups; item += C::warps * 32) {
    const int group = item % groups, place = item / groups;
    const int row = place / across * C::group_h, column = place % across * C::group_w;
    float sum[C::group_h][C::group_w][C::width];
    float start[C::width];
    read_packed<C::width, groups>(bias, group, start);
#pragma unroll
    for (int i = 0; i < C::group_h * C::group_w; ++i) {
#pragma unroll
      for (int e = 0; e < C::width; ++e) sum[i / C::group_w][i % C::group_w][e] = start[e];
    }
    const S* corner =
        hidden + (row * C::stride_h * Place::region_w + column * C::stride_w) * C::hidden_step + group * C::width;
#pragma unroll(C::rows <= 3 && C::group_h * C::group_w <= 2 ? C::rows : 1)
    for (int r = 0; r < C::rows; ++r) {
      float w[C::columns][C::width];
#pragma unroll
      for (int s = 0; s < C::columns; ++s)
        read_packed<C::width, groups>(weights + (r * C::columns + s) * C::hidden, group, w[s]);
#pragma unroll
      for (int y = 0; y < C::group_h; ++y) {
        const S* line = corner + (y * C::stride_h + r * C::dilation_h) * Place::region_w * C::hidden_step;
#pragma unroll
        for (int x = 0; x < span; ++x) {
          float v[C::width];
          read<C::width>(line + x * C::hidden_step, true, v);
#pragma unroll
          for (int s = 0; s < C::columns; ++s) {
            const int before = x - s * C::dilation_w;
            if (before < 0 || before % C::stride_w != 0 || before / C::stride_w >= C::group_w) continue;
#pragma unroll
            for (int e = 0; e < C::width; ++e) sum[y][before / C::stride_w][e] += v[e] * w[s][e];
          }
        }
      }
    }
#pragma unroll
    for (int y = 0; y < C::group_h; ++y) {
#pragma unroll
      for (int x = 0; x < C::group_w; ++x) {
        C::after_depthwise(sum[y][x]);
        finish(sum[y][x], row + y, column + x, group * C::width);
      }
    }
  }
}

// Finishes 4 channels of one result and writes them, if it lies in the image.
template <class C, class Params>
__device__ __forceinline__ void finish_projection(float (&v)[4], int result, int channel, const unsigned char* memory,
                                                  typename C::S* y, bool aligned, const TilePlace<C>& place,
                                                  const Params& p) {
  using S = typename C::S;
  using Place = TilePlace<C>;
  const int down = result / C::tile_w, across = result % C::tile_w;
  const int h = place.row + down, w = place.column + across;
  if (h >= p.out_height || w >= p.out_width) return;
  const float4 bias =
      *reinterpret_cast<const float4*>(memory + C::weights_at + C::project_bias_at + channel * sizeof(float));
  v[0] += bias.x, v[1] += bias.y, v[2] += bias.z, v[3] += bias.w;
  float added[4] = {0.f, 0.f, 0.f, 0.f};
  if constexpr (C::adds_input && C::scales) {
    read<4>(reinterpret_cast<const S*>(memory + C::added_at) + result * C::out_step + channel, true, added);
  } else if constexpr (C::adds_input) {
    constexpr int step = C::expands ? C::in_step : C::hidden_step;
    const S* input = reinterpret_cast<const S*>(memory + (C::expands ? C::x_at : C::hidden_at));
    read<4>(input + ((down + C::pad_h) * Place::region_w + across + C::pad_w) * step + channel, true, added);
  }
  C::after_project(v, added);
  write<4>(y + static_cast<long long>(place.sample) * p.y[0] + h * p.y[1] + w * p.y[2] + channel, aligned, v);
}

// The projection. With several splits each block of the cluster pushes its sums to the one that finishes them.
template <class C, class Params>
__device__ __forceinline__ void project(unsigned char* memory, unsigned base, typename C::S* y,
                                        const TilePlace<C>& place, const Params& p) {
  using S = typename C::S;
  constexpr int tile = TilePlace<C>::tile, tiles_m = round_up(tile, 16) / 16, tiles_n = round_up(C::out, 16) / 16;
  constexpr int steps = round_up(C::hidden, 16) / 16;
  constexpr int items = tile * C::out / 4, share = (items + C::splits - 1) / C::splits;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool aligned = is_aligned<4>(y);
  const unsigned a = base + C::result_at + ((lane & 15) * C::hidden_step + (lane >> 4) * 8) * 2;
  const unsigned b = base + C::weights_at + C::project_at +
                     (((lane & 7) + ((lane >> 4) << 3)) * C::hidden_step + ((lane >> 3) & 1) * 8) * 2;
  if constexpr (C::splits > 1 && !C::excites) cluster_wait();
  for (int unit = warp; unit < tiles_m * tiles_n; unit += C::warps) {
    const int n = unit % tiles_n, m = unit / tiles_n;
    float c[1][2][4];
    multiply_rows<S, 1, steps, C::hidden_step>(a + m * 16 * C::hidden_step * 2, b + n * 16 * C::hidden_step * 2, c);
    const int channel = n * 16 + lane % 4 * 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int result = m * 16 + lane / 4 + h * 8;
      if (result >= tile || channel >= C::out) continue;
      float v[4] = {c[0][0][2 * h], c[0][0][2 * h + 1], c[0][1][2 * h], c[0][1][2 * h + 1]};
      if constexpr (C::splits == 1) {
        finish_projection<C>(v, result, channel, memory, y, aligned, place, p);
      } else {
        const int item = result * (C::out / 4) + channel / 4, rank = item / share;
        const unsigned to = base + C::sums_at + (place.split * share + item - rank * share) * 16;
        store_async(peer_address(to, rank), v[0], v[1], v[2], v[3], peer_address(base + sums_barrier, rank));
      }
    }
  }
  if constexpr (C::splits > 1) {
    wait_for_phase(base + sums_barrier, 0);
    const float4* sums = reinterpret_cast<const float4*>(memory + C::sums_at);
    for (int i = threadIdx.x; i < share && place.split * share + i < items; i += C::warps * 32) {
      float v[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
      for (int s = 0; s < C::splits; ++s) {
        const float4 part = sums[s * share + i];
        v[0] += part.x, v[1] += part.y, v[2] += part.z, v[3] += part.w;
      }
      const int item = place.split * share + i;
      finish_projection<C>(v, item / (C::out / 4), item % (C::out / 4) * 4, memory, y, aligned, place, p);
    }
  }
}

// Starts the copy of this split's packed weights.
template <class C>
__device__ __forceinline__ void fetch_weights(const unsigned char* weights, unsigned base, int split) {
  constexpr int items = C::tile_h * C::tile_w * C::out / 4, share = (items + C::splits - 1) / C::splits;
  if constexpr (has_bulk_copies) {
    if (threadIdx.x == 0) {
      init_barrier(base, 1);
      if constexpr (C::projects && C::splits > 1) init_barrier(base + sums_barrier, 1);
      if constexpr (C::excites && C::splits > 1) init_barrier(base + exchange_barrier, 1);
      barriers_ready();
      expect_bytes(base, C::weights_bytes);
      copy_bulk(base + C::weights_at, weights + static_cast<long long>(split) * C::weights_bytes, C::weights_bytes,
                base);
      if constexpr (C::projects && C::splits > 1) {
        const int mine = items - split * share;
        expect_bytes(base + sums_barrier, (mine < 0 ? 0 : mine < share ? mine : share) * 16 * C::splits);
        if constexpr (C::excites) expect_bytes(base + exchange_barrier, C::splits * round_up(C::squeezed, 4) * 4);
      }
    }
    __syncthreads();
    if constexpr (C::projects && C::splits > 1) cluster_arrive();
  } else {
    for (int i = threadIdx.x; i < C::weights_bytes / 16; i += C::warps * 32) {
      copy_async16(base + C::weights_at + i * 16, weights + static_cast<long long>(split) * C::weights_bytes + i * 16,
                   true);
    }
  }
}

// Waits until they are there; without bulk copies only for what this thread has copied.
__device__ __forceinline__ void wait_for_weights(unsigned base) {
  if constexpr (has_bulk_copies) {
    wait_for_phase(base, 0);
  } else {
    wait_for_copies<0>();
  }
}

// Starts to bring the input of a tile.
template <class C, class Params>
__device__ __forceinline__ void bring_input(const typename C::S* x, unsigned char* memory, unsigned base,
                                            const TilePlace<C>& place, const Params& p) {
  if constexpr (C::expands) {
    note_covered<C>(memory, place, p);
    load_region<C, C::in, round_up(C::in, 16), C::in_step>(x, base + C::x_at, place, p);
  } else {
    load_region<C, C::hidden, C::hidden, C::hidden_step>(x + place.split * C::hidden, base + C::hidden_at, place, p);
  }
}

// Waits for it and for the weights, and expands it.
template <class C>
__device__ __forceinline__ void prepare_depthwise(unsigned char* memory, unsigned base) {
  wait_for_copies<0>();
  wait_for_weights(base);
  __syncthreads();
  if constexpr (C::expands) {
    expand<C>(memory, base);
    __syncthreads();
  }
}

// The depthwise part where a projection follows.
template <class C>
__device__ __forceinline__ void depthwise_results(unsigned char* memory) {
  using S = typename C::S;
  S* results = reinterpret_cast<S*>(memory + C::result_at);
  depthwise_tile<C>(memory, [&](const float(&sum)[C::width], int row, int column, int channel) {
    write<C::width>(results + (row * C::tile_w + column) * C::hidden_step + channel, true, sum);
  });
  if constexpr (C::projects && C::hidden % 16 != 0) {
    for (int i = threadIdx.x; i < TilePlace<C>::tile; i += C::warps * 32)
      *reinterpret_cast<uint4*>(results + i * C::hidden_step + C::hidden) = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
}

template <class C, class Params>
__device__ __forceinline__ void inverted_residual(const typename C::S* x, typename C::S* y, const Params& p) {
  using S = typename C::S;
  static_assert(C::expands || C::projects, "not a depthwise convolution alone");
  extern __shared__ __align__(128) unsigned char memory[];
  const unsigned base = shared_address(memory);
  int line = static_cast<int>(blockIdx.y);
  TilePlace<C> place(line, p);
  fetch_weights<C>(static_cast<const unsigned char*>(p.weights), base, place.split);
  bring_input<C>(x, memory, base, place, p);
  for (;;) {
    prepare_depthwise<C>(memory, base);
    const TilePlace<C> here = place;
    line += static_cast<int>(gridDim.y);
    const bool more = C::persistent && line < p.lines;
    if (more) place = TilePlace<C>(line, p);
    // The next input comes when the last has read this one: the expansion, or the depthwise part, or the addition.
    if (more && C::expands && !C::adds_input) bring_input<C>(x, memory, base, place, p);
    if constexpr (C::projects) {
      depthwise_results<C>(memory);
      if (more && !C::expands && !C::adds_input) bring_input<C>(x, memory, base, place, p);
      project<C>(memory, base, y, here, p);
    } else {
      S* out = y + static_cast<long long>(here.sample) * p.y[0] + here.split * C::hidden;
      const bool aligned = is_aligned<C::width>(y);
      depthwise_tile<C>(memory, [&](const float(&sum)[C::width], int row, int column, int channel) {
        const int h = here.row + row, w = here.column + column;
        if (h < p.out_height && w < p.out_width) write<C::width>(out + h * p.y[1] + w * p.y[2] + channel, aligned, sum);
      });
    }
    if (!more) return;
    if constexpr (C::adds_input) {
      __syncthreads();
      bring_input<C>(x, memory, base, place, p);
    }
  }
}

}  // namespace tw
