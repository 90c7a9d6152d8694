#include <algorithm>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "conversion/passes/groups.h"
#include "conversion/passes/join_shortcut.h"
#include "conversion/passes/passes.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/ops/pointwise.h"
#include "core/ops/pool.h"
#include "core/ops/reduce.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

bool is_reduced_float(const TensorType& type) { return type.dtype == c10::kHalf || type.dtype == c10::kBFloat16; }

/// A node with op A as its anchor, bare or with pointwise nodes after it, that has one output.
template <class A>
struct Part {
  const A* op = nullptr;
  const Value* x = nullptr;       ///< What the anchor reads; constants and `others` beside it.
  const Value* weight = nullptr;  ///< Null for ops without weights.
  std::vector<const Value*> others;
};

template <class A>
std::optional<Part<A>> part_of(const Node& node) {
  auto* fused = node.as<Fused>();
  if (node.outputs().size() != 1 || block_of(node)) return std::nullopt;
  const Node* anchor = fused ? anchor_of(*fused) : &node;
  if (!anchor || !anchor->as<A>() || !is_reduced_float(node.output()->type)) return std::nullopt;
  auto outer = [&](size_t i) -> const Value* {
    const Value* inner = anchor->input(i);
    if (!fused) return inner;
    return inner->producer() ? nullptr : node.input(inner->index());
  };
  Part<A> part{.op = anchor->as<A>(), .x = outer(0), .weight = nullptr, .others = {}};
  if (anchor->inputs().size() > 1) part.weight = outer(1);
  if (!part.x || (anchor->inputs().size() > 1 && !part.weight->template from<Constant>())) return std::nullopt;
  for (const Value* v : node.inputs()) {
    if (v != part.x && !v->from<Constant>()) part.others.push_back(v);
  }
  return part;
}

bool all_are(const Dims& dims, int64_t number) {
  return std::all_of(dims.begin(), dims.end(), [number](int64_t d) { return d == number; });
}

/// A 1x1 convolution over a 4-d tensor that looks at every position by itself.
std::optional<Part<Conv>> position_conv(const Node& node) {
  auto part = part_of<Conv>(node);
  if (!part || part->op->groups != 1 || part->op->transposed || part->weight->type.rank() != 4) return std::nullopt;
  const Dims& window = part->weight->type.shape;
  bool plain = window[2] == 1 && window[3] == 1 && all_are(part->op->stride, 1) && all_are(part->op->padding, 0);
  return plain ? part : std::nullopt;
}

/// A 4-d convolution with one input and one output channel per group.
std::optional<Part<Conv>> depthwise_conv(const Node& node) {
  auto part = part_of<Conv>(node);
  if (!part || part->op->transposed || part->weight->type.rank() != 4 || !part->others.empty()) return std::nullopt;
  const Dims& window = part->weight->type.shape;
  return window[1] == 1 && window[0] == part->op->groups && window[0] > 1 ? part : std::nullopt;
}

/// The node that computes `value` when nothing else reads it.
Node* only_producer(const Graph& graph, const Value* value) {
  return value->producer() && only_user(graph, value) ? value->producer() : nullptr;
}

/// [1x1 conv ->] depthwise [-> 1x1 conv, plus the block's input]; at least two of the three.
Group inverted_residual(Graph& graph, Node* node) {
  auto depthwise = depthwise_conv(*node);
  if (!depthwise) return {};
  Group group{node};
  const Value* x = depthwise->x;
  Node* before = only_producer(graph, x);
  auto expand = before ? position_conv(*before) : std::nullopt;
  // One that makes fewer channels is the end of a block ahead, which has other uses for it.
  if (expand && expand->others.empty() && expand->weight->type.shape[0] >= expand->weight->type.shape[1]) {
    group.insert(group.begin(), before);
    x = expand->x;
  }
  Node* after = only_user(graph, node->output());
  auto project = after ? position_conv(*after) : std::nullopt;
  bool joins = project && project->x == node->output() && all_are({static_cast<int64_t>(project->others.size())}, 0);
  if (project && project->x == node->output() && project->others.size() == 1) joins = project->others[0] == x;
  if (joins) group.push_back(after);
  return group.size() > 1 ? group : Group{};
}

