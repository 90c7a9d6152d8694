// When each node of a block may run, counted in changes between engines and LibTorch.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <unordered_map>
#include <vector>

#include "partitioning/partition.h"

namespace torchweld {

/// Position of nodes that may stand anywhere.
constexpr int kBeforeEverything = -3;

/// Engine nodes of level n form segment n. Execution goes: LibTorch nodes of level -1, segment 0, LibTorch nodes of
/// level 0, segment 1, ... A neutral node has the level of the latest thing it needs.
struct Level {
  int level = kBeforeEverything;
  int engine = -1;  ///< Latest segment among everything this node depends on, itself included; -1 for none.
  int torch = -2;   ///< Latest level of LibTorch nodes among these; -2 for none.
};

/// What each node of a block has to wait for: nodes of the same block, by data and because nodes of one chain keep
/// their order.
using Dependencies = std::unordered_map<const torch::jit::Node*, std::vector<const torch::jit::Node*>>;
Dependencies dependencies_of(const torch::jit::Block* block, const std::vector<torch::jit::Node*>& nodes,
                             const std::vector<std::vector<torch::jit::Node*>>& chains);

/// The earliest level of every node.
std::unordered_map<const torch::jit::Node*, Level> assign_levels(
    const std::vector<torch::jit::Node*>& nodes, const std::unordered_map<const torch::jit::Node*, Role>& roles,
    const Dependencies& dependencies);

}  // namespace torchweld
