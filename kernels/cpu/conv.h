// Convolutions by oneDNN inside LibTorch.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cpu {

/// Takes 2-D and 3-D convolutions, transposed ones too, of f32, bf16 and f16 with constant weights, which are packed
/// once, and what oneDNN has post-ops for behind them. relu and clamp there give 0 and the lower bound for NaN.
void propose_conv(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cpu
