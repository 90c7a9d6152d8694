// A plan recorded as CUDA graph.
#pragma once

#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

namespace torchweld {

class RunContext;

/// The steps of a RunContext as one CUDA graph, recorded on a stream for each of the plan's lanes. Inputs and outputs
/// that only our own kernels touch get their addresses written into these kernels' nodes before each launch; others are
/// copied from and to memory that the graph keeps.
class RecordedGraph {
 public:
  virtual ~RecordedGraph() = default;
  /// Records; nothing is run. Throws when a step cannot be recorded, or in a build without CUDA.
  static std::unique_ptr<RecordedGraph> record(RunContext& context, const std::vector<at::Tensor>& inputs);
  virtual std::vector<at::Tensor> launch(const std::vector<at::Tensor>& inputs, void* stream) = 0;
  /// Number of nodes in the graph.
  virtual int64_t launches() const = 0;
};

}  // namespace torchweld
