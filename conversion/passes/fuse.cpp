#include <algorithm>
#include <array>
#include <map>
#include <unordered_map>
#include <unordered_set>

#include "conversion/passes/groups.h"
#include "conversion/passes/passes.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/index.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/ops/pointwise.h"
#include "core/ops/pool.h"
#include "core/ops/reduce.h"
#include "core/ops/resize.h"
#include "core/ops/shape.h"
#include "core/ops/softmax.h"

namespace torchweld {
namespace {

constexpr size_t kMaxInputs = 12;
constexpr size_t kMaxNodes = 48;

bool is_pointwise(const Node& node) { return node.as<Pointwise>() || node.as<Cast>(); }
/// Part of a pointwise group: a copy is nothing but other strides for the group's result or operand.
bool joins_pointwise(const Node& node) { return is_pointwise(node) || node.as<Copy>(); }

/// A take of rows that a kernel for CUDA reads as an operand of a computation with this result: neighbours in the
/// result are neighbours in a row.
bool is_read_through(const Node& node, const TensorType& result) {
  auto* take = node.as<Take>();
  if (!take || !result.device.is_cuda() || !is_contiguous(result)) return false;
  const TensorType& table = node.input(0)->type;
  const TensorType& rows = node.output()->type;
  if (is_inner_constant(node.input(0)) || is_inner_constant(node.input(1))) return false;
  return take->axis + 1 < table.rank() && table.strides.back() == 1 && rows.shape.back() > 1 && result.rank() > 0 &&
         rows.shape.back() == result.shape.back() && table.device == result.device &&
         node.input(1)->type.device == result.device;
}

/// True when a take in the group reads `value`, which must then come from outside.
bool is_taken_in(const Group& group, const Value* value) {
  return std::any_of(group.begin(), group.end(), [value](const Node* member) {
    return member->as<Take>() && (member->input(0) == value || member->input(1) == value);
  });
}

bool contains(const Group& group, const Node* node) {
  return std::find(group.begin(), group.end(), node) != group.end();
}

/// True when `node` is a take of what the group computes.
bool takes_from(const Node& node, const Group& group) {
  return node.as<Take>() && (contains(group, node.input(0)->producer()) || contains(group, node.input(1)->producer()));
}

/// Computing it once for each element of a larger result costs less than a kernel of its own.
bool is_cheap(const Node& node) {
  static constexpr std::array<std::string_view, 9> names{"add",   "sub",         "mul",     "neg",    "relu",
                                                         "clamp", "hardsigmoid", "maximum", "minimum"};
  auto* op = node.as<Pointwise>();
  return !op || std::find(names.begin(), names.end(), op->fn) != names.end();
}

// ---- an anchor and what follows it ----

/// What kernels can do at the end of an anchor: any function of its result and numbers, constants with one number per
/// channel, and some operands of full size.
struct Epilogue {
  bool (*is_anchor)(const Node&);
  bool per_channel;
  int full_operands;
  bool on_cpu;               ///< False: only CUDA has kernels for it.
  bool any_strides = false;  ///< Kernels write whatever strides a copy behind it asks for.
};

template <class A>
bool is(const Node& node) {
  return node.as<A>() != nullptr;
}

constexpr std::array<Epilogue, 11> kEpilogues{{
    {is<Conv>, true, 1, true},
    {is<Linear>, true, 1, true},
    {is<Matmul>, true, 1, true},
    {is<Reduce>, false, 1, false},
    {is<Softmax>, false, 1, false},
    {is<LayerNorm>, false, 1, false},
    {is<RmsNorm>, false, 1, false},
    {is<MaxPool>, false, 1, false},
    {is<AvgPool>, false, 1, false},
    {is<AdaptivePool>, false, 1, false},
    {is<Resize>, false, 1, false, true},
}};

bool is_per_channel(const Value* operand, const Value* result, const Node& anchor) {
  int64_t axis = anchor.as<Conv>() ? 1 : result->type.rank() - 1;
  int64_t lead = result->type.rank() - operand->type.rank();
  for (int64_t i = 0; i < operand->type.rank(); ++i) {
    if (operand->type.shape[i] != 1 && i + lead != axis) return false;
  }
  return true;
}

using Positions = std::unordered_map<const Node*, int64_t>;

Positions positions_in(const Graph& graph) {
  Positions positions;
  for (const auto& node : graph.nodes()) positions.emplace(node.get(), static_cast<int64_t>(positions.size()));
  return positions;
}

/// True when `user`, which reads values of the group, can join the epilogue; counts its full operands.
bool joins_epilogue(const Node& user, const Group& group, const Epilogue& epilogue, int& full_operands) {
  const Node& anchor = *group.front();
  const TensorType& result = anchor.output()->type;
  if (!user.as<Pointwise>() || user.output()->type.shape != result.shape) return false;
  if (user.output()->type.dtype != result.dtype || user.output()->type.device != result.device) return false;
  if (!same_layout(result.shape, user.output()->type.strides, result.strides)) return false;
  int full = full_operands;
  for (const Value* operand : user.inputs()) {
    bool inside = contains(group, operand->producer());
    if (inside || is_inner_constant(operand)) continue;
    if (operand->type.dtype != result.dtype) return false;
    if (epilogue.per_channel && operand->from<Constant>() && is_per_channel(operand, anchor.output(), anchor)) continue;
    bool is_full =
        operand->type.shape == result.shape && same_layout(result.shape, operand->type.strides, result.strides);
    if (!is_full || ++full > epilogue.full_operands) return false;
  }
  full_operands = full;
  return true;
}

/// The anchor and as many pointwise nodes behind it as leave one result. Other operands of these cannot depend on the
/// group: what they would depend on would be a second result. `free`: nodes that are in no group yet.
Group with_epilogue(const Graph& graph, Node* anchor, const Epilogue& epilogue, const Positions& free) {
  Group group{anchor};
  size_t closed = 1;
  int full_operands = 0;
  std::map<int64_t, Node*> readers;  // Of the group, in the order of the graph.
  auto add_readers = [&](const Value* value) {
    for (Node* user : value->users()) {
      if (auto place = free.find(user); place != free.end()) readers.emplace(place->second, user);
    }
  };
  add_readers(anchor->output());
  while (!readers.empty() && group.size() < kMaxNodes) {
    Node* next = readers.begin()->second;
    readers.erase(readers.begin());
    if (!joins_epilogue(*next, group, epilogue, full_operands)) break;
    group.push_back(next);
    add_readers(next->output());
    if (outer_outputs(graph, group).size() == 1) closed = group.size();
  }
  group.resize(closed);
  return group;
}

// ---- what comes ahead of an anchor that works by rows ----

/// True when a kernel that holds whole rows of the anchor's input can compute them instead of reading them.
bool holds_rows(const Node& anchor) {
  constexpr int64_t kLongest = 8192;
  auto* softmax = anchor.as<Softmax>();
  auto* layer = anchor.as<LayerNorm>();
  auto* rms = anchor.as<RmsNorm>();
  if (!softmax && !layer && !rms) return false;
  const TensorType& x = anchor.input(0)->type;
  bool last = softmax ? softmax->axis + 1 == x.rank() : (layer ? layer->rank : rms->rank) == 1;
  bool constant = std::all_of(anchor.inputs().begin() + 1, anchor.inputs().end(),
                              [](const Value* weight) { return weight->from<Constant>(); });
  return last && constant && x.device.is_cuda() && x.is_floating() && x.dtype != c10::kDouble && is_contiguous(x) &&
         x.numel() > 0 && x.shape.back() <= kLongest;
}

/// True when rows of a result with this last dimension can be computed from `operand` by reading neighbours.
bool reads_along_rows(const Value* operand, const TensorType& result) {
  const TensorType& type = operand->type;
  bool repeated = type.rank() == 0 || type.shape.back() == 1;
  return repeated || (type.shape.back() == result.shape.back() && type.strides.back() == 1);
}

/// Adds to the group of a row anchor the pointwise nodes and takes that its input is computed from. Nothing else may
/// read their results, except that the anchor's input may become a result of the group too. `free`: nodes that are in
/// no group yet.
void compute_rows(const Graph& graph, Group& group, const Positions& free) {
  const Node& anchor = *group.front();
  const TensorType& x = anchor.input(0)->type;
  const int64_t end = free.at(group.back());
  auto can_join = [&](const Node* node, const Value* value) {
    if (!free.count(node) || takes_from(*node, group) || is_taken_in(group, value)) return false;
    if (!is_pointwise(*node) && !is_read_through(*node, x)) return false;
    bool same_size = value->type.shape == x.shape;
    if (value->type.device != x.device || (!same_size && !is_cheap(*node))) return false;
    for (const Value* operand : node->inputs()) {
      // Kernels pack the anchor's weights.
      bool is_weight = std::find(anchor.inputs().begin() + 1, anchor.inputs().end(), operand) != anchor.inputs().end();
      if (is_weight || (!node->as<Take>() && !reads_along_rows(operand, x))) return false;
      // Device code reads neither host memory nor complex numbers.
      bool is_here = is_inner_constant(operand) || operand->type.device == x.device;
      if (!is_here || c10::isComplexType(operand->type.dtype)) return false;
    }
    auto is_inside = [&](const Node* user) { return contains(group, user); };
    bool inside = std::all_of(value->users().begin(), value->users().end(), is_inside);
    if (value != anchor.input(0)) return inside && !graph.is_output(value);
    // Readers behind the group keep the order valid and rule out a path back into it.
    return std::all_of(value->users().begin(), value->users().end(), [&](const Node* user) {
      auto place = free.find(user);
      return is_inside(user) || (place != free.end() && place->second > end);
    });
  };
  std::vector<Value*> open{anchor.input(0)};
  while (!open.empty() && group.size() < kMaxNodes) {
    Value* value = open.back();
    open.pop_back();
    Node* node = value->producer();
    if (!node || contains(group, node) || !can_join(node, value)) continue;
    group.push_back(node);
    if (outer_inputs(group).size() > kMaxInputs) {
      group.pop_back();
      continue;
    }
    open.insert(open.end(), node->inputs().begin(), node->inputs().end());
  }
  std::sort(group.begin(), group.end(), [&](const Node* a, const Node* b) { return free.at(a) < free.at(b); });
}

void fuse_epilogues(Graph& graph) {
  Positions free = positions_in(graph);
  for (Node* node : graph.node_list()) {
    auto epilogue =
        std::find_if(kEpilogues.begin(), kEpilogues.end(), [&](const Epilogue& e) { return e.is_anchor(*node); });
    if (epilogue == kEpilogues.end() || (!epilogue->on_cpu && !node->output()->type.device.is_cuda())) continue;
    Group group = with_epilogue(graph, node, *epilogue, free);
    Node* copy = epilogue->any_strides ? only_user(graph, group.back()->output()) : nullptr;
    if (copy && copy->as<Copy>() && free.count(copy)) group.push_back(copy);
    if (holds_rows(*node)) compute_rows(graph, group, free);
    if (group.size() == 1) continue;
    fuse_group(graph, group);
    for (const Node* member : group) free.erase(member);
  }
  graph.sweep();
}

// ---- pointwise nodes among themselves ----

class PointwiseGroups {
 public:
  explicit PointwiseGroups(Graph& graph) : graph_(graph), positions_(positions_in(graph)) {}

