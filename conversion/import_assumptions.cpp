// What an observed interpretation goes on with after a node that stays in LibTorch: what is sure about its results,
// and, when the observer wants it, what is likely.
#include <torch/csrc/jit/runtime/operator.h>

#include <algorithm>

#include "conversion/import.h"
#include "core/error.h"
#include "core/ops/aten.h"
#include "core/ops/aten_bounds.h"
#include "core/ops/aten_memory.h"

namespace torchweld {

namespace jit = torch::jit;
namespace prim = c10::prim;

namespace {

bool is_container(const c10::IValue& value) { return value.isList() || value.isGenericDict(); }

/// The value with meta tensors in place of all tensors.
c10::IValue on_meta(const c10::IValue& value) {
  if (value.isTensor()) return value.toTensor().defined() ? value.toTensor().to(c10::kMeta) : value;
  if (!value.isList()) return value;
  c10::impl::GenericList list(value.toList().elementType());
  for (const c10::IValue& element : value.toListRef()) list.push_back(on_meta(element));
  return list;
}

bool ends_in_exception(const jit::Block* block) {
  for (const jit::Node* node : block->nodes()) {
    if (node->kind() == prim::RaiseException) return true;
  }
  return false;
}

}  // namespace

c10::IValue Interpreter::make_unknown(const c10::IValue& value) {
  return with_tensors(value, [&](const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    TensorType type = type_of(tensor);
    type.device = device_;
    return add_input(type);
  });
}

void Interpreter::assume_results(const jit::Node* node) {
  for (const jit::Value* output : node->outputs()) environment_.erase(output);
  if (!node->blocks().empty()) {
    probe_blocks(node);
    assume_from_blocks(node);
    return;
  }
  try {
    if (node->kind() == prim::GetAttr || node->kind() == prim::SetAttr) {
      assume_attribute(node);
    } else if (node->kind() == prim::CreateObject) {
      auto type = node->output()->type()->expect<c10::ClassType>();
      c10::StrongTypePtr held(type->compilation_unit(), type);
      set(node->output(), c10::ivalue::Object::create(std::move(held), type->numAttributes()));
    } else if (node->maybeOperator()) {
      assume_from_operator(node);
    }
  } catch (const std::exception&) {
    // Nothing is known about the results then.
  }
  if (!observer_->wants_likely_results()) forget_written_containers(node);
}

void Interpreter::assume_from_operator(const jit::Node* node) {
  const c10::FunctionSchema& schema = node->getOperator().schema();
  Stack arguments = arguments_of(node);
  for (size_t i = 0; i < arguments.size() && i < schema.arguments().size(); ++i) {
    const c10::Argument& formal = schema.arguments()[i];
    if (formal.alias_info() && formal.alias_info()->isWrite() && arguments[i].isTensor()) {
      forget_elements(arguments[i].toTensor());
      // Those that change more than elements are rare, and their results stay unknown.
      bool keeps_type = node->outputs().size() == 1 && !changes_shape(schema);
      if (keeps_type) set(node->output(), c10::IValue(get(node->inputs()[i])));
      return;
    }
    arguments[i] = formal.name() == "device" ? c10::IValue(c10::Device(c10::kMeta)) : on_meta(arguments[i]);
  }
  std::string name = op_name(schema);
  auto types = observer_->wants_likely_results() ? largest_result_types(name, arguments) : std::nullopt;
  if (!types) types = infer_by_meta_run(name, arguments, device_);
  size_t next = 0;
  for (size_t i = 0; i < schema.returns().size(); ++i) {
    auto take = [&] {
      TensorType type = types->at(next++);
      type.device = device_;
      return add_input(type);
    };
    if (schema.returns()[i].type()->kind() == c10::TypeKind::ListType) {
      c10::List<at::Tensor> list;
      while (next < types->size()) list.push_back(take());
      set(node->outputs()[i], std::move(list));
    } else {
      set(node->outputs()[i], take());
    }
  }
}

void Interpreter::forget_elements(const at::Tensor& known) {
  if (is_symbolic(known)) return;
  for (auto& [name, held] : environment_) {
    if (shares_memory(held, known)) held = make_unknown(held);
  }
}

void Interpreter::assume_attribute(const jit::Node* node) {
  const c10::IValue& owner = get(node->inputs()[0]);
  if (!owner.isObject()) return;
  std::pair<const void*, std::string> key{owner.toObject().get(), node->s(c10::attr::name)};
  if (!observer_->wants_likely_results()) {
    if (node->kind() != prim::GetAttr || !observer_->keeps_type(node)) return;
    c10::IValue held = owner.toObjectRef().getAttr(key.second);
    if (held.isTensor() && held.toTensor().defined() && held.toTensor().device() == device_)
      set(node->output(), make_unknown(held));
    return;
  }
  if (node->kind() == prim::SetAttr) {
    last_written_.insert_or_assign(key, get(node->inputs()[1]));
    return;
  }
  auto written = last_written_.find(key);
  if (written == last_written_.end()) {
    written = last_written_.emplace(key, make_unknown(owner.toObjectRef().getAttr(key.second))).first;
  }
  set(node->output(), written->second);
}

void Interpreter::assume_from_blocks(const jit::Node* node) {
  bool is_loop = node->kind() == prim::Loop;
  if (!is_loop && node->kind() != prim::If) return;
  bool likely = observer_->wants_likely_results();
  if (!likely && is_loop && !keeps_types(node)) return;
  for (size_t i = 0; i < node->outputs().size(); ++i) {
    std::vector<const c10::IValue*> possible;
    for (const jit::Block* block : node->blocks()) {
      if (!ends_in_exception(block)) possible.push_back(find(block->outputs()[i + (is_loop ? 1 : 0)]));
    }
    if (!likely) {
      if (const TensorType* type = common_type(possible)) set(node->outputs()[i], add_input(*type));
      continue;
    }
    auto known = std::find_if(possible.begin(), possible.end(), [](const c10::IValue* value) { return value; });
    if (known != possible.end()) set(node->outputs()[i], c10::IValue(**known));
  }
}

bool Interpreter::keeps_types(const jit::Node* loop) {
  const jit::Block* body = loop->blocks()[0];
  for (size_t k = 1; k < body->inputs().size(); ++k) {
    if (!body->inputs()[k]->type()->isSubtypeOf(*c10::TensorType::get())) continue;
    if (!common_type({find(loop->inputs()[k + 1]), find(body->outputs()[k])})) return false;
  }
  return true;
}

const TensorType* Interpreter::common_type(const std::vector<const c10::IValue*>& values) {
  const TensorType* type = nullptr;
  for (const c10::IValue* value : values) {
    if (!value || !value->isTensor() || !is_symbolic(value->toTensor())) return nullptr;
    const TensorType& own = value_of(value->toTensor())->type;
    if (type && *type != own) return nullptr;
    type = &own;
  }
  return type;
}

void Interpreter::forget_written_containers(const jit::Node* node) {
  for (const jit::Block* block : node->blocks()) {
    for (const jit::Node* inner : block->nodes()) forget_written_containers(inner);
  }
  const c10::FunctionSchema* schema = node->maybeSchema();
  if (!schema) return;
  for (size_t i = 0; i < schema->arguments().size() && i < node->inputs().size(); ++i) {
    const c10::AliasInfo* alias = schema->arguments()[i].alias_info();
    const c10::IValue* written = find(node->inputs()[i]);
    if (!alias || !alias->isWrite() || !written || !is_container(*written)) continue;
    c10::IValue container = *written;
    std::erase_if(environment_, [&](const auto& entry) { return entry.second.is(container); });
  }
}

void Interpreter::probe_blocks(const jit::Node* node) {
  // What a body computes is unknown outside. Inside, values from outside keep what is known of them; what a loop
  // carries is taken to keep its type from one iteration to the next, and only sizes decide whether that is so, which
  // the engine checks at run time.
  for (const jit::Block* block : node->blocks()) {
    if (node->kind() == prim::Loop) {
      for (size_t k = 1; k < block->inputs().size(); ++k) {
        const c10::IValue* value = find(node->inputs()[k + 1]);
        if (value && value->isTensor() && is_symbolic(value->toTensor())) {
          set(block->inputs()[k], add_input(value_of(value->toTensor())->type));
        } else if (value && observer_->wants_likely_results()) {
          set(block->inputs()[k], c10::IValue(*value));
        }
      }
      if (observer_->wants_likely_results()) set(block->inputs()[0], static_cast<int64_t>(0));
    }
    run_block(block);
    if (node->kind() == prim::Loop && keeps_types(node)) observer_->note(block->param_node(), {});
  }
  if (!observer_->wants_likely_results()) forget_written_containers(node);
}

}  // namespace torchweld
