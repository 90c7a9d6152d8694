#include "lowering/lower.h"

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/passes/autocast.h>
#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/passes/remove_mutation.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "core/error.h"
#include "core/plain_value.h"
#include "lowering/functional_forms.h"
#include "lowering/local_objects.h"
#include "lowering/memory.h"

namespace torchweld {

namespace jit = torch::jit;

namespace {

bool is_plain_dict(const c10::Dict<c10::IValue, c10::IValue>& dict) {
  return std::all_of(dict.begin(), dict.end(), [](const auto& entry) {
    return entry.value().isString() || entry.value().isInt() || entry.value().isDouble() || entry.value().isBool();
  });
}

using Objects = std::unordered_map<const jit::Value*, c10::IValue>;

void fold_attributes(jit::Block* block, const WrittenAttributes& written, Objects& objects) {
  for (jit::Node* node : block->nodes()) {
    for (jit::Block* inner : node->blocks()) fold_attributes(inner, written, objects);
    if (node->kind() != c10::prim::GetAttr) continue;
    auto owner = objects.find(node->input());
    if (owner == objects.end()) continue;
    const auto& object = owner->second.toObjectRef();
    const std::string& name = node->s(c10::attr::name);
    if (written.count({object.type().get(), name})) continue;
    c10::IValue value = object.getAttr(name);
    if (value.isObject()) {
      objects[node->output()] = value;
    } else if (is_plain(value) || (value.isGenericDict() && is_plain_dict(value.toGenericDict()))) {
      jit::WithInsertPoint before(node);
      if (auto constant = jit::tryInsertConstant(*node->owningGraph(), value))
        node->output()->replaceAllUsesWith(*constant);
    }
  }
}

/// True for lists and dicts, and for what may hold one.
bool holds_list_or_dict(const c10::Type& type) {
  if (type.kind() == c10::TypeKind::ListType || type.kind() == c10::TypeKind::DictType) return true;
  auto parts = type.kind() == c10::TypeKind::ClassType ? c10::ArrayRef<c10::TypePtr>() : type.containedTypes();
  return std::any_of(parts.begin(), parts.end(), [](const c10::TypePtr& part) { return holds_list_or_dict(*part); });
}

/// The function or method that a node calls, where it has a graph.
const jit::GraphFunction* called_by(const jit::Node& node) {
  jit::Function* function = nullptr;
  if (node.kind() == c10::prim::CallFunction) {
    if (auto type = node.inputs()[0]->type()->cast<c10::FunctionType>()) function = type->function();
  } else if (node.kind() == c10::prim::CallMethod) {
    if (auto type = node.inputs()[0]->type()->cast<c10::ClassType>())
      function = type->findMethod(node.s(c10::attr::name));
  }
  return function ? jit::tryToGraphFunction(*function) : nullptr;
}

/// True when a node, or one of a function that is called, writes to a list or dict.
bool writes_containers(const jit::Block* block, std::unordered_set<const jit::Function*>& seen) {
  for (const jit::Node* node : block->nodes()) {
    for (const jit::Block* inner : node->blocks()) {
      if (writes_containers(inner, seen)) return true;
    }
    const jit::GraphFunction* called = called_by(*node);
    if (called && seen.insert(called).second && writes_containers(called->graph()->block(), seen)) return true;
    const c10::FunctionSchema* schema = node->maybeSchema();
    for (size_t i = 0; schema && i < schema->arguments().size() && i < node->inputs().size(); ++i) {
      const c10::AliasInfo* alias = schema->arguments()[i].alias_info();
      if (alias && alias->isWrite() && holds_list_or_dict(*node->inputs()[i]->type())) return true;
    }
  }
  return false;
}

/// Adds the lists and dicts of `part` and below that its method changes.
void add_written_containers(const jit::Module& part, const jit::GraphFunction& method, WrittenAttributes& written) {
  std::unordered_set<const jit::Function*> seen;
  if (!writes_containers(method.graph()->block(), seen)) return;
  std::shared_ptr<jit::Graph> graph = method.graph()->copy();
  jit::Inline(*graph);
  for (const auto& [type, name] : Memory(*graph).written_attributes(part)) {
    if (holds_list_or_dict(*type->getAttribute(name))) written.emplace(type, name);
  }
}

/// In eval mode dropout is its input, also in place; LibTorch's passes keep the in-place form as a write.
void remove_idle_dropout(jit::Block* block) {
  for (auto it = block->nodes().begin(); it != block->nodes().end(); ++it) {
    for (jit::Block* inner : it->blocks()) remove_idle_dropout(inner);
    std::string name = it->kind().toQualString();
    if (name.rfind("aten::", 0) != 0 || name.find("dropout") == std::string::npos) continue;
    auto training = it->inputs().size() == 3 ? jit::toIValue(it->inputs()[2]) : std::nullopt;
    if (!training || !training->isBool() || training->toBool()) continue;
    it->output()->replaceAllUsesWith(it->inputs()[0]);
    it.destroyCurrent();
  }
}

/// Makes `with torch.autocast(...)` casts, as LibTorch does before it runs a graph.
void make_casts(std::shared_ptr<jit::Graph>& graph) try { jit::Autocast(graph); } catch (const c10::Error& error) {
  throw Error(std::string("torch.autocast in the module: ") + error.what_without_backtrace() +
              " (LibTorch's own words, as at the first call of the module)");
}

/// The casts are all there is to it: nothing happens at the ends.
void remove_autocast_ends(jit::Block* block) {
  for (auto it = block->nodes().begin(); it != block->nodes().end(); ++it) {
    for (jit::Block* inner : it->blocks()) remove_autocast_ends(inner);
    if (it->kind() != c10::prim::Enter && it->kind() != c10::prim::Exit) continue;
    auto type = it->input()->type()->cast<c10::ClassType>();
    if (!type || !type->name() || !type->name()->qualifiedName().ends_with(".autocast_mode.autocast")) continue;
    if (it->kind() == c10::prim::Enter) it->output()->replaceAllUsesWith(it->input());
    if (!it->output()->hasUses()) it.destroyCurrent();
  }
}

}  // namespace

void add_written_attributes(const jit::Block* block, WrittenAttributes& written) {
  for (const jit::Node* node : block->nodes()) {
    if (node->kind() == c10::prim::SetAttr) {
      if (auto type = node->inputs()[0]->type()->cast<c10::ClassType>()) {
        written.emplace(type.get(), node->s(c10::attr::name));
      }
    }
    for (const jit::Block* inner : node->blocks()) add_written_attributes(inner, written);
  }
}

WrittenAttributes written_attributes(const jit::Module& module) {
  WrittenAttributes written;
  for (const jit::Module& part : module.modules()) {
    for (jit::Function* function : part.type()->methods()) {
      if (auto* graph_function = jit::tryToGraphFunction(*function)) {
        add_written_attributes(graph_function->graph()->block(), written);
        add_written_containers(part, *graph_function, written);
      }
    }
  }
  return written;
}

std::shared_ptr<jit::Graph> lower(const jit::Module& module, const std::string& method,
                                  const WrittenAttributes& written) {
  std::shared_ptr<jit::Graph> graph = jit::toGraphFunction(module.get_method(method).function()).graph()->copy();
  jit::Inline(*graph);
  make_casts(graph);
  remove_autocast_ends(graph->block());
  Objects objects{{graph->inputs()[0], module._ivalue()}};
  WrittenAttributes unknown = written;
  unknown.merge(Memory(*graph).written_attributes(module));
  fold_attributes(graph->block(), unknown, objects);
  jit::ConstantPropagation(graph);
  replace_local_objects(graph);
  remove_idle_dropout(graph->block());
  use_functional_forms(*graph);
  jit::RemoveListMutation(graph);
  jit::ConstantPropagation(graph);
  jit::EliminateDeadCode(graph);
  return graph;
}

}  // namespace torchweld
