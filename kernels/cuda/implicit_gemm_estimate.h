// How long the implicit-GEMM kernels are expected to take.
#pragma once

#include "kernels/cuda/implicit_gemm_plan.h"

namespace torchweld::cuda {

/// Microseconds of a configuration whose fields are all known, from fits to what was measured on an H100. It orders
/// what is timed, or is chosen without timing.
double gemm_microseconds(const GemmProblem& problem, const GemmConfig& config, const GemmDevice& device);

}  // namespace torchweld::cuda
