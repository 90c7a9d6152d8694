// Writes in place: the tensor, and all that share its memory in the user's program, hold other values from then on.
#include <ATen/core/function_schema.h>

#include <algorithm>
#include <functional>

#include "conversion/import.h"
#include "core/error.h"
#include "core/ops/aten.h"
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

}  // namespace

Value* base_of(Value* value) {
  while (value->producer() && value->producer()->attrs.def().is_view) value = value->producer()->input(0);
  return value;
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
  if (!is_symbolic(self)) self = make_computed(self);
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

at::Tensor Interpreter::make_computed(const at::Tensor& known) {
  expect(!foreign_storages_.count(known.storage().unsafeGetStorageImpl()),
         "writes a computed result into a tensor of the module in place");
  auto is_known = [&](const c10::IValue& held) { return held.isTensor() && held.toTensor().is_same(known); };
  for (const auto& [name, held] : environment_) {
    expect(is_known(held) || !shares_memory(held, known),
           "writes in place to a tensor that another tensor or a list shares memory with");
  }
  at::Tensor computed = make_symbolic(value_of(known));
  for (auto& [name, held] : environment_) {
    if (is_known(held)) held = computed;
  }
  return computed;
}

std::unordered_set<const c10::TensorImpl*> Interpreter::live_aliases(const c10::TensorImpl* impl,
                                                                     const jit::Node* writer) const {
  int group = alias_group_.at(impl);
  std::unordered_set<const c10::TensorImpl*> aliases;
  if (group_size_.at(group) == 1) return aliases;
  for (const auto& [name, held] : environment_) {
    if (held.isTensor() && is_dead_after(name, writer)) continue;
    for_each_tensor(held, [&](const at::Tensor& tensor) {
      const c10::TensorImpl* other = tensor.unsafeGetTensorImpl();
      auto own = alias_group_.find(other);
      if (other != impl && own != alias_group_.end() && own->second == group) aliases.insert(other);
    });
  }
  return aliases;
}

void Interpreter::rebind(const at::Tensor& tensor, Value* value, const jit::Node* writer) {
  const c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  expect(!input_tensors_.count(impl), "writes to an input in place");
  for (const c10::TensorImpl* input : input_tensors_) {
    expect(alias_group_.at(input) != alias_group_.at(impl), "writes in place to a view of an input");
  }
  std::unordered_set<const c10::TensorImpl*> aliases = live_aliases(impl, writer);
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
  aliases.insert(impl);
  for (const c10::TensorImpl* alias : aliases) {
    expect(!maybe_views_.count(alias) && base_of(symbolic_.at(alias)) == base,
           "writes in place to a tensor that another tensor may be a view of");
  }
  for (const c10::TensorImpl* alias : aliases) symbolic_[alias] = renew(symbolic_.at(alias));
}

}  // namespace torchweld
