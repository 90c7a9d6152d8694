// Fused pointwise bodies and copies as one kernel.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Takes pointwise nodes, casts, copies to other strides, and fused bodies without anchor, any strides and
/// broadcasting. Layout changes go through tiles in shared memory where one side would otherwise be scattered.
void propose_pointwise(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cuda
