#include "kernels/cpu/anchor.h"

#include "core/error.h"
#include "core/ops/fused.h"

namespace torchweld::cpu {

Anchor find_anchor(const Node& node, bool (*is_anchor)(const Node&)) {
  auto* fused = node.as<Fused>();
  Anchor anchor{fused ? anchor_of(*fused) : &node, {}};
  expect(anchor.node && is_anchor(*anchor.node), "not this kernel's op");
  for (size_t i = 0; i < anchor.node->inputs().size(); ++i) {
    const Value* v = anchor.node->input(i);
    expect(!fused || !v->producer(), "pointwise nodes stand before the anchor");
    anchor.inputs.push_back(fused ? v->index() : i);
  }
  return anchor;
}

}  // namespace torchweld::cpu
