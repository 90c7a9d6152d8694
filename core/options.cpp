#include "core/options.h"

#include <algorithm>

#include "core/error.h"

namespace torchweld {

void check_options(const Options& options) {
  auto require = [](bool condition, const std::string& message) {
    if (!condition) throw Error(message);
  };
  require(!options.enabled_precisions.empty(),
          "enabled_precisions is empty; name at least one dtype, for example {torch.float32} or {torch.half}");
  for (c10::ScalarType dtype : options.enabled_precisions) {
    require(dtype == c10::kFloat || dtype == c10::kHalf || dtype == c10::kBFloat16,
            std::string("enabled_precisions holds ") + c10::toString(dtype) +
                "; supported are torch.float32, torch.half and torch.bfloat16");
  }
  require(options.min_block_size >= 1,
          "min_block_size is " + std::to_string(options.min_block_size) + "; it must be 1 or more");
  require(options.workspace_size >= 0, "workspace_size is " + std::to_string(options.workspace_size) +
                                           "; give a number of bytes, or 0 for automatic");
  require(options.optimization_level >= 0 && options.optimization_level <= 5,
          "optimization_level is " + std::to_string(options.optimization_level) + "; it must be 0 to 5");
  require(options.outside_range == "torch" || options.outside_range == "error" || options.outside_range == "build",
          "outside_range is \"" + options.outside_range + "\"; it must be \"torch\", \"error\" or \"build\"");
  require(options.max_cached_plans >= 1,
          "max_cached_plans is " + std::to_string(options.max_cached_plans) + "; it must be 1 or more");
  require(!options.methods.empty(), "methods is empty; name at least one method, for example (\"forward\",)");
}

}  // namespace torchweld
