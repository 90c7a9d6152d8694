// The first convolution of a network, with or without the max pool behind it, by our own device code.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Takes a convolution of at most 4 input channels (no groups, no dilation), as a block with a max pool after it, or
/// alone where windows overlap and kernels are timed. The picture is f16 or bf16 of any strides, the result
/// channels-last with a multiple of 8 channels; GPUs from sm_80 on. Weights are constant; the pointwise nodes after
/// either part read nothing but numbers. Sizes of the picture and the batch are arguments of the code, everything else
/// is not. Before a pool the convolution's results are rounded to the storage type. Offers differ in the tile of
/// results that a block of threads takes at once, in how its warps share the work on it, and in how many slices the
/// channels are cut into.
void propose_stem(const Node& node, const KernelContext& context, Offers& offers);

/// The same with the first `most` of all configurations, or all `wanted` ones (see KernelContext).
void offer_stems(const Node& node, size_t most, Offers& offers, const std::set<std::string>* wanted = nullptr);

}  // namespace torchweld::cuda
