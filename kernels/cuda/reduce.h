// Reductions by our own device code.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Takes reductions along any axes of tensors of any strides, and adaptive pooling to one position, with pointwise
/// nodes before (of one operand) and after. Sizes are arguments of the code. Norms other than 1 and 2 are refused.
void propose_reduce(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cuda
