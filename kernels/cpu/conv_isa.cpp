// Compiled once per instruction set; TORCHWELD_ISA names the namespace.
#include <algorithm>
#include <type_traits>
#include <utility>

#include "kernels/cpu/conv_functions.h"
#include "kernels/cpu/lanes.h"

namespace torchweld::cpu::TORCHWELD_ISA {
namespace {

using V = Vec<float>;
constexpr int64_t kWidth = V::size();

/// Sums, weights and an operand fill the registers: 32 or 16.
constexpr int max_rows_of(int vectors) {
#if defined(__AVX512F__)
  constexpr int kRows[] = {12, 12, 8, 6};
#elif defined(__AVX2__)
  constexpr int kRows[] = {6, 6, 0, 0};
#else
  constexpr int kRows[] = {0, 0, 0, 0};
#endif
  return kRows[vectors - 1];
}

/// Writes `count` numbers: the sum, what is to be added, clamped.
template <class S>
inline void finish(const Tile& tile, V sum, int64_t row, int64_t column, int64_t count, V low, V high) {
  int64_t at = row * tile.out_stride + column;
  if (tile.added) sum = sum + load_lanes(static_cast<const S*>(tile.added) + at, count);
  store_lanes<S>(at::vec::clamp(sum, low, high), static_cast<S*>(tile.out) + at, count);
}

/// Sums of more products than this are cut in runs of so many: rounding errors grow with the length of a sum.
constexpr int64_t kRun = 128;

template <int kRows, int kVectors>
void dense_tile(const Tile& tile) {
  V totals[kRows][kVectors];
  V sums[kRows][kVectors];
  for (int v = 0; v < kVectors; ++v) {
    V bias = V::loadu(tile.bias + v * kWidth);
    for (int r = 0; r < kRows; ++r) sums[r][v] = bias;
  }
  auto each = [](auto f) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) f(r, v);
    }
  };
  // Rows lie apart, so that the processor does not see them coming.
  each([&](int r, int v) {
    int64_t at = r * tile.out_stride + v * kWidth;
    __builtin_prefetch(static_cast<const float*>(tile.out) + at, 1);
    if (tile.added) __builtin_prefetch(static_cast<const float*>(tile.added) + at);
  });
  bool has_totals = false;
  const float* weights = tile.weights;
  int64_t left = kRun;
  for (int64_t t = 0; t < tile.taps; ++t) {
    const float* rows[kRows];
    for (int r = 0; r < kRows; ++r) rows[r] = static_cast<const float*>(tile.operands[t * tile.pitch + r]);
    for (int64_t k = 0; k < tile.depth;) {
      int64_t end = std::min(tile.depth, k + left);
      left -= end - k;
      for (; k < end; ++k) {
        V w[kVectors];
        for (int v = 0; v < kVectors; ++v) w[v] = V::loadu(weights + v * kWidth);
        weights += kVectors * kWidth;
        for (int r = 0; r < kRows; ++r) {
          V x(rows[r][k]);
          for (int v = 0; v < kVectors; ++v) sums[r][v] = at::vec::fmadd(x, w[v], sums[r][v]);
        }
      }
      if (left > 0) continue;
      each([&](int r, int v) {
        totals[r][v] = has_totals ? totals[r][v] + sums[r][v] : sums[r][v];
        sums[r][v] = V(0);
      });
      has_totals = true;
      left = kRun;
    }
  }
  if (has_totals) each([&](int r, int v) { sums[r][v] = sums[r][v] + totals[r][v]; });
  V low(tile.low);
  V high(tile.high);
  int64_t last = tile.columns - (kVectors - 1) * kWidth;
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors - 1; ++v) finish<float>(tile, sums[r][v], r, v * kWidth, kWidth, low, high);
    finish<float>(tile, sums[r][kVectors - 1], r, (kVectors - 1) * kWidth, last, low, high);
  }
}

/// One vector of columns; `count` of them are there. Each pixel of x is read once for all rows that it is part of. The
/// folds stand for loops that must be unrolled, so that the sums stay in registers.
template <class S, int kRows, int kKernel, int kStride, bool kWhole>
inline void depthwise_vector(const Tile& tile, int64_t column, int64_t padded, int64_t count) {
  V sums[kRows];
  for (V& sum : sums) sum = V::loadu(tile.bias + column);
  for (int64_t t = 0; t < tile.taps; ++t) {
    V w[kKernel];
    for (int k = 0; k < kKernel; ++k) w[k] = V::loadu(tile.weights + (t * kKernel + k) * padded + column);
    const void* const* operands = tile.operands + t * tile.pitch;
    auto add_pixel = [&]<int kPixel>(std::integral_constant<int, kPixel>) {
      const S* p = static_cast<const S*>(operands[kPixel]) + column;
      V x = kWhole ? load_lanes(p) : load_lanes(p, count);
      auto add_tap = [&]<int kTap>(std::integral_constant<int, kTap>) {
        constexpr int kAt = kPixel - kTap;
        if constexpr (kAt >= 0 && kAt % kStride == 0 && kAt / kStride < kRows)
          sums[kAt / kStride] = at::vec::fmadd(x, w[kTap], sums[kAt / kStride]);
      };
      [&]<int... kTaps>(std::integer_sequence<int, kTaps...>) {
        (add_tap(std::integral_constant<int, kTaps>()), ...);
      }(std::make_integer_sequence<int, kKernel>());
    };
    [&]<int... kPixels>(std::integer_sequence<int, kPixels...>) {
      (add_pixel(std::integral_constant<int, kPixels>()), ...);
    }(std::make_integer_sequence<int, (kRows - 1) * kStride + kKernel>());
  }
  V low(tile.low);
  V high(tile.high);
  for (int r = 0; r < kRows; ++r) finish<S>(tile, sums[r], r, column, kWhole ? kWidth : count, low, high);
}

