// Convolutions without tensor cores: depthwise, and any grouping one result at a time.
#pragma once

#include "index.cuh"
#include "staged.cuh"
#include "types.cuh"

namespace tw {

// What the compiler must know of a depthwise convolution.
template <int rows_, int columns_, int stride_h_, int stride_w_, int dilation_h_, int dilation_w_>
struct Window {
  static constexpr int rows = rows_, columns = columns_;
  static constexpr int stride_h = stride_h_, stride_w = stride_w_;
  static constexpr int dilation_h = dilation_h_, dilation_w = dilation_w_;
};

// The filters of V channels, as X or already widened as F. Small windows are read at once, before the input is there;
// of large ones a row is read when it is needed, since registers would not do.
template <class Win, int V, class X, class F>
struct Filters {
  static constexpr int most_registers = 112;
  static constexpr bool at_once = Win::rows * Win::columns * V * static_cast<int>(sizeof(F)) / 4 <= most_registers;
  static constexpr int kept_rows = at_once ? Win::rows : 1;
  const X* weights;
  long long channels;
  Staged<V, F> rows[kept_rows][Win::columns];

  __device__ __forceinline__ void read_row(int r, int slot) {
#pragma unroll
    for (int s = 0; s < Win::columns; ++s) {
      const X* at = weights + (r * Win::columns + s) * channels;
      if constexpr (same<F, X>) {
        rows[slot][s].fetch(at, true);
      } else {
        read<V>(at, true, rows[slot][s].elements);
      }
    }
  }
  __device__ __forceinline__ Filters(const X* at, long long count) : weights(at), channels(count) {
    if constexpr (at_once) {
#pragma unroll
      for (int r = 0; r < Win::rows; ++r) read_row(r, r);
    }
  }
  __device__ __forceinline__ const Staged<V, F>* row(int r) {
    if constexpr (at_once) return rows[r];
    read_row(r, 0);
    return rows[0];
  }
};

// Filters that many rows of results use are widened once, where registers do.
template <bool widened, class X>
struct FilterElement {
  using type = X;
};
template <class X>
struct FilterElement<true, X> {
  using type = Compute<X>;
};

// One row of the input for the results that read it with row r of the filters.
template <class Win, int tile_w, int V, int span, class X, class F>
__device__ __forceinline__ void take_row(const Staged<V, X> (&input)[span], const Staged<V, F>* filter,
                                         Compute<X> (&sum)[tile_w][V]) {
#pragma unroll
  for (int s = 0; s < Win::columns; ++s) {
#pragma unroll
    for (int t = 0; t < tile_w; ++t) {
#pragma unroll
      for (int k = 0; k < V; ++k) {
        sum[t][k] += widen(input[t * Win::stride_w + s * Win::dilation_w].elements[k]) * widen(filter[s].elements[k]);
      }
    }
  }
}

// Which inputs along one dimension neighbouring results read, counted from the first one's first; dilation leaves gaps.
template <int results, int stride, int taps, int dilation>
struct Reads {
  static constexpr int span = (results - 1) * stride + (taps - 1) * dilation + 1;
  __device__ __forceinline__ static constexpr bool has(int at) {
    for (int t = 0; t < results; ++t) {
      const int behind = at - t * stride;
      if (behind >= 0 && behind % dilation == 0 && behind / dilation < taps) return true;
    }
    return false;
  }
  __device__ __forceinline__ static constexpr int before(int end) {
    int number = 0;
    for (int at = 0; at < end; ++at) number += has(at);
    return number;
  }
  static constexpr int count = before(span);
  // Where the `number`-th of them lies.
  __device__ __forceinline__ static constexpr int place(int number) {
    int at = 0;
    for (; number > 0 || !has(at); ++at) number -= has(at);
    return at;
  }
};

// Calls step(Number<first>{}) and so on for as long as it returns true: a loop that is unrolled whatever its size.
template <int number>
struct Number {
  static constexpr int value = number;
};
template <int first, int end, class Step>
__device__ __forceinline__ void unrolled(const Step& step) {
  if constexpr (first < end) {
    if (step(Number<first>{})) unrolled<first + 1, end>(step);
  }
}

// A word of memory, or zeros without reading. By predicates: branches would keep other loads from starting meanwhile.
// Volatile, so that it stays behind wait_for_previous.
__device__ __forceinline__ void fetch_if(bool wanted, const uint4* p, uint4& word) {
  asm volatile(
      "{\n\t.reg .pred wanted;\n\tsetp.ne.s32 wanted, %5, 0;\n\tmov.b32 %0, 0;\n\tmov.b32 %1, 0;\n\tmov.b32 %2, 0;\n\t"
      "mov.b32 %3, 0;\n\t@wanted ld.global.v4.u32 {%0, %1, %2, %3}, [%4];\n\t}"
      : "=&r"(word.x), "=&r"(word.y), "=&r"(word.z), "=&r"(word.w)
      : "l"(p), "r"(static_cast<int>(wanted)));
}
__device__ __forceinline__ void fetch_if(bool wanted, const uint2* p, uint2& word) {
  asm volatile(
      "{\n\t.reg .pred wanted;\n\tsetp.ne.s32 wanted, %3, 0;\n\tmov.b32 %0, 0;\n\tmov.b32 %1, 0;\n\t"
      "@wanted ld.global.v2.u32 {%0, %1}, [%2];\n\t}"
      : "=&r"(word.x), "=&r"(word.y)
      : "l"(p), "r"(static_cast<int>(wanted)));
}
__device__ __forceinline__ void fetch_if(bool wanted, const unsigned* p, unsigned& word) {
  asm volatile(
      "{\n\t.reg .pred wanted;\n\tsetp.ne.s32 wanted, %2, 0;\n\tmov.b32 %0, 0;\n\t@wanted ld.global.u32 %0, [%1];\n\t}"
      : "=&r"(word)
      : "l"(p), "r"(static_cast<int>(wanted)));
}
__device__ __forceinline__ void fetch_if(bool wanted, const unsigned short* p, unsigned short& word) {
  asm volatile(
      "{\n\t.reg .pred wanted;\n\tsetp.ne.s32 wanted, %2, 0;\n\tmov.b16 %0, 0;\n\t@wanted ld.global.u16 %0, [%1];\n\t}"
      : "=&h"(word)
      : "l"(p), "r"(static_cast<int>(wanted)));
}

// A tile whose words do not begin where words can be moved. `base`: its first input.
template <class Win, int tile_h, int tile_w, int V, class X, class Params, class E, class I>
__device__ __forceinline__ void depthwise_by_elements(const X* base, const Params& p, const E& elements,
                                                      const Compute<X> (&bias)[V], int top, int left, I i0, I i1, I i2,
                                                      I i3) {
  const X* weights = reinterpret_cast<const X*>(p.weights) + i3;
#pragma unroll 1
  for (int t = 0; t < tile_h * tile_w; ++t) {
    const int down = t / tile_w, right = t % tile_w;
    if (i1 + down >= p.out_height || i2 + right >= p.out_width) continue;
    Compute<X> sum[V];
#pragma unroll
    for (int k = 0; k < V; ++k) sum[k] = bias[k];
#pragma unroll 1
    for (int tap = 0; tap < Win::rows * Win::columns; ++tap) {
      const int a = down * Win::stride_h + tap / Win::columns * Win::dilation_h;
      const int c = right * Win::stride_w + tap % Win::columns * Win::dilation_w;
      if (!is_within(top + a, p.height)) continue;
      if (!is_within(left + c, p.width)) continue;
      const X* at = base + a * p.in[1] + c * p.in[2];
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] += widen(at[k]) * widen(weights[tap * p.channels + k]);
    }
    elements.template run<V>(sum, i0, i1 + down, i2 + right, i3);
  }
}

