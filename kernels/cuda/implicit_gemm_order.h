// The order in which the implicit-GEMM kernels compute results where taps of the window lie outside the image, so that
// tiles of results need few of them.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/implicit_gemm_plan.h"

namespace torchweld::cuda {

/// Neighbouring results along a dimension of which the same taps of the window lie inside the image.
struct GemmSpan {
  int64_t begin = 0, end = 0;
  uint32_t taps = 0;  ///< A bit for each.
};
/// A rectangle of results of which the same taps lie inside the image, of all images.
struct GemmRun {
  GemmSpan rows, columns;
  int64_t results = 0;
};

/// The rectangles that hold every result once, each beside the next, so that tiles with results of both need little
/// more than either.
std::vector<GemmRun> gemm_runs(const GemmProblem& problem);

/// Of all taps of all results, the share that lies inside the image.
double share_inside(const GemmProblem& problem, const std::vector<GemmRun>& runs);
/// What tiles of `tile_rows` results each need of the window, results taken in the order of `runs`.
GemmShares gemm_shares(const GemmProblem& problem, const std::vector<GemmRun>& runs, int64_t tile_rows);

/// What a kernel of GemmConfig::skips reads; see GemmList in kernels/cuda/device/implicit_gemm_operands.cuh. Tiles that
/// need most come first, but for an incomplete one, so that what takes long begins early.
struct GemmOrder {
  std::vector<int32_t> results;  ///< The result, counted through images, rows and columns, in each row of the product.
  /// For each tile of the configuration, where its stages of k are in this list and how many; then the stages.
  std::vector<int32_t> lists;
};
GemmOrder gemm_order(const GemmProblem& problem, const GemmConfig& config);

}  // namespace torchweld::cuda
