#include "conversion/passes/join_shortcut.h"

#include <algorithm>

#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/pointwise.h"

namespace torchweld {
namespace {

/// A 4-d convolution each of whose results needs one pixel.
bool needs_one_pixel(const Node& node) {
  auto* conv = node.as<Conv>();
  if (!conv || conv->transposed || conv->groups != 1) return false;
  const Dims& window = node.input(1)->type.shape;
  bool padded = std::any_of(conv->padding.begin(), conv->padding.end(), [](int64_t p) { return p != 0; });
  return window.size() == 4 && window[2] == 1 && window[3] == 1 && !padded;
}

/// True when nothing but an addition reads the anchor's result.
bool is_added_first(const Fused& fused, const Node& anchor) {
  const Node* add = only_user(*fused.body, anchor.output());
  auto* op = add ? add->as<Pointwise>() : nullptr;
  return op && op->fn == "add" && add->inputs().size() == 2;
}

bool has_constant_weights(const Node& conv) {
  return std::all_of(conv.inputs().begin() + 1, conv.inputs().end(),
                     [](const Value* v) { return v->from<Constant>(); });
}

}  // namespace

Group joined_shortcut(Graph& graph, Node* node) {
  auto* fused = node->as<Fused>();
  if (!fused || is_block(*fused) || node->outputs().size() != 1) return {};
  c10::ScalarType dtype = node->output()->type.dtype;
  const Node* anchor = anchor_of(*fused);
  if ((dtype != c10::kHalf && dtype != c10::kBFloat16) || !anchor || !needs_one_pixel(*anchor)) return {};
  const Value* x = anchor->input(0);
  Node* shortcut = nullptr;
  for (size_t i = 0; i < node->inputs().size(); ++i) {
    const Value* operand = node->input(i);
    if (operand->from<Constant>() || fused->body->inputs()[i].get() == x) continue;
    // Another operand that is no convolution's result, or a second one.
    if (shortcut || !operand->producer() || only_user(graph, operand) != node) return {};
    shortcut = operand->producer();
  }
  if (!shortcut || !is_added_first(*fused, *anchor)) return {};
  bool fits = needs_one_pixel(*shortcut) && has_constant_weights(*shortcut) &&
              shortcut->output()->type.shape == node->output()->type.shape;
  return fits ? Group{shortcut, node} : Group{};
}

}  // namespace torchweld
