// Where the heavy node of a fused one is, for kernels that run it and what follows.
#pragma once

#include <vector>

#include "core/graph.h"

namespace torchweld::cpu {

struct Anchor {
  const Node* node = nullptr;
  std::vector<size_t> inputs;  ///< For each of its inputs which input of the outer node it is.
};

/// The anchor of a fused node, or the node itself. Throws Unsupported when it is not what `is_anchor` asks for, or when
/// pointwise nodes stand before it.
Anchor find_anchor(const Node& node, bool (*is_anchor)(const Node&));

}  // namespace torchweld::cpu
