#include <algorithm>
#include <array>
#include <cmath>

#include "conversion/passes/facts.h"
#include "conversion/passes/passes.h"
#include "core/ops/attention.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "core/ops/pool.h"
#include "core/ops/reduce.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

/// What may stand for the node's only result; null when the rule has nothing to say.
using Rule = Value* (*)(Graph&, Node&);

bool all_equal(const Dims& dims, int64_t number) {
  return std::all_of(dims.begin(), dims.end(), [&](int64_t d) { return d == number; });
}

bool all_equal(const LazyTensor& constant, double number) {
  return constant.numel() <= 4096 && fact(constant, "all are " + std::to_string(number), [&](const at::Tensor& tensor) {
           return tensor.eq(number).all().item<bool>();
         });
}

/// True when every number of `from` is a number of `to`.
bool is_exact_cast(c10::ScalarType from, c10::ScalarType to) {
  if (from == to || from == c10::kBool) return true;
  if (c10::isFloatingType(from) != c10::isFloatingType(to)) {
    return c10::isIntegralType(from, false) && c10::isFloatingType(to) &&
           (c10::elementSize(from) == 1 ? to == c10::kFloat || to == c10::kDouble || to == c10::kHalf
                                        : to == c10::kDouble && c10::elementSize(from) <= 4);
  }
  if (to == c10::kBool || c10::isComplexType(from) || c10::isComplexType(to)) return false;
  return c10::promoteTypes(from, to) == to;
}

// ---- ops that keep their input ----

Value* drop_identity(Graph&, Node& node) {
  Value* x = node.inputs().empty() ? nullptr : node.input(0);
  if (!x || node.outputs().size() != 1 || x->type.dtype != node.output()->type.dtype ||
      x->type.shape != node.output()->type.shape) {
    return nullptr;
  }
  if (node.as<Reshape>() || node.as<Expand>() || node.as<Cast>() || node.as<Slice>() || node.as<Copy>()) return x;
  if (auto* permute = node.as<Permute>()) {
    return std::is_sorted(permute->order.begin(), permute->order.end()) ? x : nullptr;
  }
  if (auto* pad = node.as<Pad>()) return all_equal(pad->before, 0) && all_equal(pad->after, 0) ? x : nullptr;
  if (node.as<Concat>()) return node.inputs().size() == 1 ? x : nullptr;
  if (node.as<AdaptivePool>()) return x;
  auto alone = [](const Dims& kernel, const Dims& stride, const Dims& padding) {
    return all_equal(kernel, 1) && all_equal(stride, 1) && all_equal(padding, 0);
  };
  if (auto* pool = node.as<MaxPool>()) return alone(pool->kernel, pool->stride, pool->padding) ? x : nullptr;
  if (auto* pool = node.as<AvgPool>()) {
    return alone(pool->kernel, pool->stride, pool->padding) && pool->divisor_override <= 1 ? x : nullptr;
  }
  return nullptr;
}

Value* drop_neutral_operand(Graph&, Node& node) {
  auto* op = node.as<Pointwise>();
  if (!op || node.inputs().size() != 2) return nullptr;
  const TensorType& type = node.output()->type;
  auto keeps = [&](size_t side) {
    return node.input(side)->type.shape == type.shape && node.input(side)->type.dtype == type.dtype &&
           node.input(1 - side)->from<Constant>();
  };
  auto holds = [&](size_t side, double number) { return all_equal(*lazy_constant_of(node.input(side)), number); };
  // x + 0.0 turns -0.0 into 0.0; x + -0.0 and x - 0.0 keep every x.
  auto keeps_zero = [&](size_t side, bool negative) {
    if (!type.is_floating()) return true;
    return fact(
        *lazy_constant_of(node.input(side)), negative ? "all signs are set" : "no sign is set",
        [&](const at::Tensor& tensor) { return tensor.to(c10::kDouble).signbit().eq(negative).all().item<bool>(); });
  };
  for (size_t side : {0, 1}) {
    if (!keeps(side)) continue;
    size_t other = 1 - side;
    if (op->fn == "mul" && holds(other, 1)) return node.input(side);
    if (op->fn == "add" && holds(other, 0) && keeps_zero(other, true)) return node.input(side);
    if (side == 1) continue;
    if (op->fn == "div" && holds(1, 1)) return node.input(0);
    if (op->fn == "pow" && holds(1, 1)) return node.input(0);
    if (op->fn == "sub" && holds(1, 0) && keeps_zero(1, false)) return node.input(0);
  }
  return nullptr;
}

