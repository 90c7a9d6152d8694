// Inverted residuals by our own device code, each as one kernel.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Takes blocks of a depthwise convolution with a 1x1 convolution before it, after it, or both, on channels-last f16
/// and bf16 tensors whose channel counts are multiples of 8, on GPUs from sm_80 on. Weights are constant; the pointwise
/// nodes after each convolution read nothing but numbers, those after the last one also the block's input. Takes also a
/// pointwise node of a tensor and one number per channel with a 1x1 convolution after it, to whose result any tensor
/// may be added. Sizes of the image are arguments of the code, everything else is not. Values between the parts are
/// rounded to the storage type. Offers differ in the tile of results per block of threads and in how many blocks share
/// the hidden channels.
void propose_inverted_residual(const Node& node, const KernelContext& context, Offers& offers);

/// The same with the first `most` of all configurations, or all `wanted` ones (see KernelContext).
void offer_inverted_residuals(const Node& node, size_t most, Offers& offers,
                              const std::set<std::string>* wanted = nullptr);

}  // namespace torchweld::cuda
