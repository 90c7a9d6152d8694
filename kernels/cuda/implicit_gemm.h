// Convolutions and linear layers by tensor cores in our own device code.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Takes convolutions of one or two spatial dimensions with two and more channels in a group, and linear layers, with
/// constant weights and the pointwise nodes after them; f16, bf16, and f32 where TF32 is allowed. Sums are f32; NaN and
/// infinities are kept, in the group where they are. Channels of the results must be innermost (channels-last); they
/// may be slices of larger tensors, and x may have any strides, though only channels-last x of enough channels is read
/// fast: of 4 in a group, or a multiple of 16 bytes. Sizes are arguments of the code. Blocks of siblings, see
/// take_siblings_apart, are one product.
void propose_implicit_gemm(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cuda