/// True for a pointwise node, alone or fused, with one output that is computed from nothing but `a` and `b`.
bool is_pointwise_of(const Node& node, const Value* a, const Value* b) {
  auto* fused = node.as<Fused>();
  if (!node.as<Pointwise>() && !(fused && !is_block(*fused) && !anchor_of(*fused))) return false;
  return node.outputs().size() == 1 && std::all_of(node.inputs().begin(), node.inputs().end(), [&](const Value* v) {
           return v == a || v == b || is_inner_constant(v);
         });
}

/// The mean over both spatial dimensions of a 4-d tensor.
const Value* pooled_by(const Node& node) {
  auto* reduce = node.as<Reduce>();
  bool spatial = reduce && reduce->kind == "mean" && reduce->axes == Dims{2, 3} && node.input(0)->type.rank() == 4;
  return spatial && is_reduced_float(node.output()->type) ? node.input(0) : nullptr;
}

/// A pointwise node of a tensor and one number per channel -> 1x1 conv.
Group scaled_projection(Graph& graph, Node* node) {
  auto project = position_conv(*node);
  Node* scale = project ? only_producer(graph, project->x) : nullptr;
  if (!scale || scale->inputs().size() < 2 || scale->output()->type.rank() != 4) return {};
  const Dims& shape = scale->output()->type.shape;
  const Value* x = nullptr;
  const Value* gate = nullptr;
  for (const Value* v : scale->inputs()) {
    if (is_inner_constant(v)) continue;
    bool is_gate = v->type.shape == Dims{shape[0], shape[1], 1, 1};
    if ((!is_gate && v->type.shape != shape) || v->from<Constant>() || !is_reduced_float(v->type)) return {};
    (is_gate ? gate : x) = v;
  }
  if (!x || !gate || !is_pointwise_of(*scale, x, gate) || project->others.size() > 1) return {};
  if (node->as<Fused>()) return {scale, node};
  // With a bare convolution the body would have a single anchor, and be no block.
  Node* part = fuse_group(graph, {node});
  graph.erase(node);
  return {scale, part};
}

/// mean -> 1x1 conv -> 1x1 conv [-> pointwise of that and what the mean was taken of].
Group squeeze_excite(Graph& graph, Node* node) {
  const Value* x = pooled_by(*node);
  if (!x || !node->as<Reduce>()->keepdim) return {};
  Group group{node};
  for (int i = 0; i < 2; ++i) {
    Node* next = only_user(graph, group.back()->output());
    auto conv = next ? position_conv(*next) : std::nullopt;
    if (!conv || !conv->others.empty()) return {};
    group.push_back(next);
  }
  Node* gate = only_user(graph, group.back()->output());
  if (gate && is_pointwise_of(*gate, x, group.back()->output()) && gate->output()->type.shape == x->type.shape)
    group.push_back(gate);
  return group;
}

/// True for a depthwise convolution, alone or at the end of a block.
bool ends_depthwise(const Node& node) {
  const Fused* block = block_of(node);
  if (!block) return depthwise_conv(node).has_value();
  const Node& last = *block->body->nodes().back();
  auto* part = last.as<Fused>();
  const Node* anchor = !part ? &last : block_of(last) ? nullptr : anchor_of(*part);
  return anchor && anchor->as<Conv>() && anchor->as<Conv>()->groups > 1;
}

