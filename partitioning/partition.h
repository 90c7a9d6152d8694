// Which nodes of a TorchScript graph go into which engine.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/options.h"
#include "lowering/memory.h"
#include "partitioning/probe.h"

namespace torchweld {

/// What happens to a node.
enum class Role {
  kFree,     ///< A constant, or an attribute that nothing writes: copied to wherever it is read.
  kNeutral,  ///< Sizes, lists, numbers: stays where it is and is copied into the segments that need it.
  kEngine,   ///< Goes into a segment.
  kTorch,    ///< Stays, run by LibTorch.
};

/// Part of one block that becomes an engine: nodes that may run together at one place, in program order.
struct Segment {
  std::vector<torch::jit::Node*> nodes;
  size_t number = 0;       ///< Its place among all segments of the partition.
  int64_t operations = 0;  ///< Nodes that compute tensors, those in bodies of control flow included.
  double flops = 0;
};

/// A block cut up: what stays in which order, and the segments' places in it.
struct BlockPartition {
  torch::jit::Block* block = nullptr;
  /// The new order of the block: a node that stays, or (null) the next segment.
  std::vector<torch::jit::Node*> order;
  std::vector<Segment> segments;
  std::vector<torch::jit::Node*> dead;  ///< Neutral nodes that only segments read.
};

struct Partition {
  std::vector<BlockPartition> blocks;  ///< Outer blocks before inner ones.
  std::unordered_map<const torch::jit::Node*, Role> roles;
  std::unordered_set<const torch::jit::Value*> elsewhere;  ///< The probe's.
  struct Reason {
    const torch::jit::Node* node;
    std::string reason;
    bool is_small = false;  ///< It stays because of min_block_size alone.
    /// For these: how many operations its segment would have had, counted as min_block_size does.
    int64_t segment_size = 0;
  };
  std::vector<Reason> fallbacks;  ///< Operations that stay in LibTorch, block by block in program order.
  /// Operations that LibTorch runs where a call reaches them, as the probe did not.
  std::vector<const torch::jit::Node*> unreached;
  /// Two segments of one block, of which the second needs what LibTorch makes of the first one's results.
  struct Separation {
    size_t first = 0;  ///< Their numbers.
    size_t second = 0;
    std::vector<size_t> because;  ///< Places in `fallbacks` of all operations between them.
  };
  std::vector<Separation> separations;
  std::vector<const Segment*> segments() const;  ///< All of them by number.
};

/// Cuts up a graph. Segments are maximal for the order of computation: a node is in the earliest segment that
/// everything it needs from LibTorch allows. No node of a segment touches memory that is written in place, so moving
/// segments as a whole changes nothing. Bodies of control flow that stays in LibTorch are cut up in the same way.
Partition partition(torch::jit::Graph& graph, const Memory& memory, const Probe& probe, const Options& options);

}  // namespace torchweld
