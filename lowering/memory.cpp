#include "lowering/memory.h"

#include <algorithm>

#include "core/ops/aten_memory.h"

namespace torchweld {

namespace jit = torch::jit;
namespace prim = c10::prim;

namespace {

using c10::TypeKind;

bool is_container(const c10::Type& type) {
  if (type.kind() == TypeKind::OptionalType) return is_container(*type.castRaw<c10::OptionalType>()->getElementType());
  return type.kind() == TypeKind::ListType || type.kind() == TypeKind::DictType || type.kind() == TypeKind::TupleType ||
         type.kind() == TypeKind::FutureType;
}

/// True for what has memory that can be shared: all but numbers, text, devices and modules.
bool has_memory(const c10::Type& type) {
  switch (type.kind()) {
    case TypeKind::OptionalType:
      return has_memory(*type.castRaw<c10::OptionalType>()->getElementType());
    case TypeKind::TensorType:
    case TypeKind::ListType:
    case TypeKind::DictType:
    case TypeKind::TupleType:
    case TypeKind::FutureType:
    case TypeKind::AnyType:
    case TypeKind::UnionType:
    case TypeKind::VarType:
      return true;
    default:
      return false;
  }
}

/// False for containers of numbers or text.
bool holds_memory(const c10::Type& type) {
  if (type.kind() == TypeKind::OptionalType) return holds_memory(*type.castRaw<c10::OptionalType>()->getElementType());
  auto parts = type.containedTypes();
  return parts.empty() || std::any_of(parts.begin(), parts.end(), [](const auto& part) { return has_memory(*part); });
}

/// A tensor, or a list of them, by the schema's own word; lists of anything are handled without looking inside.
bool is_about_tensors(const c10::Argument& argument) {
  return argument.type()->isSubtypeOf(*c10::OptionalType::ofTensor()) ||
         (argument.type()->kind() == TypeKind::ListType &&
          argument.type()->containedType(0)->isSubtypeOf(*c10::OptionalType::ofTensor()));
}

/// An element that goes into or comes out of a container: of the type for which the container's type has a letter.
bool is_element(const c10::Argument& argument) {
  return argument.type()->kind() == TypeKind::VarType || argument.type()->kind() == TypeKind::AnyType;
}

/// Norms in training mode write running statistics, of which their schemas say nothing.
bool writes_statistics(const jit::Node* node) {
  if (node->kind() != c10::aten::batch_norm && node->kind() != c10::aten::instance_norm) return false;
  auto training = jit::toIValue(node->inputs()[5]);
  return !training || !training->isBool() || training->toBool();
}

const void* memory_of(const c10::IValue& value) {
  if (!value.isTensor() || !value.toTensor().defined() || !value.toTensor().has_storage()) return nullptr;
  return value.toTensor().storage().unsafeGetStorageImpl();
}

/// Calls `visit(type, name, memory)` for every tensor attribute.
template <class F>
void for_each_tensor_in(const jit::Module& module, F visit) {
  for (const jit::Module& part : module.modules()) {
    auto type = part.type();
    for (size_t i = 0; i < type->numAttributes(); ++i) {
      if (const void* memory = memory_of(part._ivalue()->getSlot(i))) {
        visit(type.get(), type->getAttributeName(i), memory);
      }
    }
  }
}

}  // namespace

bool only_gives_back(const jit::Node* node) {
  if (node->kind() != prim::TupleConstruct) return false;
  const jit::Block* block = node->owningBlock();
  return std::all_of(node->output()->uses().begin(), node->output()->uses().end(), [&](const jit::Use& use) {
    return use.user == block->return_node() || (use.user->owningBlock() == block && only_gives_back(use.user));
  });
}

Memory::Memory(const jit::Graph& graph) {
  Memories outside = make();
  unify(outside.own, outside.inside);
  for (const jit::Value* input : graph.inputs()) {
    if (has_memory(*input->type())) unify(of(input), outside);
  }
  visit(graph.block());
  for (std::unordered_set<Class>* classes : {&written_, &reshaped_}) {
    std::unordered_set<Class> found;
    for (Class memory : *classes) found.insert(find(memory));
    *classes = std::move(found);
  }
}

std::vector<Memory::Class> Memory::classes_of(const jit::Value* value) const {
  auto known = values_.find(value);
  if (known == values_.end()) return {};
  std::vector<Class> classes{find(known->second.own)};
  if (is_container(*value->type())) classes.push_back(find(known->second.inside));
  return classes;
}

bool Memory::is_written(const jit::Value* value) const {
  auto known = values_.find(value);
  return known != values_.end() && is_written(known->second.own);
}

WrittenAttributes Memory::written_attributes(const jit::Module& module) const {
  WrittenAttributes written;
  for (const auto& [attribute, memories] : attributes_) {
    if (is_written(memories.own) || is_written(memories.inside)) written.insert(attribute);
  }
  std::unordered_set<const void*> memories;
  for_each_tensor_in(module, [&](const c10::ClassType* type, const std::string& name, const void* memory) {
    if (written.count({type, name})) memories.insert(memory);
  });
  for_each_tensor_in(module, [&](const c10::ClassType* type, const std::string& name, const void* memory) {
    if (memories.count(memory)) written.emplace(type, name);
  });
  return written;
}

Memory::Memories Memory::make() {
  Class own = parent_.size();
  parent_.push_back(own);
  parent_.push_back(own + 1);
  return {own, own + 1};
}

Memory::Memories& Memory::of(const jit::Value* value) {
  auto known = values_.find(value);
  return known == values_.end() ? values_.emplace(value, make()).first->second : known->second;
}

Memory::Memories& Memory::of_attribute(const jit::Node* node) {
  std::pair key{node->inputs()[0]->type()->castRaw<c10::ClassType>(), node->s(c10::attr::name)};
  auto known = attributes_.find(key);
  return known == attributes_.end() ? attributes_.emplace(key, make()).first->second : known->second;
}

Memory::Class Memory::find(Class memory) const {
  while (parent_[memory] != memory) memory = parent_[memory] = parent_[parent_[memory]];
  return memory;
}

void Memory::unify(Class a, Class b) { parent_[find(a)] = find(b); }

void Memory::unify(const Memories& a, const Memories& b) {
  unify(a.own, b.own);
  unify(a.inside, b.inside);
}

void Memory::visit(const jit::Block* block) {
  for (const jit::Node* node : block->nodes()) visit(node);
}

void Memory::visit(const jit::Node* node) {
  if (!node->blocks().empty()) return visit_blocks(node);
  switch (node->kind()) {
    case prim::Constant:
    case prim::Uninitialized:
    case prim::CreateObject:
    case prim::RaiseException:
    case prim::Print:
    case prim::isinstance:
    case prim::tolist:
      for (const jit::Value* output : node->outputs()) {
        if (has_memory(*output->type())) of(output);
      }
      return;
    case prim::GetAttr:
      if (has_memory(*node->output()->type())) unify(of(node->output()), of_attribute(node));
      return;
    case prim::SetAttr:
      if (has_memory(*node->inputs()[1]->type())) unify(of(node->inputs()[1]), of_attribute(node));
      return;
    case prim::unchecked_cast:
    case prim::unchecked_unwrap_optional:
      if (has_memory(*node->output()->type())) unify(of(node->output()), of(node->inputs()[0]));
      return;
    case prim::ListConstruct:
    case prim::TupleConstruct:
    case prim::DictConstruct: {
      // A tuple of results joins nothing: a list in it and a tensor in it stay apart.
      if (!node->owningBlock()->owningNode() && only_gives_back(node)) return;
      Memories made = of(node->output());
      for (const jit::Value* input : node->inputs()) {
        if (!has_memory(*input->type())) continue;
        unify(of(input).own, made.inside);
        unify(of(input).inside, made.inside);
      }
      return;
    }
    case prim::ListUnpack:
    case prim::TupleUnpack:
    case prim::TupleIndex:
    case prim::TupleSlice:
      for (const jit::Value* output : node->outputs()) {
        if (!has_memory(*output->type())) continue;
        unify(of(output).own, of(node->inputs()[0]).inside);
        unify(of(output).inside, of(node->inputs()[0]).inside);
      }
      return;
    default:
      break;
  }
  const c10::FunctionSchema* schema = node->maybeSchema();
  schema ? visit_operator(node, *schema) : visit_unknown(node);
}

void Memory::visit_blocks(const jit::Node* node) {
  bool is_loop = node->kind() == prim::Loop;
  for (const jit::Block* block : node->blocks()) {
    for (size_t i = 0; i < node->outputs().size(); ++i) {
      if (!has_memory(*node->outputs()[i]->type())) continue;
      if (!is_loop) {
        unify(of(node->outputs()[i]), of(block->outputs()[i]));
        continue;
      }
      unify(of(node->outputs()[i]), of(node->inputs()[i + 2]));
      unify(of(node->outputs()[i]), of(block->inputs()[i + 1]));
      unify(of(node->outputs()[i]), of(block->outputs()[i + 1]));
    }
    visit(block);
  }
  if (!is_loop && node->kind() != prim::If) visit_unknown(node);
}

void Memory::visit_operator(const jit::Node* node, const c10::FunctionSchema& schema) {
  const auto& formals = schema.arguments();
  for (size_t i = 0; i < node->inputs().size() && i < formals.size(); ++i) {
    const c10::AliasInfo* alias = formals[i].alias_info();
    bool writes = (alias && alias->isWrite()) || ((i == 3 || i == 4) && writes_statistics(node));
    if (!writes || !has_memory(*node->inputs()[i]->type())) continue;
    written_.insert(of(node->inputs()[i]).own);
    if (changes_shape(schema)) reshaped_.insert(of(node->inputs()[i]).own);
    if (is_about_tensors(formals[i])) written_.insert(of(node->inputs()[i]).inside);
  }
  if (std::any_of(formals.begin(), formals.end(), is_about_tensors)) {
    share_results_of_tensors(node, schema);
  } else {
    move_elements(node, schema);
  }
}

void Memory::share_results_of_tensors(const jit::Node* node, const c10::FunctionSchema& schema) {
  bool unsaid = may_return_argument(schema);
  for (size_t r = 0; r < node->outputs().size(); ++r) {
    const jit::Value* output = node->outputs()[r];
    if (!has_memory(*output->type())) continue;
    Memories& result = of(output);
    bool views = unsaid || (r < schema.returns().size() && schema.returns()[r].alias_info());
    for (size_t i = 0; views && i < node->inputs().size() && i < schema.arguments().size(); ++i) {
      const jit::Value* input = node->inputs()[i];
      if (!has_memory(*input->type()) || !(unsaid || schema.arguments()[i].alias_info())) continue;
      bool from_list = is_container(*input->type());
      bool to_list = is_container(*output->type());
      if (from_list == to_list) unify(of(input), result);
      unify(from_list ? of(input).inside : of(input).own, to_list ? result.inside : result.own);
    }
  }
}

void Memory::move_elements(const jit::Node* node, const c10::FunctionSchema& schema) {
  Class elements = make().inside;
  auto join = [&](const jit::Value* value, const c10::Argument* formal) {
    if (!has_memory(*value->type())) return;
    if (!formal || is_element(*formal)) unify(of(value).own, elements);
    if (holds_memory(*value->type())) unify(of(value).inside, elements);
  };
  const auto& formals = schema.arguments();
  for (size_t i = 0; i < node->inputs().size(); ++i)
    join(node->inputs()[i], i < formals.size() ? &formals[i] : nullptr);
  for (size_t r = 0; r < node->outputs().size(); ++r) {
    const jit::Value* output = node->outputs()[r];
    const c10::Argument* formal = r < schema.returns().size() ? &schema.returns()[r] : nullptr;
    join(output, formal);
    // The container itself comes back.
    if (!formal || is_element(*formal) || !formal->alias_info() || !has_memory(*output->type())) continue;
    for (size_t i = 0; i < node->inputs().size() && i < formals.size(); ++i) {
      if (formals[i].alias_info() && !is_element(formals[i])) unify(of(node->inputs()[i]).own, of(output).own);
    }
  }
}

void Memory::visit_unknown(const jit::Node* node) {
  Memories all = make();
  unify(all.own, all.inside);
  auto join = [&](const jit::Value* value) {
    if (has_memory(*value->type())) unify(of(value), all);
  };
  for (const jit::Value* input : node->inputs()) join(input);
  for (const jit::Value* output : node->outputs()) join(output);
  written_.insert(all.own);
}

}  // namespace torchweld
