#include "core/ops/fused.h"

#include <algorithm>
#include <unordered_map>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/index.h"
#include "core/ops/pointwise.h"

namespace torchweld {

bool is_anchor(const Node& node) {
  return !node.as<Pointwise>() && !node.as<Cast>() && !node.as<Take>() && !node.as<Constant>();
}

bool is_block(const Fused& fused) {
  const auto& nodes = fused.body->nodes();
  if (std::any_of(nodes.begin(), nodes.end(), [](const auto& node) { return node->template as<Fused>(); })) return true;
  return std::count_if(nodes.begin(), nodes.end(), [](const auto& node) { return is_anchor(*node); }) > 1;
}

const Fused* block_of(const Node& node) {
  auto* fused = node.as<Fused>();
  return fused && is_block(*fused) ? fused : nullptr;
}

const Node* anchor_of(const Fused& fused) {
  expect(!is_block(fused), "a block of several anchors");
  for (const auto& node : fused.body->nodes()) {
    if (is_anchor(*node)) return node.get();
  }
  return nullptr;
}

std::vector<at::Tensor> run_aten(const Graph& graph, Tensors inputs) {
  check(inputs.size() == graph.inputs().size(), "a graph is run with a wrong number of inputs");
  std::unordered_map<const Value*, at::Tensor> values;
  std::unordered_map<const Value*, size_t> reads_left;
  for (size_t i = 0; i < inputs.size(); ++i) values[graph.inputs()[i].get()] = inputs[i];
  for (const auto& node : graph.nodes()) {
    std::vector<at::Tensor> arguments;
    for (const Value* v : node->inputs()) arguments.push_back(values.at(v));
    std::vector<at::Tensor> results = node->attrs.def().aten(node->attrs.data(), arguments);
    check(results.size() == node->outputs().size(), [&] { return "number of results of " + node->attrs.text(); });
    for (size_t i = 0; i < results.size(); ++i) {
      values[node->output(i)] = std::move(results[i]);
      reads_left[node->output(i)] = graph.use_count(node->output(i));
    }
    for (const Value* v : node->inputs()) {
      auto left = reads_left.find(v);
      if (left != reads_left.end() && --left->second == 0) values.erase(v);
    }
  }
  std::vector<at::Tensor> outputs;
  for (const Value* v : graph.outputs()) outputs.push_back(values.at(v));
  return outputs;
}

void define_fused(OpSet& ops) {
  ops.add<Fused>("fused")
      .infer([](const Fused& a, Types in) {
        check(a.body->inputs().size() == in.size(), "a fused op has a wrong number of inputs");
        std::vector<TensorType> types;
        for (const Value* v : a.body->outputs()) types.push_back(v->type);
        return types;
      })
      .aten([](const Fused& a, Tensors in) { return run_aten(*a.body, in); })
      .flops([](const Fused& a, Types, Types) {
        double sum = 0;
        for (const auto& node : a.body->nodes()) sum += flops_of(*node);
        return sum;
      });
}

}  // namespace torchweld
