// Concatenation and padding by our own device code.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Takes concatenations of tensors whose elements lie in memory in the same order of dimensions as the result's.
void propose_concat(const Node& node, const KernelContext& context, Offers& offers);
/// Takes padding (and cropping) of tensors of any strides.
void propose_pad(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cuda
