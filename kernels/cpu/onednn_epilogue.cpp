#include "kernels/cpu/onednn_epilogue.h"

#include <map>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "core/ops/pointwise.h"
#include "kernels/cpu/anchor.h"

namespace torchweld::cpu {
namespace {

/// oneDNN's name for a function of one operand; empty when it has none.
std::string plain_unary(const std::string& fn) {
  static const std::map<std::string, std::string> names{
      {"relu", "relu"},           {"sigmoid", "sigmoid"},         {"tanh", "tanh"}, {"silu", "swish"},
      {"hardswish", "hardswish"}, {"hardsigmoid", "hardsigmoid"}, {"gelu", "gelu"}, {"gelu_tanh", "gelu"}};
  auto found = names.find(fn);
  return found == names.end() ? "" : found->second;
}

void add_unary(Epilogue& epilogue, const Node& node, const Value* value) {
  const std::string& fn = node.as<Pointwise>()->fn;
  expect(node.input(0) == value, fn + " takes the result as another operand than its first");
  expect(epilogue.unary == "none", "oneDNN takes one activation");
  epilogue.unary = plain_unary(fn);
  if (fn == "gelu" || fn == "gelu_tanh") epilogue.algorithm = fn == "gelu" ? "none" : "tanh";
  if (fn == "clamp") epilogue.unary = "hardtanh";
  if (fn == "leaky_relu") epilogue.unary = "leaky_relu";
  expect(!epilogue.unary.empty(), "oneDNN has no post-op for " + fn);
  for (size_t i = 1; i < node.inputs().size(); ++i) {
    std::optional<double> number = number_of(node.input(i));
    expect(number.has_value(), fn + " with tensors as bounds is no post-op");
    epilogue.scalars.emplace_back(*number);
  }
  // The post-op behind an addition has no parameters.
  expect(!epilogue.other || epilogue.unary == "relu", "oneDNN takes only relu after an addition");
}

void add_residual(Epilogue& epilogue, const Node& node, const Value* value) {
  expect(node.as<Pointwise>()->fn == "add", "oneDNN adds only sums of two tensors");
  const Value* other = node.input(0) == value ? node.input(1) : node.input(0);
  expect(other != value && !other->producer(), "the added operand is not an input");
  expect(other->type.shape == value->type.shape && other->type.dtype == value->type.dtype,
         "the added operand is broadcast");
  expect(!epilogue.other && epilogue.unary == "none", "oneDNN adds one tensor, before the activation");
  epilogue.other = other->index();
}

bool is_residual(const Node& node) {
  return node.inputs().size() == 2 && !number_of(node.input(0)) && !number_of(node.input(1));
}

}  // namespace

Anchored take_apart(const Node& node, bool (*is_anchor)(const Node&)) {
  Anchored result;
  result.node = &node;
  auto [anchor, inputs] = find_anchor(node, is_anchor);
  result.anchor = anchor;
  result.inputs = std::move(inputs);
  auto* fused = node.as<Fused>();
  if (!fused) return result;
  expect(node.outputs().size() == 1, "more than one result");
  const Value* value = result.anchor->output();
  for (const auto& member : fused->body->nodes()) {
    if (member.get() == result.anchor || member->as<Constant>()) continue;
    expect(member->as<Pointwise>() && member->output()->type.dtype == value->type.dtype,
           "a cast or comparison in the body");
    if (is_residual(*member)) {
      add_residual(result.epilogue, *member, value);
    } else {
      add_unary(result.epilogue, *member, value);
    }
    value = member->output();
  }
  expect(fused->body->outputs()[0] == value, "the body's result is not its last node");
  return result;
}

}  // namespace torchweld::cpu