/// depthwise or a block that ends so -> squeeze-excitation -> scaled projection: three blocks as one.
Group excited_residual(Graph& graph, Node* node) {
  auto begins_with_mean = [](const Fused& block) { return block.body->nodes().front()->as<Reduce>() != nullptr; };
  if (!block_of(*node)) return {};
  for (Value* gate : node->inputs()) {
    Node* excite = only_producer(graph, gate);
    const Fused* block = excite ? block_of(*excite) : nullptr;
    if (!block || !begins_with_mean(*block) || gate->type.rank() != 4) continue;
    auto is_hidden = [](const Value* v) { return v->producer() && !v->from<Constant>(); };
    auto hidden = std::find_if(excite->inputs().begin(), excite->inputs().end(), is_hidden);
    if (hidden == excite->inputs().end() || graph.is_output(*hidden)) continue;
    Node* depthwise = (*hidden)->producer();
    const auto& users = (*hidden)->users();
    bool scaled = std::find(users.begin(), users.end(), node) != users.end();
    bool ours =
        scaled && std::all_of(users.begin(), users.end(), [&](const Node* n) { return n == excite || n == node; });
    if (!ours || depthwise->outputs().size() != 1 || !ends_depthwise(*depthwise)) continue;
    // The kernel's first half is a block also where it is the depthwise convolution alone.
    if (!block_of(*depthwise)) {
      Node* part = fuse_group(graph, {depthwise});
      graph.erase(depthwise);
      depthwise = part;
    }
    return {depthwise, excite, node};
  }
  return {};
}

/// mean [-> reshape] -> linear [-> cast to f32].
Group pooled_classifier(Graph& graph, Node* node) {
  if (!pooled_by(*node)) return {};
  Group group{node};
  Node* next = only_user(graph, node->output());
  while (next && next->as<Reshape>()) {
    group.push_back(next);
    next = only_user(graph, next->output());
  }
  auto linear = next ? part_of<Linear>(*next) : std::nullopt;
  if (!linear || !linear->others.empty() || linear->x != group.back()->output()) return {};
  group.push_back(next);
  Node* cast = only_user(graph, next->output());
  if (cast && cast->as<Cast>() && cast->as<Cast>()->dtype == c10::kFloat) group.push_back(cast);
  return group;
}

/// convolution of a picture's few channels -> max pool.
Group pooled_stem(Graph& graph, Node* node) {
  auto pool = part_of<MaxPool>(*node);
  Node* before = pool && pool->others.empty() ? only_producer(graph, pool->x) : nullptr;
  auto conv = before ? part_of<Conv>(*before) : std::nullopt;
  bool stem = conv && conv->others.empty() && is_stem(*conv->op, conv->weight->type);
  return stem ? Group{before, node} : Group{};
}

/// The node that reads `value` first.
Node* first_reader(Graph& graph, const Value* value) {
  auto& users = value->users();
  for (const auto& node : graph.nodes()) {
    if (std::find(users.begin(), users.end(), node.get()) != users.end()) return node.get();
  }
  return nullptr;
}

/// True when another node than `user` and `end` reads `value` ahead of `end`.
bool is_read_before(Graph& graph, const Value* value, const Node* user, const Node* end) {
  auto& users = value->users();
  for (const auto& node : graph.nodes()) {
    if (node.get() == end) return false;
    if (node.get() != user && std::find(users.begin(), users.end(), node.get()) != users.end()) return true;
  }
  return false;
}

/// linear -> layer norm or RMS norm -> linear; others may read the results of the first two as well, after the last.
Group deferred_norm(Graph& graph, Node* node) {
  if (!is_row_norm(*node) || !is_reduced_float(node->output()->type)) return {};
  bool constant =
      std::all_of(node->inputs().begin() + 1, node->inputs().end(), [](const Value* v) { return v->from<Constant>(); });
  Node* writer = node->input(0)->producer();
  Node* reader = first_reader(graph, node->output());
  if (!constant || !writer || !reader || is_read_before(graph, writer->output(), node, reader)) return {};
  auto linear = part_of<Linear>(*reader);
  if (!linear || linear->x != node->output() || !linear->others.empty() || !part_of<Linear>(*writer)) return {};
  return {writer, node, reader};
}

