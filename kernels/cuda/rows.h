// Softmax and layer normalisation by our own device code.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Takes softmax and log-softmax along any axis, and layer normalisation whose dimensions lie one after the other in
/// memory with constant weight and bias, with the pointwise nodes after them.
void propose_rows(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cuda