/// The mask in mask & true and mask | false, where the constant may make it larger; null for all other nodes.
Value* decisive_mask(const Node& node) {
  auto* op = node.as<Pointwise>();
  if (!op || node.inputs().size() != 2 || node.output()->type.dtype != c10::kBool) return nullptr;
  bool is_and = op->fn == "bitwise_and" || op->fn == "logical_and";
  if (!is_and && op->fn != "bitwise_or" && op->fn != "logical_or") return nullptr;
  for (size_t side : {0, 1}) {
    const LazyTensor* constant = lazy_constant_of(node.input(1 - side));
    if (constant && node.input(side)->type.dtype == c10::kBool && all_equal(*constant, is_and)) return node.input(side);
  }
  return nullptr;
}

Value* drop_neutral_mask(Graph&, Node& node) {
  Value* mask = decisive_mask(node);
  return mask && mask->type.shape == node.output()->type.shape ? mask : nullptr;
}

/// Attention repeats its mask by itself, and reads one row for all queries faster. The rank stays: LibTorch has kernels
/// for masks of rank 2 and 4.
Value* drop_repeated_mask(Graph& graph, Node& node) {
  if (!node.as<Attention>() || node.inputs().size() < 4 || !node.input(3)->producer()) return nullptr;
  const Node& maker = *node.input(3)->producer();
  Value* mask = maker.as<Expand>() ? maker.input(0) : decisive_mask(maker);
  if (!mask) return nullptr;
  Dims shape = mask->type.shape;
  shape.insert(shape.begin(), node.input(3)->type.shape.size() - shape.size(), 1);
  if (shape != mask->type.shape) mask = graph.add(Reshape{shape}, {mask});
  std::vector<Value*> inputs(node.inputs().begin(), node.inputs().end());
  inputs[3] = mask;
  return graph.add(node.attrs, inputs);
}

/// f(f(x)) = f(x), and relu after what is never negative.
Value* drop_repeated(Graph&, Node& node) {
  static constexpr std::array<std::string_view, 6> idempotent{"relu", "abs", "floor", "ceil", "round", "trunc"};
  static constexpr std::array<std::string_view, 5> never_negative{"relu", "sigmoid", "hardsigmoid", "abs", "exp"};
  auto* op = node.as<Pointwise>();
  if (!op || node.inputs().size() != 1) return nullptr;
  auto* before = node.input(0)->from<Pointwise>();
  if (!before) return nullptr;
  auto has = [](const auto& list, const std::string& name) {
    return std::find(list.begin(), list.end(), name) != list.end();
  };
  if (op->fn == before->fn && has(idempotent, op->fn)) return node.input(0);
  if (op->fn == "relu" && has(never_negative, before->fn)) return node.input(0);
  return nullptr;
}

// ---- chains ----

Value* merge_reshapes(Graph& graph, Node& node) {
  auto* op = node.as<Reshape>();
  if (!op || !node.input(0)->from<Reshape>()) return nullptr;
  return graph.add(*op, {node.input(0)->producer()->input(0)});
}

/// Rows that are joined before a linear and taken apart again after it, as for torch.addmm.
Value* drop_joined_rows(Graph& graph, Node& node) {
  auto* after = node.as<Reshape>();
  Value* y = after ? node.input(0) : nullptr;
  if (!y || !y->from<Linear>() || graph.use_count(y) != 1) return nullptr;
  const Node& linear = *y->producer();
  if (!linear.input(0)->from<Reshape>() || after->shape.empty() || after->shape.back() != y->type.shape.back())
    return nullptr;
  Dims shape = after->shape;
  shape.back() = linear.input(0)->type.shape.back();
  std::vector<Value*> inputs(linear.inputs().begin(), linear.inputs().end());
  inputs[0] = graph.add(Reshape{shape}, {inputs[0]->producer()->input(0)});
  return graph.add(Linear{}, inputs);
}

/// A permuted result of a linear, where that leaves every row where it lies.
Value* permute_before_linear(Graph& graph, Node& node) {
  auto* permute = node.as<Permute>();
  Value* y = permute ? node.input(0) : nullptr;
  if (!y || !y->from<Linear>() || graph.use_count(y) != 1 || graph.is_output(node.output())) return nullptr;
  if (permute->order.back() != y->type.rank() - 1 || !is_contiguous(node.output()->type)) return nullptr;
  std::vector<Value*> inputs(y->producer()->inputs().begin(), y->producer()->inputs().end());
  inputs[0] = graph.add(*permute, {inputs[0]});
  return graph.add(Linear{}, inputs);
}

