// Fused pointwise bodies, block by block in the first-level cache.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cpu {

/// Takes pointwise nodes, casts, copies and fused bodies without anchor, of any strides and broadcasting, whose
/// functions all have block functions. f16 and bf16 are computed in f32 and rounded where they are written.
void propose_pointwise(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cpu
