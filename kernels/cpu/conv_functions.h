// The inner loops of convolutions and products, compiled for several instruction sets.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

namespace torchweld::cpu {

/// A block of results: some rows (output pixels) of some neighbouring columns (output channels).
struct Tile {
  const void* const* operands = nullptr;  ///< Pointers to numbers of x; which, the function says.
  int64_t pitch = 0;
  int64_t taps = 1;
  int64_t depth = 1;
  const float* weights = nullptr;
  const float* bias = nullptr;  ///< One number per column, padded to whole vectors.
  const void* added = nullptr;  ///< Null, or laid out as `out` and added to the sums.
  float low = 0;                ///< Results are clamped to low..high, NaN kept.
  float high = 0;
  void* out = nullptr;
  int64_t out_stride = 0;  ///< Elements between rows of `added` and `out`.
  int64_t columns = 0;
  // Of depthwise tiles:
  int64_t kernel = 1;    ///< Taps along the row of pixels.
  int64_t stride = 1;    ///< Pixels of x between results.
  int64_t dilation = 1;  ///< Pixels of x between taps.
};

using TileFunction = void (*)(const Tile& tile);

constexpr int64_t kMaxVectors = 4;     ///< Of columns of a dense tile.
constexpr int64_t kDepthwiseRows = 8;  ///< Most rows of a depthwise tile.

/// One instruction set's functions.
struct ConvTable {
  int64_t lanes = 0;  ///< Of a vector of f32.
  /// Most rows of a dense tile of `vectors` vectors of columns; 0 where there are too few registers.
  int64_t (*max_rows)(int64_t vectors) = nullptr;
  /// f32: row r is the sum over t < taps and k < depth of operands[t * pitch + r][k] times weights[t][k][column], with
  /// weights for vectors * lanes columns.
  TileFunction (*dense)(int64_t rows, int64_t vectors) = nullptr;
  /// f32, f16 or bf16, null for other dtypes: column c of row r is the sum over t < taps and k < kernel of
  /// operands[t * pitch + r * stride + k * dilation][c] times weights[t][k][c], with weights for whole vectors of
  /// columns.
  TileFunction (*depthwise)(int64_t rows, int64_t kernel, int64_t stride, int64_t dilation,
                            c10::ScalarType dtype) = nullptr;
};

}  // namespace torchweld::cpu