/// Dimensions that are permuted and then taken apart are taken apart first, so that reshapes meet reshapes.
Value* split_before_permute(Graph& graph, Node& node) {
  auto* reshape = node.as<Reshape>();
  Value* turned = reshape ? node.input(0) : nullptr;
  auto* permute = turned ? turned->from<Permute>() : nullptr;
  if (!permute || turned->type.numel() == 0) return nullptr;
  // parts[i]: the dimensions of the result that dimension i of the permuted tensor is taken apart into.
  std::vector<Dims> parts(turned->type.shape.size());
  size_t next = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    int64_t left = turned->type.shape[i];
    bool last = i + 1 == parts.size();
    while (next < reshape->shape.size() && (left > 1 || parts[i].empty() || last)) {
      int64_t size = reshape->shape[next];
      if (left % size != 0) return nullptr;
      parts[i].push_back(static_cast<int64_t>(next++));
      left /= size;
    }
    if (left != 1 || parts[i].empty()) return nullptr;
  }
  Dims shape, position(reshape->shape.size());
  for (int64_t i : permute->inverse()) {
    for (int64_t part : parts[i]) {
      position[part] = static_cast<int64_t>(shape.size());
      shape.push_back(reshape->shape[part]);
    }
  }
  return graph.add(Permute{position}, {graph.add(Reshape{shape}, {turned->producer()->input(0)})});
}

Value* merge_permutes(Graph& graph, Node& node) {
  auto* second = node.as<Permute>();
  auto* first = second ? node.input(0)->from<Permute>() : nullptr;
  if (!first) return nullptr;
  Dims order;
  for (int64_t axis : second->order) order.push_back(first->order[axis]);
  return graph.add(Permute{order}, {node.input(0)->producer()->input(0)});
}

Value* merge_casts(Graph& graph, Node& node) {
  auto* second = node.as<Cast>();
  if (!second || !node.input(0)->from<Cast>()) return nullptr;
  Value* x = node.input(0)->producer()->input(0);
  if (!is_exact_cast(x->type.dtype, node.input(0)->type.dtype)) return nullptr;
  return x->type.dtype == second->dtype ? x : graph.add(*second, {x});
}

Value* merge_copies(Graph& graph, Node& node) {
  auto* second = node.as<Copy>();
  if (!second || !node.input(0)->from<Copy>()) return nullptr;
  return graph.add(*second, {node.input(0)->producer()->input(0)});
}

/// Pointwise ops repeat their operands by themselves.
Value* drop_expanded_operands(Graph& graph, Node& node) {
  if (!node.as<Pointwise>()) return nullptr;
  std::vector<Value*> inputs(node.inputs().begin(), node.inputs().end());
  bool changed = false;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i]->from<Expand>()) continue;
    Value* narrow = inputs[i]->producer()->input(0);
    // A 0-d operand could be taken for a number without a dtype of its own.
    if (narrow->type.rank() == 0) continue;
    Dims shape = narrow->type.shape;
    for (size_t j = 0; j < inputs.size(); ++j) {
      if (j != i) shape = broadcast_shapes(shape, inputs[j]->type.shape);
    }
    if (shape != node.output()->type.shape) continue;
    inputs[i] = narrow;
    changed = true;
  }
  return changed ? graph.add(node.attrs, inputs) : nullptr;
}

// ---- forms that have more kernels ----

Value* pool_to_reduce(Graph& graph, Node& node) {
  const Value* x = node.inputs().empty() ? nullptr : node.input(0);
  std::string kind;
  if (auto* pool = node.as<AdaptivePool>()) {
    if (all_equal(pool->output, 1)) kind = pool->kind == "avg" ? "mean" : "amax";
  } else if (auto* whole = node.as<AvgPool>()) {
    Dims space(x->type.shape.begin() + 2, x->type.shape.end());
    if (whole->kernel == space && all_equal(whole->padding, 0) && whole->divisor_override == 0) kind = "mean";
  }
  if (kind.empty() || x->type.numel() == 0) return nullptr;
  Dims axes;
  for (int64_t i = 2; i < x->type.rank(); ++i) axes.push_back(i);
  return graph.add(Reduce{.kind = kind, .axes = axes, .keepdim = true}, {node.input(0)});
}

