// The public C++ interface. Link libtorchweld and LibTorch; modules saved after compile() load with torch::jit::load in
// any program that links libtorchweld.
#pragma once

#include <torch/csrc/jit/api/module.h>

#include <functional>
#include <string>
#include <vector>

#include "core/options.h"
#include "core/types.h"

namespace torchweld {

/// One tensor input of the module: a range of shapes and a dtype.
struct Input {
  Dims min_shape;
  Dims opt_shape;  ///< The shape that is tuned for.
  Dims max_shape;
  std::optional<c10::ScalarType> dtype;  ///< Nothing: the dtype of the module's first floating parameter, else f32.
  bool channels_last = false;            ///< Callers will pass channels-last tensors.
  std::string name;
  /// An example; when given, the only data the module may be run on at compile.
  at::Tensor example;

  Input() = default;
  /// A fixed shape.
  explicit Input(Dims shape, std::optional<c10::ScalarType> dtype = std::nullopt);
  Input(Dims min_shape, Dims opt_shape, Dims max_shape, std::optional<c10::ScalarType> dtype = std::nullopt);
  static Input from_tensor(const at::Tensor& tensor);
};

/// What one module method gets: its arguments as IValues in which every tensor (at any depth) stands for one Input; the
/// tensors there are only place holders and may be empty. `inputs` lists the Inputs in the order of a depth-first walk.
struct Signature {
  std::vector<c10::IValue> arguments;
  std::vector<Input> inputs;
  /// Arguments that are exactly these tensors, in order.
  static Signature of(std::vector<Input> inputs);
};

/// One engine of a compiled (or planned, for dry_run) module.
struct EngineReport {
  std::string name;
  std::string precision;            ///< Dtypes its steps compute in: "f16", "f16, tf32".
  std::vector<std::string> inputs;  ///< Types as text.
  std::vector<std::string> outputs;
  struct Step {
    std::string op;           ///< Node text.
    std::string tactic;       ///< With its configuration.
    std::string source;       ///< The user's line; may be empty.
    double microseconds = 0;  ///< As timed when chosen; 0 when not timed.
    double flops = 0;         ///< Floating-point operations of one run.
    /// Bytes of inputs and outputs, each counted once, of a table only the rows picked; 0 before planning.
    int64_t bytes = 0;
    int64_t weight_bytes = 0;  ///< Those of them that are the module's constants.
  };
  std::vector<Step> steps;
  int64_t arena_bytes = 0;
  int64_t constant_bytes = 0;
  int64_t launches = 0;      ///< Nodes of the recorded CUDA graph, else steps.
  int64_t streams = 1;       ///< On which independent branches are recorded.
  std::string not_recorded;  ///< On a GPU: why no CUDA graph is replayed. Empty when one is.
  double flops = 0;          ///< Floating-point operations of one run.
};

/// A node that stays in LibTorch, or a segment that was found to be slower than LibTorch, by its name.
struct Fallback {
  std::string op;
  std::string reason;
  std::string source;

  void fields(auto&& f) {
    f("op", op);
    f("reason", reason);
    f("source", source);
  }
};

/// Two segments, one of which needs what LibTorch makes of the other one's results.
struct Separation {
  std::string first;
  std::string second;
  std::vector<int64_t> because;  ///< Places in Report::fallbacks of the operations between them.
  /// Entries of the options without which the two are one segment, "torch_executed_ops names aten::relu"; empty when no
  /// setting makes them one.
  std::vector<std::string> settings;

  void fields(auto&& f) {
    f("first", first);
    f("second", second);
    f("because", because);
    f("settings", settings);
  }
};

/// A smaller min_block_size takes in `operations` of the `left` ones that the one asked for leaves to LibTorch.
struct SmallerBlocks {
  int64_t min_block_size = 0;
  int64_t operations = 0;
  int64_t left = 0;

  void fields(auto&& f) {
    f("min_block_size", min_block_size);
    f("operations", operations);
    f("left", left);
  }
};

/// What went where. An operation is a node of the module's graph that computes tensors, counted once however often it
/// runs; floating-point operations are those of one run at the opt shapes.
struct Report {
  std::vector<EngineReport> engines;
  std::vector<Fallback> fallbacks;
  /// Operations that the inputs given to compile do not reach, in untaken branches say: LibTorch runs them where a call
  /// does. None of the counts has them.
  std::vector<Fallback> unreached;
  int64_t operations = 0;
  int64_t operations_in_engines = 0;
  double flops = 0;
  double flops_in_engines = 0;  ///< Share of `flops`, 0..1.
  std::vector<Separation> separations;
  std::vector<SmallerBlocks> smaller_blocks;
  int64_t min_block_size = 0;  ///< As asked for.
  std::string text() const;
  std::string json() const;

  /// What is kept with a compiled module: all but the engines.
  void fields(auto&& f) {
    f("fallbacks", fallbacks);
    f("unreached", unreached);
    f("operations", operations);
    f("operations_in_engines", operations_in_engines);
    f("flops", flops);
    f("flops_in_engines", flops_in_engines);
    f("separations", separations);
    f("smaller_blocks", smaller_blocks);
    f("min_block_size", min_block_size);
  }
};

/// Called with what is being done and the share done, 0..1. An exception it throws cancels the compilation.
using Progress = std::function<void(const std::string& what, double share)>;

/// Compiles the methods named in `options`. The argument is not changed. Throws Error when the module, an input or an
/// option cannot be right; whatever cannot be compiled stays TorchScript inside the result. Several threads may compile
/// at once. In a process that has imported torchweld's Python module it takes the GIL now and then, so that a thread
/// that holds the GIL must not wait for another one that compiles.
torch::jit::Module compile(const torch::jit::Module& module, const Signature& signature, const Options& options = {},
                           const Progress& progress = {});
/// What compile() would do, without building.
Report dry_run(const torch::jit::Module& module, const Signature& signature, const Options& options = {});
/// What a compiled module holds. Engines that have not been planned in this process are planned first.
Report explain(const torch::jit::Module& compiled);
/// Whether this build makes engines for CUDA; it needs no GPU to say so.
bool has_cuda();
/// Plans every engine for these arguments, as the first calls would, and returns when that is done. It calls the module
/// some times, so that state which the module keeps goes on; lists and dicts among the arguments stay as they are.
void warm_up(torch::jit::Module& compiled, std::vector<c10::IValue> arguments);

}  // namespace torchweld