/// True when two nodes do the same with their inputs, whatever the sizes of these.
bool same_steps(const Node& a, const Node& b) {
  auto* one = a.as<Fused>();
  auto* other = b.as<Fused>();
  if (!one || !other) return !one && !other && a.attrs == b.attrs;
  std::vector<const Node*> left, right;
  for (const auto& node : one->body->nodes()) left.push_back(node.get());
  for (const auto& node : other->body->nodes()) right.push_back(node.get());
  std::unordered_map<const Value*, const Value*> twins;
  auto pair = [&](const auto& these, const auto& those) {
    for (size_t i = 0; i < these.size(); ++i) twins[these[i].get()] = those[i].get();
    return these.size() == those.size();
  };
  if (left.size() != right.size() || one->body->inputs().size() != other->body->inputs().size()) return false;
  pair(one->body->inputs(), other->body->inputs());
  for (size_t i = 0; i < left.size(); ++i) {
    if (!(left[i]->attrs == right[i]->attrs) || left[i]->inputs().size() != right[i]->inputs().size()) return false;
    for (size_t k = 0; k < left[i]->inputs().size(); ++k) {
      if (twins.at(left[i]->input(k)) != right[i]->input(k)) return false;
    }
    pair(left[i]->outputs(), right[i]->outputs());
  }
  return twins.at(one->body->outputs()[0]) == other->body->outputs()[0];
}

/// True when only the anchor reads `value`, of all nodes inside a fused one.
bool reads_once(const Node& node, const Value* value) {
  auto* fused = node.as<Fused>();
  if (!fused) return true;
  auto input = std::find(node.inputs().begin(), node.inputs().end(), value);
  return fused->body->inputs()[input - node.inputs().begin()]->users().size() == 1;
}

bool is_one_product(const Conv& conv) { return conv.groups == 1 && !conv.transposed; }
bool is_one_product(const Linear&) { return true; }

/// Sizes of a filter: all of the weight's but the number of outputs.
Dims filter_of(const Value& weight) { return {weight.type.shape.begin() + 1, weight.type.shape.end()}; }

/// Convolutions, or linear layers, of one tensor that differ in nothing but their weights. They move to the first.
template <class A>
Group siblings(Graph& graph, Node* node) {
  auto first = part_of<A>(*node);
  if (!first || !first->others.empty() || !is_one_product(*first->op) || !reads_once(*node, first->x)) return {};
  Group others;
  for (Node* user : first->x->users()) {
    auto part = part_of<A>(*user);
    bool fits = user != node && part && part->x == first->x && part->others.empty() && same_steps(*node, *user) &&
                filter_of(*part->weight) == filter_of(*first->weight);
    if (fits && std::find(others.begin(), others.end(), user) == others.end()) others.push_back(user);
  }
  if (others.empty()) return {};
  for (Node* other : others) {
    // To the front: others may read them ahead of `node`.
    for (Value* v : other->inputs()) {
      if (v->from<Constant>()) graph.move_before(v->producer(), graph.nodes().front().get());
    }
    graph.move_before(other, node);
  }
  others.push_back(node);
  return others;
}

}  // namespace

void fuse_blocks(Graph& graph, const PassContext& context) {
  if (!context.tensor_cores) return;
  for (auto find : {inverted_residual, scaled_projection, squeeze_excite, excited_residual, pooled_classifier,
                    pooled_stem, deferred_norm, joined_shortcut, siblings<Conv>, siblings<Linear>}) {
    std::unordered_set<const Node*> taken;
    for (Node* node : graph.node_list()) {
      if (taken.count(node)) continue;
      Group group = find(graph, node);
      bool free = std::none_of(group.begin(), group.end(), [&](const Node* member) { return taken.count(member); });
      if (group.empty() || !free) continue;
      taken.insert(group.begin(), group.end());
      fuse_group(graph, group);
    }
    graph.sweep();
  }
}

}  // namespace torchweld
