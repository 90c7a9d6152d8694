// Pooling by our own device code.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Takes max, average and adaptive pooling over two spatial dimensions of floating-point tensors of any strides, with
/// the pointwise nodes after it. A window that covers everything is left to propose_reduce.
void propose_pool(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cuda
