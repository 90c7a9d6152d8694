// Inverted residuals as programs of inverted_residual.cuh, ready to be compiled and launched.
#pragma once

#include <optional>
#include <vector>

#include "kernels/cuda/block_parts.h"
#include "kernels/cuda/inverted_residual_tiling.h"
#include "kernels/cuda/own_kernel.h"

namespace torchweld::cuda {

/// A block taken apart.
struct ResidualParts {
  std::optional<BlockPart> expand;
  std::optional<BlockPart> depthwise;
  std::optional<BlockPart> project;
  std::optional<Body> scale;      ///< The pointwise node that scales, instead of expansion and depthwise.
  std::vector<BlockPart> excite;  ///< The two products that compute the scales, where the block does; see `squeezed`.
  size_t gate_input = 0;          ///< Which of the scaling's inputs is the gate.
  size_t x_index = 0;
  size_t gate_index = 0;   ///< Input of the block.
  size_t added_index = 0;  ///< Input of the block that is added at the end; x_index when there is none.
  TensorType x;
  InvertedResidual sizes;
  std::vector<size_t> packed;
};

/// Takes a fused node apart: a chain of expansion, depthwise convolution and projection, or any of these alone but the
/// expansion; or a scaling and a projection. Throws Unsupported with the reason where the kernels cannot run it.
ResidualParts take_residual_apart(const Node& node);

/// The code. Data pointers are the node's inputs that are not packed, its output, then, where sums are written or read
/// (InvertedResidual::pools, squeezed), these: f32 [samples][tiles][hidden].
Program residual_program(const Node& node, const ResidualParts& parts, const ResidualLayout& layout);

/// A program with all that is constant in its launch.
struct ResidualLaunch {
  Program program;
  Shape shape;
  Arguments arguments;
  std::vector<at::Tensor> constants;  ///< What the arguments point to.
};
/// `tiles`: sums per sample and channel that are read, where they are.
ResidualLaunch residual_launch(const Node& node, const ResidualParts& parts, const ResidualLayout& layout,
                               int64_t tiles = 0);

}  // namespace torchweld::cuda
