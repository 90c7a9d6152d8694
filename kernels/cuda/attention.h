// Attention by our own kernel.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Offers kernels/cuda/device/attention.cuh for attention nodes of f16, bf16, and f32 where TF32 is allowed, whose head
/// sizes are multiples of 8 up to 128. Operands may lie in any strides (a slice of a joined projection is read where it
/// stands); the result's head dimension must be innermost. Where elements have 2 bytes, rows lie at multiples
/// of 16 bytes and keys are no more than 256, offers of attention_whole.cuh, whose names hold "whole", come behind
/// these, or ahead of them for at most 128 keys.
void propose_attention(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cuda
