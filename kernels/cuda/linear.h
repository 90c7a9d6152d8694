// Linear layers on few rows by our own device code.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Takes linear layers and 1x1 convolutions (no groups, no padding) with constant weights on at most 32 rows (pixels),
/// with the pointwise nodes after them: the layers of squeeze-excite blocks and classifiers at small batch.
void propose_few_rows(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cuda
