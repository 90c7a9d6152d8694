// The first convolution of a network and the max pool behind it, by our own device code, as one kernel.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Takes blocks of a convolution of at most 4 input channels (no groups, no dilation) with a max pool after it. The
/// picture is f16 or bf16 of any strides, the result channels-last with a multiple of 8 channels; GPUs from sm_80 on.
/// Weights are constant; the pointwise nodes after either part read nothing but numbers. Sizes of the picture and the
/// batch are arguments of the code, everything else is not. The convolution's results are rounded to the storage type.
/// Offers differ in the tile of pooled results that a block of threads takes at once, in how its warps share the work
/// on it, and in how many slices the channels are cut into.
void propose_stem_pool(const Node& node, const KernelContext& context, Offers& offers);

/// The same with the first `most` of all configurations, or all `wanted` ones (see KernelContext).
void offer_stem_pools(const Node& node, size_t most, Offers& offers, const std::set<std::string>* wanted = nullptr);

}  // namespace torchweld::cuda
