// Takes segments out of a graph and puts engine calls in their places.
#pragma once

#include <torch/csrc/jit/api/module.h>

#include "partitioning/partition.h"

namespace torchweld {

/// A segment as a module of its own: its TorchScript as `forward`, references to the module's parts that it reads.
struct SegmentModule {
  std::string name;  ///< Its attribute name in the compiled module, "segment_0".
  torch::jit::Module module;
  /// What the caller passes, in the order of `forward`'s arguments. Only keys of a Probe's maps: the values themselves
  /// may be gone from the graph.
  std::vector<const torch::jit::Value*> inputs;
};

/// Rewrites `graph` (whose first input is `owner`, the module that the segments' modules will hang at): each segment
/// becomes `torchweld::run(self.segment_k, (inputs...))`, k its number in the partition plus `first`. The result is in
/// the order of these numbers.
std::vector<SegmentModule> splice(torch::jit::Graph& graph, const Partition& partition, const torch::jit::Module& owner,
                                  size_t first);

}  // namespace torchweld
