#include "partitioning/levels.h"

#include <algorithm>

namespace torchweld {

namespace jit = torch::jit;

std::unordered_map<const jit::Node*, Level> assign_levels(const jit::Block* block, const std::vector<jit::Node*>& nodes,
                                                          const std::unordered_map<const jit::Node*, Role>& roles,
                                                          const std::vector<std::vector<jit::Node*>>& chains) {
  std::unordered_map<const jit::Node*, std::vector<const jit::Node*>> after;
  for (const auto& chain : chains) {
    for (size_t i = 1; i < chain.size(); ++i) after[chain[i]].push_back(chain[i - 1]);
  }
  std::unordered_map<const jit::Node*, Level> levels;
  for (const jit::Node* node : nodes) {
    Level own;
    auto depend_on = [&](const jit::Node* other) {
      auto known = levels.find(other);
      if (known == levels.end()) return;  // an enclosing block's
      own.engine = std::max(own.engine, known->second.engine);
      own.torch = std::max(own.torch, known->second.torch);
    };
    for (const jit::Value* value : values_read(node)) {
      if (value->node()->owningBlock() == block) depend_on(value->node());
    }
    for (const jit::Node* earlier : after[node]) depend_on(earlier);
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