// x [N,H,W,C] by strides p.in (C innermost), weights [rows][columns][C], bias [C] in the compute type or null. One
// thread computes V channels of tile_h x tile_w neighbouring results. It goes down the rows of x, the next ones on
// their way: a result's sum begins with its first row and is written with its last, so that few are kept at a time.
// Neighbouring threads share out p.chunk channels, then neighbouring tiles, since these read the same.
template <class Win, int tile_h, int tile_w, int V, class X, class Params, class E>
__device__ __forceinline__ void depthwise(const X* x, const Params& p, const E& elements) {
  using I = decltype(p.items);
  using A = Compute<X>;
  using W = typename Staged<V, X>::W;
  static_assert(sizeof(W) == sizeof(X) * V, "one word");
  const I item = static_cast<I>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (item >= p.items) {
    wait_for_previous();
    return;
  }
  I rest = item, chunk, i1, i2, i3;
  divide(rest, p.size[4], rest, i3);
  divide(rest, p.size[3], rest, i2);
  divide(rest, p.size[2], rest, i1);
  divide(rest, p.size[1], rest, chunk);
  const I i0 = rest;
  i3 = chunk * p.chunk + i3 * V;
  i2 *= tile_w;
  i1 *= tile_h;
  constexpr int widened_registers = Win::rows * Win::columns * V * static_cast<int>(sizeof(A)) / 4;
  using F = typename FilterElement<(tile_h > 2 && widened_registers <= 100), X>::type;
  Filters<Win, V, X, F> filters(reinterpret_cast<const X*>(p.weights) + i3, p.channels);
  A bias[V];
#pragma unroll
  for (int k = 0; k < V; ++k) bias[k] = p.bias ? reinterpret_cast<const A*>(p.bias)[i3 + k] : A(0);
  const int top = static_cast<int>(i1) * Win::stride_h - p.pad_h;
  const int left = static_cast<int>(i2) * Win::stride_w - p.pad_w;
  const X* base = x + i0 * p.in[0] + i3 + top * p.in[1] + left * p.in[2];
  wait_for_previous();
  if (V > 1 && (!is_aligned<V>(x) || !elements.aligned)) {
    depthwise_by_elements<Win, tile_h, tile_w, V>(base, p, elements, bias, top, left, i0, i1, i2, i3);
    return;
  }
  E by_words = elements;
  by_words.aligned = true;
  constexpr int last_row = (Win::rows - 1) * Win::dilation_h;
  using Rows = Reads<tile_h, Win::stride_h, Win::rows, Win::dilation_h>;
  using Columns = Reads<tile_w, Win::stride_w, Win::columns, Win::dilation_w>;
  // As many rows as registers allow.
  constexpr int row_bytes = Columns::count * static_cast<int>(sizeof(W));
  constexpr int ahead = row_bytes <= 32 ? 2 : row_bytes <= 128 ? 1 : 0;
  Staged<V, X> input[ahead + 1][Columns::span];
  auto fetch = [&](auto number) {
    constexpr int n = decltype(number)::value;
    if constexpr (n < Rows::count) {
      constexpr int a = Rows::place(n);
      const bool inside = is_within(top + a, p.height);
#pragma unroll
      for (int c = 0; c < Columns::span; ++c) {
        if (!Columns::has(c)) continue;
        const bool wanted = inside && is_within(left + c, p.width);
        fetch_if(wanted, reinterpret_cast<const W*>(base + a * p.in[1] + c * p.in[2]),
                 input[n % (ahead + 1)][c].words[0]);
      }
    }
    return true;
  };
  A sum[tile_h][tile_w][V];
  unrolled<0, ahead>(fetch);
  unrolled<0, Rows::count>([&](auto number) {
    constexpr int n = decltype(number)::value, a = Rows::place(n);
    fetch(Number<n + ahead>{});
#pragma unroll
    for (int t = 0; t < tile_h; ++t) {
      const int below = a - t * Win::stride_h;
      if (below < 0 || below % Win::dilation_h != 0 || below > last_row) continue;
      if (below == 0) {
#pragma unroll
        for (int i = 0; i < tile_w * V; ++i) sum[t][i / V][i % V] = bias[i % V];
      }
      take_row<Win, tile_w, V, Columns::span>(input[n % (ahead + 1)], filters.row(below / Win::dilation_h), sum[t]);
      if (below < last_row) continue;
      if (i1 + t >= p.out_height) return false;
#pragma unroll
      for (int u = 0; u < tile_w; ++u) {
        if (i2 + u < p.out_width) by_words.template run<V>(sum[t][u], i0, i1 + t, i2 + u, i3);
      }
    }
    return true;
  });
}