  /// From the last node to the first: each becomes the end of a group unless it is in one.
  std::vector<Group> collect() {
    std::vector<Node*> nodes = graph_.node_list();
    std::vector<Group> groups;
    for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) {
      if (taken_.count(*node) || !joins_pointwise(**node)) continue;
      Group group = grow(*node);
      bool computes = std::any_of(group.begin(), group.end(), [](const Node* member) { return is_pointwise(*member); });
      if (group.size() < 2 || !computes) continue;
      taken_.insert(group.begin(), group.end());
      groups.push_back(std::move(group));
    }
    return groups;
  }

 private:
  Group grow(Node* last) {
    Group group{last};
    for (bool grown = true; grown && group.size() < kMaxNodes;) {
      grown = false;
      for (Value* v : outer_inputs(group)) {
        Node* producer = v->producer();
        if (!producer || !can_join(*producer, group, *last)) continue;
        group.push_back(producer);
        sort(group);
        if (outer_inputs(group).size() <= kMaxInputs) {
          grown = true;
          break;
        }
        group.erase(std::find(group.begin(), group.end(), producer));
      }
    }
    return group;
  }

  bool can_join(const Node& producer, const Group& group, const Node& last) const {
    const TensorType& type = producer.output()->type;
    const TensorType& result = last.output()->type;
    if (taken_.count(&producer) || !(joins_pointwise(producer) || is_read_through(producer, result))) return false;
    if (takes_from(producer, group) || is_taken_in(group, producer.output())) return false;
    if (type.device != result.device) return false;
    bool same_size = type.shape == result.shape;
    if (!same_size && !is_cheap(producer)) return false;
    bool read_outside = graph_.is_output(producer.output());
    for (const Node* user : producer.output()->users()) {
      bool inside = contains(group, user);
      // A copy inside a group only has other strides when it is the last node or reads an input of the group.
      if (inside && user->as<Copy>() && user != &last) return false;
      if (inside) continue;
      // Readers after the group's place keep the order valid and rule out a path back into the group.
      if (positions_.at(user) < positions_.at(&last)) return false;
      read_outside = true;
    }
    if (!read_outside) return true;
    // A further result: of the same size, and not under the strides of a copy.
    return same_size && !producer.as<Copy>() && !last.as<Copy>() &&
           same_layout(type.shape, type.strides, result.strides);
  }

  void sort(Group& group) const {
    std::sort(group.begin(), group.end(),
              [&](const Node* a, const Node* b) { return positions_.at(a) < positions_.at(b); });
  }

  Graph& graph_;
  Positions positions_;
  std::unordered_set<const Node*> taken_;
};

}  // namespace

void fuse(Graph& graph, const PassContext&) {
  fuse_epilogues(graph);
  for (const Group& group : PointwiseGroups(graph).collect()) fuse_group(graph, group);
}

}  // namespace torchweld
