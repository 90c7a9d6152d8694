// What the caller chose, as one struct that is printed, saved and compared by its fields.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/fields.h"

namespace torchweld {

/// Options of compile(); names and meanings are those of `torchweld.compile` in Python.
struct Options {
  /// Dtypes that kernels may compute in beside the module's own. f32 stands for the module's own f32.
  std::vector<c10::ScalarType> enabled_precisions = {c10::kFloat};
  /// Where the module runs, "cpu" or "cuda:0"; empty: where its weights are.
  std::string device;
  /// A segment with fewer operator calls stays in LibTorch.
  int64_t min_block_size = 3;
  /// Raise, naming every reason, when any tensor operation would stay in LibTorch.
  bool require_full_compilation = false;
  /// Operators ("aten::relu") that stay in LibTorch; an asterisk matches any text.
  std::vector<std::string> torch_executed_ops;
  /// Module class names ("torchvision.models.resnet.Bottleneck") or instance paths ("layer1.0"; an asterisk matches any
  /// text) whose operations stay in LibTorch.
  std::vector<std::string> torch_executed_modules;
  /// Compute int64 and float64 values in int32 and float32.
  bool truncate_long_and_double = false;
  /// Compute f32 convolutions and products on CUDA without TF32.
  bool disable_tf32 = false;
  /// Largest workspace of one kernel of cuDNN or cuBLASLt in bytes; 0 lets Torchweld choose.
  int64_t workspace_size = 0;
  /// 0: no kernel is run at compile, heuristics choose. 1-5: what may be fastest is timed, at higher levels for longer.
  int64_t optimization_level = 3;
  /// A text file read before tuning and written after it; empty for none.
  std::string timing_cache;
  /// A call outside the ranges runs in LibTorch ("torch"), raises ("error") or is planned on the spot ("build").
  std::string outside_range = "torch";
  /// Plans kept per engine; the one unused for longest goes first.
  int64_t max_cached_plans = 16;
  /// Record each plan as a CUDA graph.
  bool cuda_graphs = true;
  /// Methods to compile.
  std::vector<std::string> methods = {"forward"};

  void fields(auto&& f) {
    f("enabled_precisions", enabled_precisions);
    f("device", device);
    f("min_block_size", min_block_size);
    f("require_full_compilation", require_full_compilation);
    f("torch_executed_ops", torch_executed_ops);
    f("torch_executed_modules", torch_executed_modules);
    f("truncate_long_and_double", truncate_long_and_double);
    f("disable_tf32", disable_tf32);
    f("workspace_size", workspace_size);
    f("optimization_level", optimization_level);
    f("timing_cache", timing_cache);
    f("outside_range", outside_range);
    f("max_cached_plans", max_cached_plans);
    f("cuda_graphs", cuda_graphs);
    f("methods", methods);
  }
};

/// Throws Error naming the first option whose value makes no sense, and what it may be.
void check_options(const Options& options);

}  // namespace torchweld
