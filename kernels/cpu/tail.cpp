#include "kernels/cpu/tail.h"

#include <unordered_map>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "core/ops/pointwise.h"
#include "kernels/cpu/anchor.h"

namespace torchweld::cpu {
namespace {

/// The input of the body that `node` adds to `value`; null when it does something else.
const Value* added_by(const Node& node, const Value* value) {
  auto* op = node.as<Pointwise>();
  if (!op || op->fn != "add" || node.inputs().size() != 2) return nullptr;
  const Value* other = node.input(0) == value ? node.input(1) : node.input(0);
  if (other == value || other->producer()) return nullptr;
  bool alike = other->type.shape == value->type.shape && other->type.dtype == value->type.dtype &&
               same_layout(value->type.shape, other->type.strides, node.output()->type.strides);
  return alike ? other : nullptr;
}

/// Narrows the bounds by what `node` does to `value`; false when it is no clamp between numbers.
bool join_clamp(const Node& node, const Value* value, Tail& tail) {
  auto* op = node.as<Pointwise>();
  if (!op || node.input(0) != value) return false;
  bool fresh =
      tail.low == -std::numeric_limits<float>::infinity() && tail.high == std::numeric_limits<float>::infinity();
  if (!fresh) return false;
  if (op->fn == "relu") {
    tail.low = 0;
    return true;
  }
  if (op->fn != "clamp" || node.inputs().size() != 3) return false;
  std::optional<double> low = number_of(node.input(1));
  std::optional<double> high = number_of(node.input(2));
  // at::clamp gives the upper bound where they cross, and NaN for a bound that is NaN.
  if (!low || !high || !(*low <= *high)) return false;
  tail.low = static_cast<float>(*low);
  tail.high = static_cast<float>(*high);
  return true;
}

/// The members of the body from `first` on as a program on `value`.
void add_rest(const Node& node, const Graph& body, const std::vector<const Node*>& members, const Value* value,
              Tail& tail) {
  Graph outer;
  auto inner = std::make_shared<Graph>();
  std::unordered_map<const Value*, Value*> known;
  std::vector<Value*> operands{outer.add_input(value->type)};
  operands[0]->type.strides = node.output()->type.strides;
  known[value] = inner->add_input(operands[0]->type);
  auto find = [&](const Value* v) {
    Value*& found = known[v];
    if (found) return found;
    if (v->from<Constant>()) return found = inner->add(v->producer()->attrs, {});
    expect(!v->producer(), "the body reads the sums in several places");
    tail.rest_inputs.push_back(v->index());
    operands.push_back(outer.add_input(v->type));
    return found = inner->add_input(v->type);
  };
  for (const Node* member : members) {
    std::vector<Value*> inputs;
    for (const Value* v : member->inputs()) inputs.push_back(find(v));
    Value* result = inner->add(member->attrs, inputs);
    result->type = member->output()->type;
    known[member->output()] = result;
  }
  inner->add_output(known.at(body.outputs()[0]));
  Node* fused = outer.add_node(Fused{inner}, operands);
  fused->output()->type = node.output()->type;
  BlockProgram program = compile_blocks(*fused);
  for (const BlockOperand& operand : program.inputs)
    expect(operand.index != 0 || operand.flat, "the sums are not laid out as the result");
  tail.rest = std::make_shared<BlockRunner>(std::move(program));
}

}  // namespace

Tail take_tail(const Node& node, bool (*is_anchor)(const Node&)) {
  Tail tail;
  auto [anchor, inputs] = find_anchor(node, is_anchor);
  tail.anchor = anchor;
  tail.inputs = std::move(inputs);
  auto* fused = node.as<Fused>();
  if (!fused) return tail;
  expect(node.outputs().size() == 1, "more than one result");
  const Graph& body = *fused->body;
  const Value* value = tail.anchor->output();
  expect(node.output()->type.dtype == value->type.dtype, "the result has another dtype");
  std::vector<const Node*> rest;
  for (const auto& member : body.nodes()) {
    if (member.get() == tail.anchor || member->as<Constant>()) continue;
    bool alone = rest.empty() && body.use_count(value) == 1 && member->output()->type.dtype == value->type.dtype;
    bool clamped =
        tail.low != -std::numeric_limits<float>::infinity() || tail.high != std::numeric_limits<float>::infinity();
    const Value* added = alone && !tail.added && !clamped ? added_by(*member, value) : nullptr;
    if (added) tail.added = added->index();
    if (added || (alone && join_clamp(*member, value, tail))) {
      value = member->output();
    } else {
      rest.push_back(member.get());
    }
  }
  if (!rest.empty()) {
    add_rest(node, body, rest, value, tail);
  } else {
    expect(body.outputs()[0] == value, "the body's result is not its last node");
  }
  return tail;
}

}  // namespace torchweld::cpu
