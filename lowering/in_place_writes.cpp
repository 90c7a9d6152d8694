#include "lowering/in_place_writes.h"

#include <torch/csrc/jit/ir/ir.h>

#include <unordered_set>

namespace torchweld {

namespace jit = torch::jit;

namespace {

bool is_tensor(const jit::Value* value) { return value->type()->isSubtypeOf(*c10::TensorType::get()); }

/// Follows written values back to where their memory comes from.
class WriteFollower {
 public:
  WriteFollower(WrittenAttributes& attributes, GraphInputs& inputs) : attributes_(attributes), inputs_(inputs) {}

  /// False when a write in the block, or under it, was lost.
  bool follow_writes(const jit::Block* block) {
    bool all = true;
    for (const jit::Node* node : block->nodes()) {
      for (const jit::Block* inner : node->blocks()) all = follow_writes(inner) && all;
      const c10::FunctionSchema* schema = node->maybeSchema();
      if (!schema) continue;
      for (size_t i = 0; i < schema->arguments().size() && i < node->inputs().size(); ++i) {
        const c10::AliasInfo* alias = schema->arguments()[i].alias_info();
        if (!alias || !alias->isWrite()) continue;
        all = follow_write(node->inputs()[i], *schema->arguments()[i].type()) && all;
      }
    }
    return all;
  }

 private:
  /// Operators on lists of anything (append) write the list; those on lists of tensors write the tensors.
  bool follow_write(const jit::Value* value, const c10::Type& formal) {
    if (is_tensor(value)) return follow(value);
    auto list = formal.cast<c10::ListType>();
    return !list || list->getElementType()->kind() != c10::TypeKind::TensorType;
  }

  bool follow(const jit::Value* value) {
    if (!seen_.insert(value).second) return true;
    const jit::Node* node = value->node();
    switch (node->kind()) {
      case c10::prim::Param:
        return follow_parameter(value);
      case c10::prim::If:
        return follow(node->blocks()[0]->outputs()[value->offset()]) &&
               follow(node->blocks()[1]->outputs()[value->offset()]);
      case c10::prim::Loop:
        return follow(node->inputs()[value->offset() + 2]) && follow(node->blocks()[0]->outputs()[value->offset() + 1]);
      case c10::prim::unchecked_cast:
      case c10::prim::unchecked_unwrap_optional:
        return follow(node->input());
      case c10::prim::GetAttr: {
        auto owner = node->input()->type()->cast<c10::ClassType>();
        if (!owner) return false;
        attributes_.emplace(owner.get(), node->s(c10::attr::name));
        return true;
      }
      default:
        return follow_operator(value);
    }
  }

  /// A parameter of the graph, or of a loop body: the trip count, then what is carried round.
  bool follow_parameter(const jit::Value* value) {
    const jit::Node* owner = value->node()->owningBlock()->owningNode();
    if (!owner) {
      inputs_.insert(value);
      return true;
    }
    if (owner->kind() != c10::prim::Loop || value->offset() == 0) return false;
    return follow(owner->inputs()[value->offset() + 1]) && follow(owner->blocks()[0]->outputs()[value->offset()]);
  }

  /// New memory, or that of the arguments which the operator says its result may share.
  bool follow_operator(const jit::Value* value) {
    const jit::Node* node = value->node();
    const c10::FunctionSchema* schema = node->maybeSchema();
    if (!schema || value->offset() >= schema->returns().size()) return false;
    const c10::AliasInfo* alias = schema->returns()[value->offset()].alias_info();
    if (!alias) return true;
    bool all = true;
    bool found = false;
    for (size_t i = 0; i < schema->arguments().size() && i < node->inputs().size(); ++i) {
      if (!schema->arguments()[i].alias_info()) continue;
      if (!is_tensor(node->inputs()[i])) return false;
      found = true;
      all = follow(node->inputs()[i]) && all;
    }
    return found && all;
  }

  WrittenAttributes& attributes_;
  GraphInputs& inputs_;
  std::unordered_set<const jit::Value*> seen_;
};

const void* memory_of(const c10::IValue& value) {
  if (!value.isTensor() || !value.toTensor().defined() || !value.toTensor().has_storage()) return nullptr;
  return value.toTensor().storage().unsafeGetStorageImpl();
}

/// Calls `visit(type, name, memory)` for every tensor attribute.
template <class F>
void for_each_tensor(const jit::Module& module, F visit) {
  for (const jit::Module& part : module.modules()) {
    auto type = part.type();
    for (size_t i = 0; i < type->numAttributes(); ++i) {
      if (const void* memory = memory_of(part._ivalue()->getSlot(i)))
        visit(type.get(), type->getAttributeName(i), memory);
    }
  }
}

}  // namespace

std::optional<GraphInputs> add_in_place_writes(const jit::Graph& graph, const jit::Module& module,
                                               WrittenAttributes& written) {
  GraphInputs inputs;
  if (!WriteFollower(written, inputs).follow_writes(graph.block())) return std::nullopt;
  std::unordered_set<const void*> memories;
  for_each_tensor(module, [&](const c10::ClassType* type, const std::string& name, const void* memory) {
    if (written.count({type, name})) memories.insert(memory);
  });
  for_each_tensor(module, [&](const c10::ClassType* type, const std::string& name, const void* memory) {
    if (memories.count(memory)) written.emplace(type, name);
  });
  return inputs;
}

}  // namespace torchweld
