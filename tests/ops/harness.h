// Runs rows of the case list: imports the expression and compares what the engine means with what LibTorch does.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <torch/csrc/jit/api/compilation_unit.h>

#include <memory>
#include <string>
#include <vector>

#include "core/graph.h"
#include "tests/ops/cases.h"

namespace torchweld::test {

/// How the tensors of a run lie in memory.
enum class Layout { kContiguous, kChannelsLast, kTransposed, kSliced, kExpanded };
const char* layout_name(Layout layout);

/// A row made ready to run.
class CompiledCase {
 public:
  explicit CompiledCase(const Case& row);

  const torch::jit::Graph& script() const;
  /// LibTorch's own answer: tensors, those in lists and tuples flattened.
  std::vector<at::Tensor> run_eager(const std::vector<at::Tensor>& inputs) const;
  /// The engine's graph for inputs of these types. Throws Unsupported.
  std::unique_ptr<Graph> import(const std::vector<at::Tensor>& inputs) const;
  /// What the built plan gives for `inputs`, after a run on NaNs has poisoned its memory. Throws Unsupported.
  std::vector<at::Tensor> run_plan(const std::vector<at::Tensor>& inputs) const;

 private:
  std::shared_ptr<torch::jit::CompilationUnit> unit_;
};

/// The CPU, and the first CUDA device where there is one.
std::vector<c10::Device> devices();
/// Dtypes that a row runs in.
std::vector<c10::ScalarType> dtypes_of(const Case& row);
/// The same numbers at each call. Tensors that cannot lie as asked lie row-major.
std::vector<at::Tensor> make_inputs(const Case& row, const std::vector<Shape>& shapes, c10::ScalarType dtype,
                                    Layout layout, c10::Device device);

/// The f64 twin of inputs: floating tensors widened, others as they are.
std::vector<at::Tensor> widened(const std::vector<at::Tensor>& inputs);

}  // namespace torchweld::test
