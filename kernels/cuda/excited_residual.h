// Inverted residuals with squeeze-excitation inside by our own device code, each as two launches.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Takes a block of three: a depthwise convolution with an expansion before it or without; squeeze-excitation of its
/// result down to the gate; and the scaling by the gate with the projection after it. Conditions are those of the three
/// parts (inverted_residual.h, pooled_blocks.h), but GPUs from sm_80 on. The first launch writes the depthwise result
/// and sums of its tiles, the second one does the rest, every cluster of it computing the gates anew: with many samples
/// or positions the parts may be faster, which timing finds out; without timing it is offered up to a few samples.
/// Offers differ in the tiles of both.
void propose_excited_residual(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cuda
