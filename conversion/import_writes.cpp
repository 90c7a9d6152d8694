// Writes in place: the tensor, and all that share its memory in the user's program, hold other values from then on.
#include <ATen/core/function_schema.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <functional>

#include "conversion/import.h"
#include "core/error.h"
#include "core/ops/aten.h"
#include "core/ops/constant.h"
#include "core/ops/layout.h"
#include "core/ops/pointwise.h"
#include "core/ops/shape.h"

namespace torchweld {

namespace jit = torch::jit;
namespace prim = c10::prim;

namespace {

/// True when nothing that runs after `node` reads what `value` holds now.
bool is_dead_after(const jit::Value* value, const jit::Node* node) {
  // Held since the last iteration of a loop, and computed again before it is read.
  if (node->isBefore(value->node())) return true;
  for (const jit::Use& use : value->uses()) {
    if (use.user != node && !use.user->isBefore(node)) return false;
  }
  // In a loop around the node, readers of what stands outside of it come again.
  for (const jit::Block* block = node->owningBlock(); block != value->node()->owningBlock();
       block = block->owningNode()->owningBlock()) {
    if (!block->owningNode() || block->owningNode()->kind() == prim::Loop) return false;
  }
  return true;
}

/// Adds what x[start:end] along `axis` is made of to `parts`: as few slices of what x was joined from as there can be,
/// so that a tensor written row by row becomes one concat of its rows.
void add_parts(Graph& graph, Value* x, int64_t axis, int64_t start, int64_t end, std::vector<Value*>& parts) {
  if (start >= end) return;
  if (auto* concat = x->from<Concat>(); concat && concat->axis == axis) {
    for (Value* part : x->producer()->inputs()) {
      int64_t size = part->type.shape[axis];
      add_parts(graph, part, axis, std::max<int64_t>(start, 0), std::min(end, size), parts);
      start -= size;
      end -= size;
    }
    return;
  }
  auto* slice = x->from<Slice>();
  if (slice && slice->axis == axis && slice->step == 1) {
    add_parts(graph, x->producer()->input(0), axis, start + slice->start, end + slice->start, parts);
    return;
  }
  bool whole = start == 0 && end == x->type.shape[axis];
  parts.push_back(whole ? x : graph.add(Slice{.axis = axis, .start = start, .end = end}, {x}));
}

/// x with `part` in place of the elements that `slice` takes, laid out as x is.
Value* replace_slice(Graph& graph, Value* x, const Slice& slice, Value* part) {
  Value* replaced = nullptr;
  if (slice.step == 1) {
    std::vector<Value*> parts;
    add_parts(graph, x, slice.axis, 0, slice.start, parts);
    parts.push_back(part);
    add_parts(graph, x, slice.axis, slice.end, x->type.shape[slice.axis], parts);
    replaced = graph.add(Concat{.axis = slice.axis}, parts);
  } else {
    Aten call{.op = "aten::slice_scatter",
              .arguments = {"$", "$", slice.axis, slice.start, slice.end, slice.step},
              .results = {with_strides(x->type, dense_strides_like(x->type.shape, x->type.strides))}};
    replaced = graph.add(std::move(call), {x, part});
  }
  bool same = same_layout(x->type.shape, x->type.strides, replaced->type.strides);
  return same || !is_dense(x->type) ? replaced : graph.add(Copy{x->type.strides}, {replaced});
}

/// What the input of the view `node` becomes when the view is made to hold `written`.
Value* write_through(Graph& graph, const Node& node, Value* written) {
  Value* x = node.input(0);
  if (node.as<Reshape>()) return graph.add(Reshape{x->type.shape}, {written});
  if (auto* slice = node.as<Slice>()) return replace_slice(graph, x, *slice, written);
  auto* permute = node.as<Permute>();
  expect(permute != nullptr, "writes in place to a tensor whose elements share memory with each other");
  return graph.add(Permute{permute->inverse()}, {written});
}

std::vector<at::Tensor> tensors_of(const c10::IValue& value) {
  std::vector<at::Tensor> tensors;
  for_each_tensor(value, [&](const at::Tensor& tensor) { tensors.push_back(tensor); });
  return tensors;
}

/// A tensor with the same elements and strides in other memory; unlike a clone, also where elements share memory.
at::Tensor with_own_memory(const at::Tensor& tensor) {
  at::Tensor memory = at::empty({0}, tensor.options()).set_(tensor.storage()).clone();
  return memory.as_strided(tensor.sizes(), tensor.strides(), tensor.storage_offset());
}

using Replacements = std::unordered_map<const c10::TensorImpl*, at::Tensor>;

/// The value with other tensors in it; lists and dicts, which have an identity, are changed themselves.
c10::IValue with_replaced(const c10::IValue& value, const Replacements& replacements) {
  if (value.isTensor()) {
    auto found = replacements.find(value.toTensor().unsafeGetTensorImpl());
    return found == replacements.end() ? value : c10::IValue(found->second);
  }
  if (value.isList()) {
    c10::List<c10::IValue> list = value.toList();
    for (size_t i = 0; i < list.size(); ++i) list.set(i, with_replaced(list.get(i), replacements));
  } else if (value.isGenericDict()) {
    c10::Dict<c10::IValue, c10::IValue> dict = value.toGenericDict();
    for (const auto& entry : dict.copy()) {
      dict.insert_or_assign(entry.key(), with_replaced(entry.value(), replacements));
    }
  } else if (value.isTuple()) {
    std::vector<c10::IValue> elements;
    for (const c10::IValue& element : value.toTupleRef().elements()) {
      elements.push_back(with_replaced(element, replacements));
    }
    return c10::ivalue::Tuple::createNamed(std::move(elements), value.type()->expect<c10::TupleType>());
  }
  return value;
}

}  // namespace

Value* base_of(Value* value) {
  while (value->producer() && value->producer()->attrs.def().is_view) value = value->producer()->input(0);
  return value;
}

void Interpreter::prepare_writes(const jit::Node* node, const Stack& arguments) {
  const auto& formals = node->getOperator().schema().arguments();
  for (size_t i = 0; i < arguments.size() && i < formals.size(); ++i) {
    const c10::AliasInfo* alias = formals[i].alias_info();
    if (!alias || !alias->isWrite() || !arguments[i].isTensor() || !arguments[i].toTensor().has_storage()) continue;
    const c10::StorageImpl* storage = arguments[i].toTensor().storage().unsafeGetStorageImpl();
    expect(!foreign_storages_.count(storage), "writes to a tensor of the module in place");
    keep_constants(storage);
  }
}

void Interpreter::keep_constants(const c10::StorageImpl* storage) {
  auto added = graph_.nodes().end();
  for (; looked_at_ < graph_.nodes().size(); ++looked_at_) --added;
  for (; added != graph_.nodes().end(); ++added) {
    auto* constant = (*added)->as<Constant>();
    if (constant) constants_in_.emplace(constant->value.tensor().storage().unsafeGetStorageImpl(), added->get());
  }
  auto [begin, end] = constants_in_.equal_range(storage);
  for (auto it = begin; it != end; ++it) {
    Node* node = it->second;
    graph_.set_attrs(node, Constant{.value = with_own_memory(node->as<Constant>()->value.tensor()), .name = ""});
    std::erase_if(constants_, [&](const auto& entry) { return entry.second == node->output(); });
  }
  constants_in_.erase(begin, end);
}

void Interpreter::write_result(const jit::Node* node, const std::vector<Value*>& results) {
  check(results.size() == 1, "an in-place operator has one result");
  const auto& formal = node->getOperator().schema().arguments();
  for (size_t i = 0; i < formal.size(); ++i) {
    bool writes = formal[i].alias_info() && formal[i].alias_info()->isWrite();
    expect(writes == (i == 0), "writes to another argument than its first in place");
  }
  at::Tensor self = get(node->inputs()[0]).toTensor();
  Value* result = results[0];
  if (result->type.dtype != self.scalar_type()) result = graph_.add(Cast{self.scalar_type()}, {result});
  if (!is_symbolic(self)) self = make_computed(self, node);
  rebind(self, as_elements_of(self, result, node), node);
  for (const jit::Value* output : node->outputs()) set(output, self);
}

Value* Interpreter::as_elements_of(const at::Tensor& tensor, Value* result, const jit::Node* writer) {
  const TensorType& own = value_of(tensor)->type;
  expect(result->type.shape == own.shape, "writes in place a result of another shape");
  bool is_other = false;
  for (size_t i = 1; i < writer->inputs().size(); ++i) {
    for_each_tensor(get(writer->inputs()[i]), [&](const at::Tensor& argument) {
      is_other |= is_symbolic(argument) && base_of(result) == base_of(value_of(argument));
    });
  }
  bool same = !is_dense(own) || same_layout(own.shape, own.strides, result->type.strides);
  return same && !is_other ? result : graph_.add(Copy{dense_strides_like(own.shape, own.strides)}, {result});
}

bool Interpreter::takes_view(const jit::Value* name) const {
  const jit::Node* node = name->node();
  const jit::Operator* op = node->maybeOperator();
  if (!op || !node->blocks().empty() || node->inputs().empty() || op->schema().is_vararg()) return false;
  const auto& formals = op->schema().arguments();
  bool writes = std::any_of(formals.begin(), formals.end(),
                            [](const auto& formal) { return formal.alias_info() && formal.alias_info()->isWrite(); });
  const c10::IValue* source = find(node->inputs()[0]);
  if (writes || !source || !source->isTensor() || !shares_memory(get(name), source->toTensor())) return false;
  // In a loop it may be from an earlier iteration, and what it was taken with known no longer.
  Stack stack = arguments_of(node);
  op->getOperation(node)(stack);
  std::vector<at::Tensor> held = tensors_of(get(name));
  std::vector<at::Tensor> taken = tensors_of(stack.at(name->offset()));
  return std::equal(
      held.begin(), held.end(), taken.begin(), taken.end(), [&](const at::Tensor& a, const at::Tensor& b) {
        return !a.is_same(source->toTensor()) && a.is_alias_of(b) && a.scalar_type() == b.scalar_type() &&
               a.storage_offset() == b.storage_offset() && a.sizes() == b.sizes() && a.strides() == b.strides();
      });
}

at::Tensor Interpreter::make_computed(const at::Tensor& known, const jit::Node* writer) {
  expect(!foreign_storages_.count(known.storage().unsafeGetStorageImpl()),
         "writes a computed result into a tensor of the module in place");
  std::vector<const jit::Value*> names =
      names_where([&](const c10::IValue& held) { return shares_memory(held, known); });
  std::unordered_map<const c10::TensorImpl*, const jit::Value*> views;
  for (const jit::Value* name : names) {
    if (!takes_view(name)) continue;
    for (const at::Tensor& tensor : tensors_of(get(name))) views.emplace(tensor.unsafeGetTensorImpl(), name);
  }
  // Those that are read again, each behind what it is a view of; all start from one tensor.
  std::vector<const jit::Value*> needed;
  at::Tensor origin;
  std::function<void(const at::Tensor&)> need = [&](const at::Tensor& tensor) {
    auto view = views.find(tensor.unsafeGetTensorImpl());
    if (view == views.end()) {
      expect(!origin.defined() || origin.is_same(tensor),
             "writes in place to a tensor that another tensor or a list shares memory with");
      origin = tensor;
    } else if (std::find(needed.begin(), needed.end(), view->second) == needed.end()) {
      need(get(view->second->node()->inputs()[0]).toTensor());
      needed.push_back(view->second);
    }
  };
  need(known);
  for (const jit::Value* name : names) {
    if (is_dead_after(name, writer)) continue;
    for (const at::Tensor& tensor : tensors_of(get(name))) {
      if (tensor.is_alias_of(known)) need(tensor);
    }
  }

  Replacements computed{{origin.unsafeGetTensorImpl(), make_symbolic(result_of(origin))}};
  std::vector<at::Tensor> replaced;  // keeps their addresses from being used again
  auto replace = [&] {
    for (const jit::Value* name : names) set(name, with_replaced(get(name), computed));
  };
  replace();
  try {
    for (const jit::Value* view : needed) {
      std::vector<at::Tensor> before = tensors_of(get(view));
      run_operator(view->node());
      std::vector<at::Tensor> after = tensors_of(get(view));
      check(before.size() == after.size(), "a view is taken again and gives another number of tensors");
      for (size_t i = 0; i < before.size(); ++i) computed.emplace(before[i].unsafeGetTensorImpl(), after[i]);
      replaced.insert(replaced.end(), before.begin(), before.end());
      replace();
    }
  } catch (const Unsupported&) {
    if (observer_) forget_elements(known);
    throw;
  }
  return computed.at(known.unsafeGetTensorImpl());
}

std::vector<const jit::Value*> Interpreter::names_where(
    const std::function<bool(const c10::IValue&)>& condition) const {
  std::vector<const jit::Value*> names;
  for (const auto& [name, held] : environment_) {
    if (condition(held)) names.push_back(name);
  }
  std::sort(names.begin(), names.end(), [](auto* a, auto* b) { return a->unique() < b->unique(); });
  return names;
}

std::vector<const c10::TensorImpl*> Interpreter::live_aliases(const c10::TensorImpl* impl,
                                                              const jit::Node* writer) const {
  int group = alias_group_.at(impl);
  std::vector<const c10::TensorImpl*> aliases;
  if (group_size_.at(group) == 1) return aliases;
  auto is_alias = [&](const at::Tensor& tensor) {
    auto own = alias_group_.find(tensor.unsafeGetTensorImpl());
    return tensor.unsafeGetTensorImpl() != impl && own != alias_group_.end() && own->second == group;
  };
  for (const jit::Value* name : names_where([&](const c10::IValue& held) {
         std::vector<at::Tensor> tensors = tensors_of(held);
         return std::any_of(tensors.begin(), tensors.end(), is_alias);
       })) {
    if (is_dead_after(name, writer)) continue;
    for (const at::Tensor& tensor : tensors_of(get(name))) {
      const c10::TensorImpl* other = tensor.unsafeGetTensorImpl();
      bool is_new = std::find(aliases.begin(), aliases.end(), other) == aliases.end();
      if (is_alias(tensor) && is_new) aliases.push_back(other);
    }
  }
  return aliases;
}

void Interpreter::rebind(const at::Tensor& tensor, Value* value, const jit::Node* writer) {
  const c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  for (const c10::TensorImpl* input : input_tensors_) {
    if (alias_group_.at(input) != alias_group_.at(impl)) continue;
    expect(!assumed_.count(input), "writes in place to a tensor that LibTorch holds");
    throw Unsupported(input == impl ? "writes to an input in place" : "writes in place to a view of an input");
  }
  std::vector<const c10::TensorImpl*> aliases = live_aliases(impl, writer);
  if (aliases.empty()) {
    symbolic_[impl] = value;
    return;
  }
  // The base that all are views of holds other elements now, and the views are taken again. What lies between it and
  // the part that was written needs no view of the new base: it is what that was made from.
  Value* base = base_of(symbolic_.at(impl));
  std::unordered_map<Value*, Value*> renewed;
  for (Value* view = symbolic_.at(impl); view != base; view = view->producer()->input(0)) {
    const Node& taken = *view->producer();
    if (taken.as<Slice>()) {
      renewed.clear();
    } else {
      renewed[view] = value;
    }
    value = write_through(graph_, taken, value);
  }
  renewed[base] = value;
  std::function<Value*(Value*)> renew = [&](Value* view) {
    auto known = renewed.find(view);
    if (known != renewed.end()) return known->second;
    return renewed[view] = graph_.add(view->producer()->attrs, {renew(view->producer()->input(0))});
  };
  aliases.push_back(impl);
  for (const c10::TensorImpl* alias : aliases) {
    expect(!maybe_views_.count(alias) && base_of(symbolic_.at(alias)) == base,
           "writes in place to a tensor that another tensor may be a view of");
  }
  for (const c10::TensorImpl* alias : aliases) symbolic_[alias] = renew(symbolic_.at(alias));
}

}  // namespace torchweld
