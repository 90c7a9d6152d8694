// Layer norms that never run: the kernel before leaves moments, the kernel behind finishes with them.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Takes blocks of a linear layer with its pointwise nodes, a layer norm of the result over the last dimension, and a
/// linear layer that reads the normalised tensor, with its pointwise nodes; f16 and bf16, on sm_90a. Two launches: the
/// first writes its result with the moments of each row's parts, the second multiplies the result as it is and
/// normalises the products (kernels/cuda/device/implicit_gemm_norm.cuh). The normalised numbers are not rounded on the
/// way. Results of the block may be the first linear layer's, the norm's and the last one's.
void propose_deferred_norm(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cuda
