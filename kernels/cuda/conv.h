// Convolutions by our own device code.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Takes 2-d convolutions with one input channel and one output channel per group and constant weights, on
/// channels-last tensors, with the pointwise nodes after them. Sizes are arguments of the code, window and stride are
/// not.
void propose_depthwise(const Node& node, const KernelContext& context, Offers& offers);
/// Takes every other 2-d convolution with constant weights, any groups and strides of memory, with the pointwise nodes
/// after it. Slow for many channels per group: no tensor cores.
void propose_direct_conv(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cuda
