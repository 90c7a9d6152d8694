#include "conversion/passes/restride.h"

#include <algorithm>

#include "core/ops/layout.h"
#include "core/ops/shape.h"

namespace torchweld {

namespace {

/// The base of `output` when just these views, and copies, lead to it; null when others do.
Value* base_behind(Value* output, const std::vector<Attrs>& views) {
  for (auto view = views.rbegin(); view != views.rend(); ++view) {
    while (output->from<Copy>()) output = output->producer()->input(0);
    if (!output->producer() || !(output->producer()->attrs == *view)) return nullptr;
    output = output->producer()->input(0);
  }
  return output;
}

}  // namespace

OutputStrides::OutputStrides(const Graph& graph) {
  for (const Value* v : graph.outputs()) {
    Output output{.strides = v->type.strides, .views = {}, .base_strides = {}};
    if (!is_dense(v->type)) {
      for (; v->producer() && v->producer()->attrs.def().is_view; v = v->producer()->input(0)) {
        output.views.insert(output.views.begin(), v->producer()->attrs);
      }
      output.base_strides = v->type.strides;
    }
    outputs_.push_back(std::move(output));
  }
}

void OutputStrides::restore(Graph& graph) const {
  for (size_t i = 0; i < outputs_.size(); ++i) {
    Value* v = graph.outputs()[i];
    const Output& wanted = outputs_[i];
    if (same_layout(v->type.shape, v->type.strides, wanted.strides)) {
      v->type.strides = wanted.strides;
      continue;
    }
    Value* base = wanted.views.empty() ? v : base_behind(v, wanted.views);
    if (!base) {  // another rewrite has taken the views apart; a dense tensor holds the same elements
      graph.set_output(i, graph.add(Copy{dense_strides_like(v->type.shape, wanted.strides)}, {v}));
      continue;
    }
    Value* restored = graph.add(Copy{wanted.views.empty() ? wanted.strides : wanted.base_strides}, {base});
    for (const Attrs& view : wanted.views) restored = graph.add(view, {restored});
    graph.set_output(i, restored);
  }
}

void Restride::walk(const std::function<void(Node*)>& rewrite) {
  for (Node* node : graph_.node_list()) {
    Graph::InsertBefore here(graph_, node);
    graph_.origin = node->origin;
    follow(node);
    rewrite(node);
  }
  restore_outputs();
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

}  // namespace torchweld
