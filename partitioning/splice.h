// Takes segments out of a graph and puts engine calls in their places.
#pragma once

#include <torch/csrc/jit/api/module.h>

#include "partitioning/partition.h"

namespace torchweld {

/// A segment as a module of its own: its TorchScript as `forward`, references to the module's parts that it reads.
struct SegmentModule {
  std::string name;  ///< Its attribute name in the compiled module, "segment_0".
  torch::jit::Module module;
  /// What the caller passes, in the order of `forward`'s arguments.
  std::vector<const torch::jit::Value*> inputs;
};

/// Rewrites `graph` (whose first input is `owner`, the module that the segments' modules will hang at): each segment
/// becomes `torchweld::run(self.segment_k, (inputs...))`. Numbers segments from `first`. Values named by `inputs` stay
/// valid as keys, but may have been replaced in the graph.
std::vector<SegmentModule> splice(torch::jit::Graph& graph, const Partition& partition, const torch::jit::Module& owner,
                                  size_t first);

}  // namespace torchweld
