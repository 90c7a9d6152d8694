// Operators: on known values LibTorch runs them, on symbolic tensors they become nodes of the graph, by their importers
// or as the generic op.
#include <torch/csrc/jit/runtime/operator.h>

#include "conversion/import.h"
#include "conversion/place.h"
#include "core/error.h"
#include "core/ops/aten.h"
#include "core/ops/aten_memory.h"
#include "core/ops/constant.h"
#include "core/ops/layout.h"
#include "core/ops/pointwise.h"
#include "core/ops/shape.h"

namespace torchweld {

namespace jit = torch::jit;
namespace prim = c10::prim;
using Kind = NodeOutcome::Kind;

namespace {

bool returns_tensors(const c10::FunctionSchema& schema) {
  for (const c10::Argument& result : schema.returns()) {
    const c10::TypePtr& type = result.type();
    if (type->isSubtypeOf(*c10::TensorType::get()) || type->isSubtypeOf(*c10::ListType::ofTensors())) return true;
    if (type->kind() == c10::TypeKind::OptionalType && type->isSubtypeOf(*c10::OptionalType::ofTensor())) return true;
  }
  return false;
}

/// Containers and unwrapping: the schema's own types are variables, so the operator never looks into a tensor.
bool handles_any_type(const c10::FunctionSchema& schema) {
  for (const c10::Argument& argument : schema.arguments()) {
    const c10::TypePtr& type = argument.type();
    if (type->isSubtypeOf(*c10::OptionalType::ofTensor()) && type->kind() != c10::TypeKind::NoneType) return false;
    if (type->kind() == c10::TypeKind::ListType &&
        type->containedType(0)->isSubtypeOf(*c10::OptionalType::ofTensor())) {
      return false;
    }
  }
  return true;
}

bool writes_a_tensor(const c10::FunctionSchema& schema) {
  for (const c10::Argument& argument : schema.arguments()) {
    if (argument.alias_info() && argument.alias_info()->isWrite() &&
        argument.type()->isSubtypeOf(*c10::TensorType::get())) {
      return true;
    }
  }
  return false;
}

/// TorchScript's own overloads for lists without None: "aten::index.Tensor_hacked_twin" -> "aten::index.Tensor".
std::string dispatcher_name(std::string name) {
  for (const char* ending : {"_hacked_twin", ".hacked_twin"}) {
    if (name.ends_with(ending)) name.resize(name.size() - std::string_view(ending).size());
  }
  return name;
}

/// "aten::relu_" -> "aten::relu", "aten::add_.Tensor" -> "aten::add.Tensor"; empty when the name is not in-place.
std::string functional_name(const c10::OperatorName& name) {
  if (name.name.size() < 2 || name.name.back() != '_' || name.name[name.name.size() - 2] == '_') return "";
  std::string base = name.name.substr(0, name.name.size() - 1);
  return name.overload_name.empty() ? base : base + "." + name.overload_name;
}

/// True when LibTorch gives the value, wherever it computes it, the strides that it has here: operators that choose
/// among algorithms, as convolutions do, may choose the layout too.
bool has_certain_strides(const Value* value) {
  std::vector<const Value*> todo{value};
  std::unordered_set<const Value*> seen;
  while (!todo.empty()) {
    const Node* node = todo.back()->producer();
    todo.pop_back();
    if (!node || node->as<Constant>()) continue;
    bool follows_inputs = node->attrs.def().is_view || node->as<Pointwise>() || node->as<Cast>() || node->as<Copy>() ||
                          node->as<Concat>();
    if (!follows_inputs) return false;
    for (const Value* input : node->inputs()) {
      if (seen.insert(input).second) todo.push_back(input);
    }
  }
  return true;
}

/// Whether `result`, all views of `source` in the graph, is one in memory too; nothing where that is not sure.
std::optional<bool> is_view_by_strides(const Value* result, const Value* source) {
  if (!has_certain_strides(source)) return std::nullopt;
  for (; result != source; result = result->producer()->input(0)) {
    if (!result->producer() || !result->producer()->attrs.def().is_view) return std::nullopt;
    int64_t offset = 0;
    if (!is_free_view(*result->producer(), &offset)) return false;
  }
  return true;
}

}  // namespace

NodeOutcome Interpreter::run_operator(const jit::Node* node) {
  const c10::FunctionSchema& schema = node->getOperator().schema();
  expect(schema.name() != "torchweld::run", "it is an engine already");
  bool symbolic = false;
  for (const jit::Value* input : node->inputs()) symbolic = symbolic || mentions_symbolic(get(input));
  if (!symbolic) return run_concrete(node);
  expect(schema.name() != "aten::storage_offset", "asks where in its memory a tensor begins");

  // Answers for the value, not for the meta tensor that stands for it.
  if (node->kind() == prim::device) {
    set(node->output(), c10::IValue(device_));
    return {};
  }
  static const c10::Symbol is_cuda = c10::Symbol::fromQualString("prim::is_cuda");
  static const c10::Symbol is_cpu = c10::Symbol::fromQualString("prim::is_cpu");
  static const c10::Symbol data = c10::Symbol::fromQualString("prim::data");
  if (node->kind() == is_cuda) {
    set(node->output(), device_.is_cuda());
    return {};
  }
  if (node->kind() == is_cpu) {
    set(node->output(), device_.is_cpu());
    return {};
  }
  std::string name = dispatcher_name(op_name(schema));
  bool in_place = writes_a_tensor(schema);
  const ImportFn* importer = op_set().find_import(name);
  if (in_place) {
    name = dispatcher_name(functional_name(schema.operator_name()));
    if (!importer) importer = op_set().find_import(name);
  }
  if (importer) {
    try {
      return run_importer(node, *importer, in_place);
    } catch (const Unsupported& reason) {
      // The operator may run as itself; if not, the importer's reason is the better one.
      if (!why_not_generic(name).empty()) throw;
      try {
        return run_generic(node, name, in_place);
      } catch (const Unsupported&) {
        throw reason;
      }
    }
  }
  if (node->kind() == data) {
    set(node->output(), get(node->input()));
    return {};
  }
  if (handles_any_type(schema) || !returns_tensors(schema)) return run_concrete(node);
  return run_generic(node, name, in_place);
}

NodeOutcome Interpreter::run_concrete(const jit::Node* node) {
  const jit::Operator& op = node->getOperator();
  expect(!node->isNondeterministic(), "draws random numbers");
  expect(!node->outputs().empty() || !node->hasSideEffects(), "has effects outside of the module");
  Stack stack = arguments_of(node);
  prepare_writes(node, stack);
  if (op.schema().is_vararg()) stack.emplace_back(static_cast<int64_t>(node->inputs().size()));
  try {
    c10::NoGradGuard no_grad;
    op.getOperation(node)(stack);
  } catch (const std::exception& error) {  // where Python is loaded, of a meta function's too
    auto* of_torch = dynamic_cast<const c10::Error*>(&error);
    std::string reason = first_line(of_torch ? of_torch->what_without_backtrace() : error.what());
    // LibTorch's words for a read of elements that a symbolic tensor does not have.
    bool reads_elements = reason.find("meta tensor") != std::string::npos;
    throw Unsupported(reads_elements ? "reads elements of a tensor, which are known only at run time" : reason);
  }
  set_outputs(node, std::move(stack));
  return {};
}

std::vector<ImportArgs::Argument> Interpreter::named_arguments(const jit::Node* node) const {
  const auto& formal = node->getOperator().schema().arguments();
  std::vector<ImportArgs::Argument> arguments;
  Stack actual = arguments_of(node);
  arguments.reserve(formal.size());
  for (size_t i = 0; i < formal.size(); ++i) {
    c10::IValue value = i < actual.size() ? std::move(actual[i]) : formal[i].default_value().value_or(c10::IValue());
    arguments.push_back({formal[i].name(), std::move(value)});
  }
  return arguments;
}

NodeOutcome Interpreter::run_importer(const jit::Node* node, const ImportFn& importer, bool in_place) {
  ImportArgs arguments(graph_, *this, named_arguments(node), device_);
  std::vector<Value*> results = importer(arguments);
  if (in_place) {
    write_result(node, results);
  } else {
    wrap_results(node, results);
  }
  return {Kind::kNative, "", 0};
}

NodeOutcome Interpreter::run_generic(const jit::Node* node, const std::string& name, bool in_place) {
  std::string reason = why_not_generic(name);
  bool no_functional_form = in_place && reason.find("is not an operator") != std::string::npos;
  expect(reason.empty(), no_functional_form ? "writes its argument in place" : reason);
  std::vector<ImportArgs::Argument> named = named_arguments(node);

  Aten op{.op = name, .arguments = {}, .results = {}};
  std::vector<Value*> inputs;
  std::vector<c10::IValue> meta_arguments;
  auto meta = [&](const at::Tensor& tensor) {
    bool symbolic = is_symbolic(tensor);
    // A known 0-d tensor keeps its dtype: here it may be more than a number beside larger ones.
    bool exact = !symbolic && tensor.dim() == 0 && !tensor.is_meta();
    inputs.push_back(exact ? graph_.add(Constant{.value = tensor.detach(), .name = ""}, {}) : value_of(tensor));
    return symbolic ? tensor : tensor.to(c10::kMeta);
  };
  for (const ImportArgs::Argument& argument : named) {
    const c10::IValue& value = argument.value;
    if (value.isTensor() && value.toTensor().defined()) {
      meta_arguments.emplace_back(meta(value.toTensor()));
      op.arguments.emplace_back("$");
    } else if (value.isList() && value.toList().elementType()->isSubtypeOf(*c10::OptionalType::ofTensor())) {
      c10::impl::GenericList places(value.toList().elementType());
      bool optional = name == "aten::index.Tensor" || name == "aten::index_put";
      c10::impl::GenericList metas(optional ? c10::TypePtr(c10::OptionalType::ofTensor())
                                            : value.toList().elementType());
      for (const c10::IValue& element : value.toListRef()) {
        bool is_tensor = element.isTensor() && element.toTensor().defined();
        metas.push_back(is_tensor ? c10::IValue(meta(element.toTensor())) : c10::IValue());
        places.push_back(is_tensor ? c10::IValue("$") : c10::IValue());
      }
      meta_arguments.emplace_back(metas);
      op.arguments.emplace_back(places);
    } else {
      meta_arguments.push_back(value);
      op.arguments.push_back(value);
    }
  }
  op.results = infer_by_meta_run(name, meta_arguments, device_);
  Node* added = graph_.add_node(std::move(op), inputs);
  std::vector<Value*> results;
  for (const auto& output : added->outputs()) results.push_back(output.get());
  if (in_place) {
    write_result(node, results);
  } else {
    wrap_results(node, results);
  }
  return {Kind::kGeneric, "", 0};
}

void Interpreter::wrap_results(const jit::Node* node, const std::vector<Value*>& values) {
  const c10::FunctionSchema& schema = node->getOperator().schema();
  size_t next = 0;
  for (size_t i = 0; i < schema.returns().size(); ++i) {
    const c10::Argument& result = schema.returns()[i];
    auto take = [&] {
      check(next < values.size(), [&] { return "too few results from the importer of " + op_name(node); });
      Value* value = values[next++];
      if (!value) return at::Tensor();
      std::vector<at::Tensor> sources;  // arguments that it is a view of, or may be
      for (const jit::Value* input : node->inputs()) {
        for_each_tensor(get(input), [&](const at::Tensor& argument) {
          bool related =
              is_symbolic(argument) && (value->from<Aten>() || base_of(value) == base_of(value_of(argument)));
          if (related) sources.push_back(argument);
        });
      }
      // What an importer made up at compile time is known, so the program may go on working on it.
      const at::Tensor* known = sources.empty() ? constant_of(value) : nullptr;
      if (known && !known->unsafeGetTensorImpl()->is_wrapped_number()) return *known;
      bool is_new = !result.alias_info() && !may_return_argument(schema);
      if (is_new && !sources.empty() && !value->from<Aten>()) {  // cat of one tensor, say
        value = graph_.add(Copy{dense_strides_like(value->type.shape, value->type.strides)}, {value});
      }
      at::Tensor tensor = make_symbolic(value);
      for (const at::Tensor& source : sources) {
        if (is_new) continue;
        auto is_view = gives_views_where_it_can(schema) ? is_view_by_strides(value, value_of(source)) : std::nullopt;
        if (is_view.value_or(true)) mark_alias(tensor, source, is_view || surely_gives_views(schema));
      }
      return tensor;
    };
    if (result.type()->kind() == c10::TypeKind::ListType) {
      c10::List<at::Tensor> list;
      while (next < values.size()) list.push_back(take());
      set(node->outputs()[i], std::move(list));
    } else {
      set(node->outputs()[i], take());
    }
  }
  check(next == values.size(), [&] { return "too many results from the importer of " + op_name(node); });
}

}  // namespace torchweld
