// Convolutions by cuDNN graphs.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cudnn {

/// Takes convolutions of one to three spatial dimensions in f32, f16 and bf16 with constant weights, and the pointwise
/// nodes after them as far as one cuDNN graph can hold them. One offer per engine that the heuristics name, best first.
void propose_conv(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cudnn
