// Reductions on the CPU.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cpu {

/// Reductions, and adaptive averages and maxima over all of space, of f32 f64 f16 bf16 (all and any: of bools). The
/// innermost dimension in memory must have stride 1. Sums of runs in f32 (f64 for f64), of the runs in f64.
void propose_reduce(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cpu
