// How the work of an inverted residual is cut up, and which ways are worth trying.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "core/types.h"
#include "kernels/cuda/block_parts.h"

namespace torchweld::cuda {

/// The sizes of a block. Pairs are height and width.
struct InvertedResidual {
  bool expands = false;
  bool projects = false;
  bool adds_input = false;
  bool scales = false;   ///< Channels are scaled instead of a depthwise convolution; then `adds_input` adds any tensor.
  bool pools = false;    ///< Each channel's sum over each tile of results is written beside them; no projection.
  int64_t squeezed = 0;  ///< When not 0, such sums are read, and the scales are two small products of the means with
                         ///< so many numbers between them.
  bool costly_functions = false;  ///< Exponentials and the like after the first two convolutions.
  int64_t in = 0;
  int64_t hidden = 0;
  int64_t out = 0;  ///< As many as `hidden` when there is no projection.
  Dims window;
  Dims stride;
  Dims dilation;
  Dims padding;
  int64_t batch = 1;
  Dims image;  ///< Of the result.
};

/// Results per block of threads, blocks that share the hidden channels, warps per block.
struct Tiling {
  int64_t height = 1;
  int64_t width = 1;
  int64_t splits = 1;
  int64_t warps = 8;
  bool persistent = false;  ///< Only as many blocks as run at once; each takes several tiles.
  /// "2x4 split1 warps8 persistent"
  std::string text() const;
};

/// A tiling with everything that device code needs to know of it; the members are those of its constants (see
/// device/inverted_residual.cuh). Places are in bytes, steps in elements.
struct ResidualLayout {
  Tiling tiling;
  int64_t hidden = 0;  ///< Channels of one split.
  int64_t region_h = 0, region_w = 0;
  int64_t group_h = 1, group_w = 1, width = 8;
  int64_t in_step = 0, hidden_step = 0, out_step = 0;
  int64_t squeeze_step = 0, excite_step = 0, pool_shares = 1;
  int64_t expand_at = 0, project_at = 0, depthwise_at = 0, expand_bias_at = 0, depthwise_bias_at = 0,
          project_bias_at = 0, weights_bytes = 0;
  int64_t weights_at = 0, covered_at = 0, x_at = 0, hidden_at = 0, result_at = 0, sums_at = 0, gates_at = 0,
          added_at = 0, shared_bytes = 0;
  int64_t squeeze_at = 0, excite_at = 0, squeeze_bias_at = 0, excite_bias_at = 0, pool_at = 0, means_at = 0,
          partial_at = 0, exchanged_at = 0, squeezed_at = 0;
  int64_t resident = 0;     ///< Blocks that run at once on the device that rank_layouts was told of.
  int64_t together = 1;     ///< Of persistent ones on one SM: how many have to find registers.
  double microseconds = 0;  ///< What rank_layouts expects one run to take on an H100.
};

/// Tiles of one sample's result.
int64_t tiles_of(const InvertedResidual& block, const Tiling& tiling);
/// Blocks of threads where each takes one tile.
int64_t blocks_of(const InvertedResidual& block, const Tiling& tiling);
/// Blocks of a cluster: those that share the hidden channels of a projection.
int64_t cluster_of(const InvertedResidual& block, const ResidualLayout& layout);
/// Every layout that fits the device, the one that should be fastest first; with `wanted` only those of these names.
std::vector<ResidualLayout> rank_layouts(const InvertedResidual& block, const DeviceLimits& limits,
                                         const std::set<std::string>* wanted = nullptr);

}  // namespace torchweld::cuda
