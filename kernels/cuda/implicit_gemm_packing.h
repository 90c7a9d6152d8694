// Constants of the implicit-GEMM kernels in the order in which these read them.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/lazy_tensor.h"
#include "kernels/cuda/implicit_gemm_plan.h"

namespace torchweld::cuda {

/// Weights [outputs of all groups, channels, window...] on a CUDA device, in the dtype of the product (f32 is rounded
/// to TF32): [column tile][split][column][tap or row of the window][chunk of the slice], each column padded to the
/// pitch; see implicit_gemm.cuh.
at::Tensor packed_weights(const LazyTensor& weight, c10::Device device, c10::ScalarType dtype,
                          const GemmProblem& problem, const GemmConfig& config);
/// Device memory that a kernel of GemmConfig::skips reads.
struct PackedOrder {
  at::Tensor results, lists;  ///< i32; see GemmOrder.
};
PackedOrder packed_order(c10::Device device, const GemmProblem& problem, const GemmConfig& config);
/// One number for each output as f32 on `device`, every group filled up to whole tiles; zeros where `numbers` is
/// undefined.
at::Tensor packed_columns(const LazyTensor& numbers, c10::Device device, const GemmProblem& problem,
                          const GemmConfig& config);

}  // namespace torchweld::cuda
