// Own convolutions and products on the CPU.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cpu {

/// 2-D convolutions of channels-last tensors with constant weights and any pointwise end: dense and grouped ones of
/// f32, depthwise ones (as many groups as channels in and out) of f32, f16 and bf16. Sums in f32; NaN is kept.
void propose_own_conv(const Node& node, const KernelContext& context, Offers& offers);

/// True when propose_own_conv takes the node, and the tactic is not disabled. oneDNN adds up all products of a 1x1
/// convolution one after another: from 512 on that was measured 3 to 4 times as far from f64 as LibTorch's choice, the
/// own kernel (at equal speed) nearer than both.
bool own_conv_takes(const Node& node);

/// Linear layers of row-major f32 tensors with constant weights and any pointwise end.
void propose_own_linear(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cpu
