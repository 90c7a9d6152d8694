// Softmax and layer normalisation on the CPU.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cpu {

/// Softmax (and its logarithm) along the innermost dimension in memory, and layer normalisation with constant weights,
/// of f32 f64 f16 bf16.
void propose_rows(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cpu
