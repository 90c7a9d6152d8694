// Matrix products by cuBLASLt.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cublaslt {

/// Takes linear layers, batched products of matrices (row-major or transposed, broadcast along batches) and 1x1
/// convolutions on channels-last tensors, in f32, f64, f16 and bf16, and after them: the addition of a tensor of the
/// result's sizes, then relu or the tanh form of gelu. One offer per algorithm that the heuristics name, best first.
void propose_gemm(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cublaslt
