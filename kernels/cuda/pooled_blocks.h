// Blocks that begin with a mean over all positions, by our own device code.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Takes squeeze-excitation as one kernel: the mean of each channel of a channels-last tensor, two 1x1 convolutions
/// with pointwise nodes after each, and the pointwise node that applies the gate to the tensor (or the gate alone). f16
/// and bf16, channel counts multiples of 8, GPUs from sm_90 on. Weights are constant. Values between the parts are
/// rounded to the storage type. One cluster works on a sample. Offers differ in the size of clusters and of blocks.
void propose_squeeze_excite(const Node& node, const KernelContext& context, Offers& offers);

/// Takes a mean over all positions, reshapes, a linear with pointwise nodes after it, and a cast of its result to f32,
/// under the same conditions.
void propose_pooled_linear(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cuda
