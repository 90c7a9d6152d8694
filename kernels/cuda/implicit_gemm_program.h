// A product as a program of implicit_gemm.cuh and its relatives, ready to be compiled and launched.
#pragma once

#include <vector>

#include "kernels/cuda/implicit_gemm_parts.h"
#include "kernels/cuda/own_kernel.h"

namespace torchweld::cuda {

/// Microseconds. Libraries were measured to be slower on small layers and faster on large ones, so where kernels are
/// not timed the large ones are theirs.
constexpr double kMostUntimed = 25;
/// Up to so many, reading the weights takes all the time.
constexpr int64_t kFewRows = 32;

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
