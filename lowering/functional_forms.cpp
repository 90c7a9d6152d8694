#include "lowering/functional_forms.h"

#include <torch/csrc/jit/runtime/operator.h>

#include <string>
#include <unordered_set>

#include "core/ops/aten_memory.h"

namespace torchweld {

namespace jit = torch::jit;

namespace {

/// True when the node's results share no memory with its argument `i`, and nothing keeps that argument.
bool only_reads(const jit::Node* node, size_t i) {
  if (node->kind() == c10::prim::ListConstruct) {  // for cat or stack, say
    return std::all_of(node->output()->uses().begin(), node->output()->uses().end(), [](const jit::Use& use) {
      return use.user->kind() != c10::prim::ListConstruct && only_reads(use.user, use.offset);
    });
  }
  const c10::FunctionSchema* schema = node->maybeSchema();
  if (!schema || schema->is_vararg() || may_return_argument(*schema) || i >= schema->arguments().size()) return false;
  // An operator on anything (append, a dict's setitem) keeps it; those on tensors do not.
  auto is_tensors = [](const c10::Argument& argument) {
    const c10::TypePtr& type = argument.type();
    return type->isSubtypeOf(*c10::OptionalType::ofTensor()) ||
           (type->kind() == c10::TypeKind::ListType &&
            type->containedType(0)->isSubtypeOf(*c10::OptionalType::ofTensor()));
  };
  return is_tensors(schema->arguments()[i]) && !schema->arguments()[i].alias_info();
}

bool gives_new_memory(const jit::Value* value) {
  // What rewrite() puts behind an operator gives the operator's own memory, which nobody else knows.
  while ((value->node()->kind() == c10::aten::type_as || value->node()->kind() == c10::aten::expand_as) &&
         value->node()->inputs()[0]->uses().size() == 1) {
    value = value->node()->inputs()[0];
  }
  const c10::FunctionSchema* schema = value->node()->maybeSchema();
  if (!schema || schema->returns().size() != value->node()->outputs().size() || may_return_argument(*schema)) {
    return false;
  }
  return !schema->returns()[value->offset()].alias_info() &&
         schema->returns()[value->offset()].type()->kind() == c10::TypeKind::TensorType;
}

/// The functional operator with the same arguments; nothing when there is none, or it could give another dtype.
std::optional<c10::Symbol> functional_form(const jit::Node* node) {
  const c10::FunctionSchema* schema = node->maybeSchema();
  if (!schema || changes_shape(*schema) || schema->name().size() < 2 || schema->name().back() != '_' ||
      schema->returns().size() != 1) {
    return std::nullopt;
  }
  size_t tensors = 0;
  for (size_t i = 0; i < schema->arguments().size(); ++i) {
    const c10::AliasInfo* alias = schema->arguments()[i].alias_info();
    if (alias ? alias->isWrite() != (i == 0) : i == 0) return std::nullopt;
    if (schema->arguments()[i].type()->isSubtypeOf(*c10::TensorType::get())) ++tensors;
  }
  std::string name = schema->name().substr(0, schema->name().size() - 1);
  for (const auto& candidate : jit::getAllOperatorsFor(c10::Symbol::fromQualString(name))) {
    const c10::FunctionSchema& other = candidate->schema();
    if (other.overload_name() == schema->overload_name() && other.arguments().size() == schema->arguments().size()) {
      return c10::Symbol::fromQualString(name);
    }
  }
  return std::nullopt;
}

bool is_private_until(const jit::Value* value, const jit::Node* writer) {
  if (!gives_new_memory(value) || value->node()->owningBlock() != writer->owningBlock()) return false;
  return std::all_of(value->uses().begin(), value->uses().end(), [&](const jit::Use& use) {
    return use.user == writer ? use.offset == 0 : writer->isBefore(use.user) || only_reads(use.user, use.offset);
  });
}

/// True for what is computed from constants alone. LibTorch folds it into one constant unless it is written in place,
/// and hands that out at each call: a caller who writes into the result would find his writes in the next one.
/// `seen`: values that have been looked at, of which one that is not known would have been the end.
bool is_known(const jit::Value* value, std::unordered_set<const jit::Value*>& seen) {
  const jit::Node* node = value->node();
  if (node->kind() == c10::prim::Constant || !seen.insert(value).second) return true;
  bool is_computed = node->maybeOperator() && node->blocks().empty() && !node->isNondeterministic();
  return is_computed && std::all_of(node->inputs().begin(), node->inputs().end(),
                                    [&](const jit::Value* input) { return is_known(input, seen); });
}

bool is_known(const jit::Value* value) {
  std::unordered_set<const jit::Value*> seen;
  return is_known(value, seen);
}

void rewrite(jit::Block* block) {
  for (auto it = block->nodes().begin(); it != block->nodes().end(); ++it) {
    for (jit::Block* inner : it->blocks()) rewrite(inner);
    auto functional = functional_form(*it);
    if (!functional || !is_private_until(it->inputs()[0], *it) || is_known(it->output())) continue;
    jit::Graph& graph = *block->owningGraph();
    jit::Value* self = it->inputs()[0];
    jit::WithInsertPoint before(*it);
    jit::Node* node = graph.insertNode(graph.create(*functional, it->inputs()));
    node->copyMetadata(*it);
    if (!node->maybeOperator()) {
      node->destroy();
      continue;
    }
    jit::Value* result = node->output();
    result->setType(c10::TensorType::get());
    // In place, whatever the other operands are, the dtype stays, and a larger shape is an error.
    if (std::any_of(node->inputs().begin() + 1, node->inputs().end(),
                    [](const jit::Value* v) { return v->type()->isSubtypeOf(*c10::TensorType::get()); })) {
      for (c10::Symbol keep : {c10::aten::type_as, c10::aten::expand_as}) {
        jit::Node* kept = graph.insertNode(graph.create(keep, {result, self}));
        kept->copyMetadata(*it);
        result = kept->output();
      }
    }
    it->output()->replaceAllUsesWith(result);
    self->replaceAllUsesAfterNodeWith(*it, result);
    it.destroyCurrent();
  }
}

}  // namespace

void use_functional_forms(jit::Graph& graph) { rewrite(graph.block()); }

}  // namespace torchweld
