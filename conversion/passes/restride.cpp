#include "conversion/passes/restride.h"

#include <algorithm>

#include "core/ops/shape.h"

namespace torchweld {

Restride::Restride(Graph& graph) : graph_(graph) {
  for (const Value* v : graph.outputs()) outputs_.push_back(v->type);
}

void Restride::follow(Node* node) {
  bool changed =
      std::any_of(node->inputs().begin(), node->inputs().end(), [&](const Value* v) { return changed_.count(v) > 0; });
  if (!changed) return;
  std::vector<Dims> before;
  for (const auto& v : node->outputs()) before.push_back(v->type.strides);
  graph_.infer_again(node);
  for (size_t i = 0; i < before.size(); ++i) {
    if (node->output(i)->type.strides != before[i]) changed_.insert(node->output(i));
  }
}

void Restride::restore_outputs() {
  for (size_t i = 0; i < outputs_.size(); ++i) {
    Value* v = graph_.outputs()[i];
    if (same_layout(v->type.shape, v->type.strides, outputs_[i].strides)) {
      v->type.strides = outputs_[i].strides;
    } else {
      graph_.set_output(i, graph_.add(Copy{outputs_[i].strides}, {v}));
    }
  }
}

}  // namespace torchweld
