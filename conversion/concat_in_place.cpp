#include "conversion/concat_in_place.h"

#include <algorithm>
#include <unordered_set>
#include <vector>

#include "core/environment.h"
#include "core/ops/fused.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

/// A fused node's body says the strides of the node's inputs and outputs too.
void tell_body(Graph& graph, Node& node) {
  auto* fused = node.as<Fused>();
  if (!fused) return;
  std::shared_ptr<Graph> body = fused->body->clone();
  for (size_t i = 0; i < node.inputs().size(); ++i) body->inputs()[i]->type.strides = node.input(i)->type.strides;
  for (size_t i = 0; i < node.outputs().size(); ++i) body->outputs()[i]->type.strides = node.output(i)->type.strides;
  graph.set_attrs(&node, Fused{std::move(body)});
}

/// Tries one concatenation after the other, those inside others first.
class ConcatWriter {
 public:
  ConcatWriter(Graph& graph, Selection& selection, const ChooseAgain& choose_again)
      : graph_(graph), selection_(selection), choose_again_(choose_again) {}

  void run() {
    for (const auto& node : graph_.nodes()) {
      if (node->as<Concat>() && may_vanish(*node)) try_concat(*node);
    }
  }

 private:
  bool is_own_launch(const Node& node) const {
    auto found = selection_.find(&node);
    return found != selection_.end() && found->second.kernel && found->second.kernel->launch();
  }
  bool is_in_place(const Node& node) const {
    auto found = selection_.find(&node);
    return found != selection_.end() && !found->second.kernel;
  }

  bool may_vanish(const Node& concat) const {
    return std::all_of(concat.inputs().begin(), concat.inputs().end(), [&](const Value* v) {
      const Node* producer = v->producer();
      if (!producer || v->type.numel() == 0 || v->type.dtype != concat.output()->type.dtype) return false;
      if (graph_.is_output(v) || !(is_own_launch(*producer) || is_in_place(*producer))) return false;
      bool others = std::all_of(v->users().begin(), v->users().end(),
                                [&](const Node* user) { return user == &concat || is_own_launch(*user); });
      return others && std::count(v->users().begin(), v->users().end(), &concat) == 1;
    });
  }

  /// Gives an input of `concat` strides, and collects what has to be chosen again.
  void restride(Value* value, const Dims& strides, const Node& concat) {
    before_.emplace_back(value, value->type.strides);
    value->type.strides = strides;
    for (const Node* user : value->users()) {
      if (user != &concat) affected_.insert(user);
    }
    const Node& producer = *value->producer();
    if (is_in_place(producer)) {
      for (Value* part : producer.inputs()) restride(part, strides, producer);
    } else {
      affected_.insert(&producer);
    }
  }

  void undo(std::vector<std::pair<Node*, Attrs>>& attrs) {
    for (const auto& [value, strides] : before_) value->type.strides = strides;
    for (auto& [node, before] : attrs) graph_.set_attrs(node, std::move(before));
  }

  void try_concat(const Node& concat) {
    before_.clear();
    affected_.clear();
    for (Value* input : concat.inputs()) restride(input, concat.output()->type.strides, concat);
    Selection again;
    std::vector<std::pair<Node*, Attrs>> attrs;
    for (const auto& node : graph_.nodes()) {
      if (!affected_.count(node.get())) continue;
      attrs.emplace_back(node.get(), node->attrs);
      tell_body(graph_, *node);
      std::optional<Choice> choice = choose_again_(*node);
      if (!choice) return undo(attrs);
      again.emplace(node.get(), std::move(*choice));
    }
    for (auto& [node, choice] : again) selection_[node] = std::move(choice);
    selection_[&concat] = Choice{.kernel = nullptr, .tactic = "", .config = "", .microseconds = 0};
  }

  Graph& graph_;
  Selection& selection_;
  const ChooseAgain& choose_again_;
  std::vector<std::pair<Value*, Dims>> before_;
  std::unordered_set<const Node*> affected_;
};

}  // namespace

void write_concats_in_place(Graph& graph, Selection& selection, const ChooseAgain& choose_again) {
  if (is_disabled("write_concats_in_place")) return;
  ConcatWriter(graph, selection, choose_again).run();
}

}  // namespace torchweld
