#include <algorithm>
#include <map>
#include <tuple>

#include "conversion/passes/passes.h"
#include "conversion/passes/restride.h"
#include "core/ops/attention.h"
#include "core/ops/constant.h"
#include "core/ops/matmul.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

bool takes_views(const Node& node) {
  return node.as<Reshape>() || node.as<Permute>() || node.as<Slice>() || node.as<Expand>() || node.as<Attention>() ||
         node.as<Matmul>();
}

bool can_merge(const Graph& graph, const Node& node) {
  if (!node.as<Linear>() || graph.is_output(node.output())) return false;
  auto& users = node.output()->users();
  return std::all_of(node.inputs().begin() + 1, node.inputs().end(),
                     [](const Value* v) { return v->from<Constant>(); }) &&
         std::all_of(users.begin(), users.end(), [](const Node* user) { return takes_views(*user); });
}

/// Linear nodes that may become one, by the first of them.
std::map<Node*, std::vector<Node*>> siblings_of(const Graph& graph) {
  using Kind = std::tuple<const Value*, size_t, c10::ScalarType>;  // Input, number of inputs, dtype of the weights.
  std::map<Kind, std::vector<Node*>> by_kind;
  for (Node* node : graph.node_list()) {
    if (can_merge(graph, *node))
      by_kind[{node->input(0), node->inputs().size(), node->input(1)->type.dtype}].push_back(node);
  }
  std::map<Node*, std::vector<Node*>> siblings;
  for (auto& [kind, nodes] : by_kind) {
    if (nodes.size() > 1) siblings[nodes.front()] = nodes;
  }
  return siblings;
}

/// Input `i` of all of them, one below the other; later passes fold it. Constants may stand behind the first sibling.
Value* joined(Graph& graph, const std::vector<Node*>& siblings, size_t i) {
  std::vector<Value*> parts;
  for (const Node* node : siblings) parts.push_back(graph.add(node->input(i)->producer()->attrs, {}));
  return graph.add(Concat{.axis = 0}, parts);
}

void merge(Graph& graph, const std::vector<Node*>& siblings, Restride& strides) {
  Node* first = siblings.front();
  std::vector<Value*> inputs = {first->input(0)};
  for (size_t i = 1; i < first->inputs().size(); ++i) inputs.push_back(joined(graph, siblings, i));
  Value* all = graph.add(Linear{}, inputs);
  int64_t axis = all->type.rank() - 1;
  int64_t start = 0;
  for (const Node* node : siblings) {
    int64_t end = start + node->output()->type.shape.back();
    Value* part = graph.add(Slice{.axis = axis, .start = start, .end = end}, {all});
    strides.add(part);
    graph.replace_uses(node->output(), part);
    start = end;
  }
}

}  // namespace

void merge_linears(Graph& graph, const PassContext&) {
  std::map<Node*, std::vector<Node*>> siblings = siblings_of(graph);
  Restride strides(graph);
  strides.walk([&](Node* node) {
    if (auto found = siblings.find(node); found != siblings.end()) merge(graph, found->second, strides);
  });
}

}  // namespace torchweld