Value* reduce_of_single_elements(Graph& graph, Node& node) {
  auto* op = node.as<Reduce>();
  if (!op || node.input(0)->type.dtype != node.output()->type.dtype) return nullptr;
  static constexpr std::array<std::string_view, 5> kinds{"sum", "mean", "prod", "amax", "amin"};
  if (std::find(kinds.begin(), kinds.end(), op->kind) == kinds.end()) return nullptr;
  for (int64_t axis : op->axes) {
    if (node.input(0)->type.rank() > 0 && node.input(0)->type.shape[axis] != 1) return nullptr;
  }
  return graph.add(Reshape{node.output()->type.shape}, {node.input(0)});
}

/// x [..., K] times a transposed or constant matrix.
Value* matmul_to_linear(Graph& graph, Node& node) {
  if (!node.as<Matmul>() || node.input(1)->type.rank() != 2) return nullptr;
  if (auto* permute = node.input(1)->from<Permute>()) {
    if (permute->order == Dims{1, 0}) return graph.add(Linear{}, {node.input(0), node.input(1)->producer()->input(0)});
  }
  auto* weight = node.input(1)->from<Constant>();
  if (!weight) return nullptr;
  Value* turned = graph.add(Constant{weight->value.tensor().t(), weight->name}, {});
  return graph.add(Linear{}, {node.input(0), turned});
}

/// x * sigmoid(x), written out.
Value* product_to_silu(Graph& graph, Node& node) {
  auto* op = node.as<Pointwise>();
  if (!op || op->fn != "mul") return nullptr;
  for (size_t side : {0, 1}) {
    auto* gate = node.input(side)->from<Pointwise>();
    Value* x = node.input(1 - side);
    if (gate && gate->fn == "sigmoid" && node.input(side)->producer()->input(0) == x && x->type.is_floating()) {
      return graph.add(Pointwise{"silu"}, {x});
    }
  }
  return nullptr;
}

/// Zeros around the input of a convolution, as many on both sides.
Value* pad_into_conv(Graph& graph, Node& node) {
  auto* conv = node.as<Conv>();
  auto* pad = conv && !conv->transposed ? node.input(0)->from<Pad>() : nullptr;
  if (!pad || pad->value != 0 || pad->before != pad->after) return nullptr;
  if (pad->before[0] != 0 || pad->before[1] != 0) return nullptr;
  Conv wider = *conv;
  for (size_t i = 0; i < wider.padding.size(); ++i) {
    if (pad->before[i + 2] < 0) return nullptr;
    wider.padding[i] += pad->before[i + 2];
  }
  std::vector<Value*> inputs(node.inputs().begin(), node.inputs().end());
  inputs[0] = node.input(0)->producer()->input(0);
  return graph.add(wider, inputs);
}

constexpr std::array<Rule, 18> kRules{
    drop_identity,    drop_neutral_mask, drop_repeated_mask,     drop_neutral_operand, drop_repeated,
    merge_reshapes,   drop_joined_rows,  permute_before_linear,  split_before_permute, merge_permutes,
    merge_casts,      merge_copies,      drop_expanded_operands, pool_to_reduce,       reduce_of_single_elements,
    matmul_to_linear, product_to_silu,   pad_into_conv};

/// True when `to` can take the place of `from` everywhere: users have been typed by its strides.
bool can_replace(const Value* from, const Value* to) {
  return to->type.dtype == from->type.dtype && to->type.shape == from->type.shape &&
         same_layout(from->type.shape, from->type.strides, to->type.strides);
}

bool apply_rules(Graph& graph, Node& node) {
  if (node.outputs().size() != 1 || graph.use_count(node.output()) == 0) return false;
  Graph::InsertBefore here(graph, &node);
  graph.origin = node.origin;
  for (Rule rule : kRules) {
    Value* value = rule(graph, node);
    if (!value || !can_replace(node.output(), value)) continue;
    graph.replace_uses(node.output(), value);
    return true;
  }
  return false;
}

}  // namespace

void simplify(Graph& graph, const PassContext&) {
  for (bool changed = true; changed;) {
    changed = false;
    for (Node* node : graph.node_list()) changed |= apply_rules(graph, *node);
    graph.sweep();
  }
}

}  // namespace torchweld
