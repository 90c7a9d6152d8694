// Names of configurations of the implicit-GEMM kernel, read.
#pragma once

#include <string>

#include "kernels/cuda/implicit_gemm_plan.h"

namespace torchweld::cuda {

/// The part of a configuration's name (see GemmConfig::text) that is known before the rest is worked out.
struct NamedTile {
  int rows = 0, columns = 0, warps_m = 0, warps_n = 0, warps_k = 0, splits = 1;

  /// No rows where it is no such name.
  explicit NamedTile(const std::string& name);
  bool is_of(const GemmConfig& c) const;
};

/// Whether the configuration of this name leaves stages out.
bool names_skips(const std::string& name);

}  // namespace torchweld::cuda
