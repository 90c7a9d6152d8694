#include "lowering/local_objects.h"

#include <torch/csrc/jit/passes/lower_tuples.h>

#include <map>

namespace torchweld {

namespace jit = torch::jit;

namespace {

/// The node that sets each attribute; nothing when the object is used in any other way than the header says.
std::optional<std::map<std::string, jit::Node*>> setters_of(const jit::Value* object) {
  std::map<std::string, jit::Node*> setters;
  for (const jit::Use& use : object->uses()) {
    if (use.user->kind() != c10::prim::SetAttr) continue;
    bool is_owner = use.offset == 0 && use.user->owningBlock() == object->node()->owningBlock();
    if (!is_owner || !setters.emplace(use.user->s(c10::attr::name), use.user).second) return std::nullopt;
  }
  for (const jit::Use& use : object->uses()) {
    if (use.user->kind() == c10::prim::SetAttr) continue;
    if (use.user->kind() != c10::prim::GetAttr) return std::nullopt;
    auto setter = setters.find(use.user->s(c10::attr::name));
    if (setter == setters.end() || !setter->second->isBefore(use.user)) return std::nullopt;
  }
  return setters;
}

void replace_objects(jit::Block* block) {
  for (auto it = block->nodes().begin(); it != block->nodes().end(); ++it) {
    for (jit::Block* inner : it->blocks()) replace_objects(inner);
    if (it->kind() != c10::prim::CreateObject) continue;
    auto setters = setters_of(it->output());
    if (!setters) continue;
    for (const jit::Use& use : jit::use_list(it->output()->uses())) {
      if (use.user->kind() == c10::prim::GetAttr) {
        use.user->output()->replaceAllUsesWith(setters->at(use.user->s(c10::attr::name))->inputs()[1]);
      }
    }
    for (const jit::Use& use : jit::use_list(it->output()->uses())) use.user->destroy();
    it.destroyCurrent();
  }
}

}  // namespace

void replace_local_objects(const std::shared_ptr<jit::Graph>& graph) {
  jit::LowerSimpleTuples(graph);
  replace_objects(graph->block());
  jit::LowerSimpleTuples(graph);
}

}  // namespace torchweld