// x by strides p.in (N,H,W,C), weights [K][rows][columns][C / groups], bias [K] in the compute type or null. One thread
// computes one result; V channels are read at once (p.in[3] is 1 when V > 1).
template <bool channels_last, int V, class X, class Params, class E>
__device__ __forceinline__ void direct_conv(const X* x, const Params& p, const E& elements) {
  using I = decltype(p.items);
  using A = Compute<X>;
  const bool aligned = p.vector_reads && is_aligned<V>(x);
  wait_for_previous();
  const I item = static_cast<I>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (item >= p.items) return;
  I rest = item, i1, i2, i3;
  divide(rest, p.size[3], rest, i3);
  divide(rest, p.size[2], rest, i2);
  divide(rest, p.size[1], rest, i1);
  const I i0 = rest;
  const I k = channels_last ? i3 : i1, h = channels_last ? i1 : i2, w = channels_last ? i2 : i3;
  I group, within;
  divide(k, p.group_outputs, group, within);
  const int depth = p.group_inputs;
  const X* weights = reinterpret_cast<const X*>(p.weights) + k * p.weight_step;
  A sums[V] = {};  // V short sums round less than a long one, and do not wait for each other.
  for (int r = 0; r < p.rows; ++r) {
    const int row = static_cast<int>(h) * p.stride_h - p.pad_h + r * p.dilation_h;
    if (row < 0 || row >= p.height) continue;
    for (int s = 0; s < p.columns; ++s) {
      const int column = static_cast<int>(w) * p.stride_w - p.pad_w + s * p.dilation_w;
      if (column < 0 || column >= p.width) continue;
      const X* at = x + i0 * p.in[0] + row * p.in[1] + column * p.in[2] + group * depth * p.in[3];
      const X* filter = weights + static_cast<I>(r * p.columns + s) * depth;
      for (int c = 0; c < depth; c += V) {
        A v[V], f[V];
        if constexpr (V > 1) {
          read<V>(at + c, aligned, v);
        } else {
          v[0] = widen(at[c * p.in[3]]);
        }
        read<V>(filter + c, true, f);
#pragma unroll
        for (int e = 0; e < V; ++e) sums[e] += v[e] * f[e];
      }
    }
  }
#pragma unroll
  for (int step = V / 2; step > 0; step /= 2) {
#pragma unroll
    for (int e = 0; e < step; ++e) sums[e] += sums[e + step];
  }
  const A result[1] = {sums[0] + (p.bias ? reinterpret_cast<const A*>(p.bias)[k] : A(0))};
  elements.template run<1>(result, i0, i1, i2, i3);
}

}  // namespace tw
