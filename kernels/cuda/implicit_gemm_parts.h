// Convolutions, linear layers and blocks of them taken apart into products.
#pragma once

#include <optional>
#include <vector>

#include "core/lazy_tensor.h"
#include "kernels/cuda/codegen.h"
#include "kernels/cuda/implicit_gemm_plan.h"
#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Normalisation of the rows of x ahead of the product, by moments that the kernel before has written: f32
/// [row][part][2], of equal parts of the row the mean and the sum of squared distances from it.
struct GemmNorm {
  double eps = 0;
  bool centred = true;      ///< Layer normalisation; else RMS normalisation, which subtracts no mean.
  LazyTensor weight, bias;  ///< f32, [channels].
  bool kept = false;        ///< The normalised x is written too; only of layer normalisation.
  int64_t parts = 0;        ///< Of a row.
};

/// A node taken apart.
struct GemmParts {
  Body body;
  size_t x_index = 0;
  std::optional<size_t> second_index;  ///< The node's input that is the product's second tensor.
  c10::ScalarType dtype = c10::kHalf;
  LazyTensor weight;  ///< [outputs of all groups, channels, window...]
  LazyTensor bias;    ///< Undefined when there is none.
  std::vector<size_t> packed;
  GemmProblem problem;
  std::optional<GemmNorm> norm;
  bool moments = false;  ///< Those of the first result are written too, for a GemmNorm.
  Loops loops;           ///< Over the results, the last one over their channels.
};

/// Takes a convolution or linear layer with its pointwise nodes apart. Throws Unsupported with the reason where the
/// kernels cannot run it.
GemmParts take_gemm_apart(const Node& node, const KernelContext& context);

/// Takes a block of siblings apart: convolutions or linear layers of one tensor that differ in nothing but their
/// weights. Together they are one product with the weights side by side, whose columns go to the block's outputs.
/// Throws Unsupported for other blocks, and where channels are no multiples of 8.
GemmParts take_siblings_apart(const Node& block, const KernelContext& context);

/// True for a block of two convolutions whose results are added; see take_joined_apart.
bool is_joined(const Graph& body);
/// Takes a block apart of a convolution, and of one with pointwise nodes that begin by adding the first one's result;
/// both need one pixel for each result. Together they are one product over the channels of both. Throws Unsupported for
/// others, and where channels do not allow copies of 16 bytes.
GemmParts take_joined_apart(const Node& block, const KernelContext& context);

}  // namespace torchweld::cuda
