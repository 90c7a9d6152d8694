// Products with constant matrices by oneDNN inside LibTorch.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cpu {

/// Takes Linear of f32, bf16 and f16 with constant weight and bias, packed once, and one activation or one added tensor
/// behind it. relu and clamp there give 0 and the lower bound for NaN.
void propose_linear(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cpu
