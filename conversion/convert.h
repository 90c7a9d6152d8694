// From a segment's TorchScript and a signature to a plan.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include "conversion/import.h"
#include "conversion/plan.h"
#include "conversion/timing_cache.h"
#include "core/options.h"

namespace torchweld {

/// Imports, optimises, selects and places. `arguments` are the segment's: its module object, then concrete scalars and
/// a TensorType for each tensor. `name` heads the names of dumped files. Throws Unsupported with the reason when the
/// segment cannot be planned for these.
std::shared_ptr<Plan> convert(const torch::jit::Graph& segment, const std::vector<ImportArgument>& arguments,
                              c10::Device device, const Options& options, const std::string& name, bool tune,
                              TimingCache& cache, const std::function<void(size_t, size_t)>& progress = {});

}  // namespace torchweld
