#include "partitioning/levels.h"

#include <algorithm>

#include "partitioning/reads.h"

namespace torchweld {

namespace jit = torch::jit;

Dependencies dependencies_of(const jit::Block* block, const std::vector<jit::Node*>& nodes,
                             const std::vector<std::vector<jit::Node*>>& chains) {
  Dependencies result;
  for (const jit::Node* node : nodes) {
    std::vector<const jit::Node*>& earlier = result[node];
    for (const jit::Value* value : values_read(node)) {
      const jit::Node* producer = value->node();
      if (producer->owningBlock() == block && producer->kind() != c10::prim::Param) earlier.push_back(producer);
    }
  }
  for (const auto& chain : chains) {
    for (size_t i = 1; i < chain.size(); ++i) result[chain[i]].push_back(chain[i - 1]);
  }
  return result;
}

std::unordered_map<const jit::Node*, Level> assign_levels(const std::vector<jit::Node*>& nodes,
                                                          const std::unordered_map<const jit::Node*, Role>& roles,
                                                          const Dependencies& dependencies) {
  std::unordered_map<const jit::Node*, Level> levels;
  for (const jit::Node* node : nodes) {
    Level own;
    for (const jit::Node* earlier : dependencies.at(node)) {
      const Level& known = levels.at(earlier);
      own.engine = std::max(own.engine, known.engine);
      own.torch = std::max(own.torch, known.torch);
    }
    switch (roles.at(node)) {
      case Role::kFree:
        break;
      case Role::kNeutral:
        own.level = std::max(own.engine, own.torch);
        break;
      case Role::kEngine:
        own.level = own.engine = std::max({own.engine, own.torch + 1, 0});
        break;
      case Role::kTorch:
        own.level = own.torch = std::max({own.engine, own.torch, -1});
        break;
    }
    levels[node] = own;
  }
  return levels;
}

}  // namespace torchweld
