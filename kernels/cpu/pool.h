// Pooling on the CPU.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cpu {

/// max_pool, avg_pool and adaptive pools of one to three spatial dimensions, f32 f64 f16 bf16, of tensors whose
/// channels or whose last dimension lie next to each other in memory, x and result alike.
void propose_pool(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cpu
