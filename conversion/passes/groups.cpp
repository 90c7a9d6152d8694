#include "conversion/passes/groups.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

/// Adds copies of the body's nodes to `graph`, reading `inputs` in place of the body's. Returns the body's outputs.
std::vector<Value*> add_body(Graph& graph, const Graph& body, const std::vector<Value*>& inputs) {
  std::unordered_map<const Value*, Value*> copies;
  for (size_t i = 0; i < inputs.size(); ++i) copies[body.inputs()[i].get()] = inputs[i];
  for (const auto& node : body.nodes()) {
    std::vector<Value*> operands;
    for (const Value* v : node->inputs()) operands.push_back(copies.at(v));
    Node* copy = graph.add_node(node->attrs, operands);
    for (size_t i = 0; i < node->outputs().size(); ++i) {
      copy->output(i)->type = node->output(i)->type;
      copies[node->output(i)] = copy->output(i);
    }
  }
  std::vector<Value*> outputs;
  for (const Value* v : body.outputs()) outputs.push_back(copies.at(v));
  return outputs;
}

}  // namespace

bool is_inner_constant(const Value* value) { return value->from<Constant>() && value->type.rank() == 0; }

std::vector<Value*> outer_inputs(const Group& group) {
  std::unordered_set<const Node*> members(group.begin(), group.end());
  std::vector<Value*> inputs;
  for (const Node* node : group) {
    for (Value* v : node->inputs()) {
      if (members.count(v->producer()) || is_inner_constant(v)) continue;
      if (std::find(inputs.begin(), inputs.end(), v) == inputs.end()) inputs.push_back(v);
    }
  }
  return inputs;
}

std::vector<Value*> outer_outputs(const Graph& graph, const Group& group) {
  std::unordered_set<const Node*> members(group.begin(), group.end());
  std::vector<Value*> outputs;
  for (const Node* node : group) {
    for (const auto& v : node->outputs()) {
      bool read =
          std::any_of(v->users().begin(), v->users().end(), [&](const Node* user) { return !members.count(user); });
      if (read || graph.is_output(v.get())) outputs.push_back(v.get());
    }
  }
  return outputs;
}

Node* only_user(const Graph& graph, const Value* value) {
  if (graph.is_output(value) || value->users().empty()) return nullptr;
  Node* first = value->users().front();
  bool alone =
      std::all_of(value->users().begin(), value->users().end(), [&](const Node* user) { return user == first; });
  return alone ? first : nullptr;
}

Node* fuse_group(Graph& graph, const Group& group) {
  std::vector<Value*> inputs = outer_inputs(group);
  std::vector<Value*> outputs = outer_outputs(graph, group);
  auto body = std::make_shared<Graph>();
  std::unordered_map<const Value*, Value*> inner;
  for (const Value* v : inputs) inner[v] = body->add_input(v->type);
  for (const Node* node : group) {
    std::vector<Value*> operands;
    for (Value* v : node->inputs()) {
      Value*& known = inner[v];
      if (!known) known = body->add(v->producer()->attrs, {});
      operands.push_back(known);
    }
    if (node->as<Copy>()) {
      inner[node->output()] = operands[0];
      // The body's result is written with the strides of the copy.
      if (operands[0]->producer()) operands[0]->type.strides = node->output()->type.strides;
      continue;
    }
    Value* result = body->add(node->attrs, operands);
    result->type = node->output()->type;
    inner[node->output()] = result;
  }
  for (const Value* v : outputs) body->add_output(inner.at(v));
  Graph::InsertBefore here(graph, group.back());
  graph.origin = group.back()->origin;
  Node* fused = graph.add_node(Fused{body}, inputs);
  for (size_t i = 0; i < outputs.size(); ++i) {
    fused->output(i)->type = outputs[i]->type;
    graph.replace_uses(outputs[i], fused->output(i));
  }
  return fused;
}

std::unique_ptr<Graph> parts_of(const Node& block) {
  const Fused* fused = block_of(block);
  check(fused, "parts are asked for of what is no block");
  auto graph = std::make_unique<Graph>();
  std::vector<Value*> inputs;
  for (const Value* v : block.inputs()) {
    inputs.push_back(v->from<Constant>() ? graph->add(v->producer()->attrs, {}) : graph->add_input(v->type));
    inputs.back()->type = v->type;
  }
  for (Value* v : add_body(*graph, *fused->body, inputs)) graph->add_output(v);
  return graph;
}

int expand_blocks(Graph& graph, const std::function<bool(const Node& block)>& keep) {
  int expanded = 0;
  for (Node* node : graph.node_list()) {
    const Fused* fused = block_of(*node);
    if (!fused || keep(*node)) continue;
    Graph::InsertBefore here(graph, node);
    graph.origin = node->origin;
    std::vector<Value*> inputs(node->inputs().begin(), node->inputs().end());
    std::vector<Value*> outputs = add_body(graph, *fused->body, inputs);
    for (size_t i = 0; i < outputs.size(); ++i) graph.replace_uses(node->output(i), outputs[i]);
    graph.erase(node);
    ++expanded;
  }
  return expanded;
}

}  // namespace torchweld