template <class S, int kRows, int kKernel, int kStride>
void depthwise_tile(const Tile& tile) {
  int64_t padded = (tile.columns + kWidth - 1) / kWidth * kWidth;
  int64_t column = 0;
  for (; column + kWidth <= tile.columns; column += kWidth)
    depthwise_vector<S, kRows, kKernel, kStride, true>(tile, column, padded, kWidth);
  if (column < tile.columns)
    depthwise_vector<S, kRows, kKernel, kStride, false>(tile, column, padded, tile.columns - column);
}

/// Any kernel, stride and dilation.
template <class S, int kRows>
void general_depthwise_tile(const Tile& tile) {
  int64_t padded = (tile.columns + kWidth - 1) / kWidth * kWidth;
  V low(tile.low);
  V high(tile.high);
  for (int64_t column = 0; column < tile.columns; column += kWidth) {
    int64_t count = std::min(kWidth, tile.columns - column);
    V sums[kRows];
    for (V& sum : sums) sum = V::loadu(tile.bias + column);
    for (int64_t t = 0; t < tile.taps; ++t) {
      for (int64_t k = 0; k < tile.kernel; ++k) {
        V w = V::loadu(tile.weights + (t * tile.kernel + k) * padded + column);
        const void* const* operands = tile.operands + t * tile.pitch + k * tile.dilation;
        for (int r = 0; r < kRows; ++r) {
          const S* p = static_cast<const S*>(operands[r * tile.stride]) + column;
          sums[r] = at::vec::fmadd(load_lanes(p, count), w, sums[r]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) finish<S>(tile, sums[r], r, column, count, low, high);
  }
}

template <int kVectors, size_t... kRows>
TileFunction pick_dense(int64_t rows, std::index_sequence<kRows...>) {
  static constexpr TileFunction kTiles[] = {dense_tile<static_cast<int>(kRows) + 1, kVectors>..., nullptr};
  return kTiles[rows - 1];
}

template <int kVectors>
TileFunction pick_dense(int64_t rows) {
  return pick_dense<kVectors>(rows, std::make_index_sequence<max_rows_of(kVectors)>());
}

TileFunction find_dense(int64_t rows, int64_t vectors) {
  static constexpr TileFunction (*kByVectors[])(int64_t) = {pick_dense<1>, pick_dense<2>, pick_dense<3>, pick_dense<4>};
  return kByVectors[vectors - 1](rows);
}

int64_t find_max_rows(int64_t vectors) { return max_rows_of(static_cast<int>(vectors)); }

template <class S, int kKernel, int kStride, size_t... kRows>
TileFunction pick_depthwise(int64_t rows, std::index_sequence<kRows...>) {
  static constexpr TileFunction kTiles[] = {depthwise_tile<S, static_cast<int>(kRows) + 1, kKernel, kStride>...};
  return kTiles[rows - 1];
}

template <class S, size_t... kRows>
TileFunction pick_general_depthwise(int64_t rows, std::index_sequence<kRows...>) {
  static constexpr TileFunction kTiles[] = {general_depthwise_tile<S, static_cast<int>(kRows) + 1>...};
  return kTiles[rows - 1];
}

template <class S>
TileFunction find_depthwise_of(int64_t rows, int64_t kernel, int64_t stride, int64_t dilation) {
  constexpr auto kRows = std::make_index_sequence<kDepthwiseRows>();
  if (dilation == 1 && kernel == 3 && stride == 1) return pick_depthwise<S, 3, 1>(rows, kRows);
  if (dilation == 1 && kernel == 3 && stride == 2) return pick_depthwise<S, 3, 2>(rows, kRows);
  if (dilation == 1 && kernel == 5 && stride == 1) return pick_depthwise<S, 5, 1>(rows, kRows);
  if (dilation == 1 && kernel == 5 && stride == 2) return pick_depthwise<S, 5, 2>(rows, kRows);
  if (dilation == 1 && kernel == 7 && stride == 1) return pick_depthwise<S, 7, 1>(rows, kRows);
  return pick_general_depthwise<S>(rows, kRows);
}

TileFunction find_depthwise(int64_t rows, int64_t kernel, int64_t stride, int64_t dilation, c10::ScalarType dtype) {
  if (dtype == c10::kFloat) return find_depthwise_of<float>(rows, kernel, stride, dilation);
  if (dtype == c10::kHalf) return find_depthwise_of<c10::Half>(rows, kernel, stride, dilation);
  if (dtype == c10::kBFloat16) return find_depthwise_of<c10::BFloat16>(rows, kernel, stride, dilation);
  return nullptr;
}

}  // namespace

ConvTable conv_table() { return {kWidth, find_max_rows, find_dense, find_depthwise}; }

}  // namespace torchweld::cpu::TORCHWELD_ISA
