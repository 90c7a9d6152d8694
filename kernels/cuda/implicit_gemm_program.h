// A convolution or linear layer as a program of implicit_gemm.cuh and its relatives, ready to be compiled and launched.
#pragma once

#include <optional>
#include <vector>

#include "kernels/cuda/codegen.h"
#include "kernels/cuda/implicit_gemm_plan.h"
#include "kernels/cuda/own_kernel.h"

namespace torchweld::cuda {

/// Microseconds. Libraries were measured to be slower on small layers and faster on large ones, so where kernels are
/// not timed the large ones are theirs.
constexpr double kMostUntimed = 25;
/// Up to so many, reading the weights takes all the time.
constexpr int64_t kFewRows = 32;

/// Layer normalisation of x ahead of the product, by moments that the kernel before has written: f32 [row][part][2], of
/// equal parts of the row the mean and the sum of squared distances from it.
struct GemmNorm {
  double eps = 0;
  at::Tensor weight, bias;  ///< f32, [channels].
  bool kept = false;        ///< The normalised x is written too.
  int64_t parts = 0;        ///< Of a row.
};

/// A node taken apart.
struct GemmParts {
  Body body;
  size_t x_index = 0;
  std::optional<size_t> second_index;  ///< The node's input that is the product's second tensor.
  c10::ScalarType dtype = c10::kHalf;
  at::Tensor weight;  ///< [outputs, channels, window...]
  at::Tensor bias;    ///< Undefined when there is none.
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

/// Into how many parts a kernel of this configuration divides the columns of the results, for GemmParts::moments; 0
/// when it cannot write them.
int64_t moment_parts(const GemmConfig& config, const GemmProblem& problem);

/// The code. Data pointers are x and the node's other inputs that are not packed, its outputs, then the moments that
/// are written. With a norm: x, its moments, the normalised x that is kept, the output.
Program gemm_program(const Node& node, const GemmParts& parts, const GemmConfig& config);

/// A program with all that is constant in its launch.
struct GemmLaunch {
  Program program;
  Shape shape;
  Arguments arguments;
  std::vector<at::Tensor> packed;  ///< What the arguments point to: weights, bias, and the norm's own.
};
GemmLaunch gemm_launch(const Node& node, const GemmParts& parts, const GemmConfig& config);

/// The node's device as the plan sees it.
GemmDevice gemm_device(const Node& node);

}  // namespace torchweld::cuda
