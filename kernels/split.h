// Runs a fused node in parts where no single kernel takes it whole.
#pragma once

#include "kernels/kernel.h"

namespace torchweld {

/// For fused nodes with an anchor: the pointwise nodes before it, the anchor, and the rest as up to three kernels, each
/// the first offer for its part that builds. What flows between them lies in the workspace, or in tensors of the
/// kernels' own.
void propose_split(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld
