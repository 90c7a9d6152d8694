#include "conversion/import.h"

#include <ATen/ops/empty_strided.h>
#include <torch/csrc/jit/runtime/operator.h>

#include "conversion/source_line.h"
#include "conversion/structure.h"
#include "core/error.h"
#include "core/ops/aten.h"
#include "core/ops/aten_memory.h"
#include "core/ops/constant.h"
#include "core/ops/layout.h"
#include "core/ops/shape.h"

namespace torchweld {

namespace jit = torch::jit;
namespace prim = c10::prim;
using Kind = NodeOutcome::Kind;

namespace {

constexpr int64_t kMaxSteps = 1'000'000;
/// An observer wants to know what every node does, not every iteration of long loops.
constexpr int64_t kMaxObservedSteps = 50'000;
/// A trip count that depends on data is taken to be the largest possible, which can be far from real.
constexpr int64_t kMaxLikelyTrips = 256;

/// LibTorch's errors carry a stack trace; the first line is what a user can read.
std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

/// True for a node that computes much with each element that it reads or writes: a convolution, a product.
bool is_heavy(const Node& node) {
  double elements = 0;
  for (const Value* input : node.inputs()) elements += static_cast<double>(input->type.numel());
  for (const auto& output : node.outputs()) elements += static_cast<double>(output->type.numel());
  return flops_of(node) > 16 * elements;
}

std::string op_name(const jit::Node* node) {
  if (const jit::Operator* op = node->maybeOperator()) return toString(op->schema().operator_name());
  return node->kind().toQualString();
}

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

}  // namespace

void for_each_tensor(const c10::IValue& value, const std::function<void(const at::Tensor&)>& visit) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) visit(value.toTensor());
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) for_each_tensor(element, visit);
  } else if (value.isTuple()) {
    for (const c10::IValue& element : value.toTupleRef().elements()) for_each_tensor(element, visit);
  } else if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) for_each_tensor(entry.value(), visit);
  }
}

bool shares_memory(const c10::IValue& value, const at::Tensor& tensor) {
  bool found = false;
  for_each_tensor(value, [&](const at::Tensor& held) { found = found || held.is_alias_of(tensor); });
  return found;
}

Interpreter::Interpreter(Graph& graph, c10::Device device, ImportObserver* observer)
    : graph_(graph), device_(device), observer_(observer) {}

at::Tensor Interpreter::add_input(const TensorType& type) {
  at::Tensor tensor = make_symbolic(graph_.add_input(type));
  input_tensors_.insert(tensor.unsafeGetTensorImpl());
  return tensor;
}

std::vector<c10::IValue> Interpreter::run(const jit::Graph& script, const std::vector<c10::IValue>& arguments) {
  check(script.inputs().size() == arguments.size(),
        "a TorchScript graph is interpreted with a wrong number of arguments");
  for (size_t i = 0; i < arguments.size(); ++i) {
    learn_concrete(arguments[i], /*foreign=*/true);
    set(script.inputs()[i], arguments[i]);
  }
  run_block(script.block());
  std::vector<c10::IValue> outputs;
  for (const jit::Value* output : script.outputs()) {
    const c10::IValue* value = find(output);
    outputs.push_back(value ? *value : c10::IValue());
  }
  return outputs;
}

Value* Interpreter::value_of(const at::Tensor& tensor) {
  expect(tensor.defined(), "reads a result that the call before leaves out");
  const c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  if (auto found = symbolic_.find(impl); found != symbolic_.end()) return found->second;
  if (auto found = constants_.find(impl); found != constants_.end()) return found->second;
  expect(!tensor.is_sparse() && !tensor.is_quantized() && !tensor.is_complex(),
         "sparse, quantized and complex tensors stay in LibTorch");
  Constant constant{.value = tensor.detach(), .name = ""};
  if (auto name = names_.find(impl); name != names_.end()) constant.name = name->second;
  // A 0-d tensor beside larger ones only brings a number, as in ATen, whatever device it is on.
  if (tensor.dim() == 0 && !tensor.is_meta()) {
    constant = Constant::immediate(tensor.item(), device_);
  } else {
    expect(tensor.device() == device_, "a tensor of the module is on " + tensor.device().str() +
                                           " and the inputs are on " + device_.str() +
                                           "; move the module with .to(...) first");
  }
  constant_storages_.insert(tensor.storage().unsafeGetStorageImpl());  // from now on it must not change
  kept_.push_back(tensor);
  return constants_[impl] = graph_.add(std::move(constant), {});
}

Value* Interpreter::result_of(const at::Tensor& tensor) {
  bool known_number = tensor.defined() && tensor.dim() == 0 && !is_symbolic(tensor);
  if (!known_number) return value_of(tensor);
  return graph_.add(Constant{.value = tensor.detach().to(device_), .name = ""}, {});
}

const c10::IValue* Interpreter::find(const jit::Value* value) const {
  auto found = environment_.find(value);
  return found == environment_.end() ? nullptr : &found->second;
}

const c10::IValue& Interpreter::get(const jit::Value* value) const {
  const c10::IValue* found = find(value);
  if (!found) {
    throw Unsupported("its input comes from " + op_name(value->node()) + ", whose result is known only at run time");
  }
  return *found;
}

void Interpreter::set(const jit::Value* value, c10::IValue v) { environment_[value] = std::move(v); }

Interpreter::Stack Interpreter::arguments_of(const jit::Node* node) const {
  Stack arguments;
  for (const jit::Value* input : node->inputs()) arguments.push_back(get(input));
  return arguments;
}

void Interpreter::set_outputs(const jit::Node* node, Stack results) {
  check(results.size() == node->outputs().size(), "number of results of " + op_name(node));
  for (size_t i = 0; i < results.size(); ++i) set(node->outputs()[i], std::move(results[i]));
}

bool Interpreter::mentions_symbolic(const c10::IValue& value) const {
  bool found = false;
  for_each_tensor(value, [&](const at::Tensor& tensor) { found = found || is_symbolic(tensor); });
  return found;
}

at::Tensor Interpreter::make_symbolic(Value* value) {
  const TensorType& type = value->type;
  at::Tensor tensor = at::empty_strided(type.shape, type.strides, at::TensorOptions(type.dtype).device(c10::kMeta));
  kept_.push_back(tensor);
  symbolic_[tensor.unsafeGetTensorImpl()] = value;
  int group = static_cast<int>(alias_group_.size());
  alias_group_[tensor.unsafeGetTensorImpl()] = group;
  group_size_[group] = 1;
  return tensor;
}

void Interpreter::mark_alias(const at::Tensor& tensor, const at::Tensor& of, bool surely) {
  if (!surely || maybe_views_.count(of.unsafeGetTensorImpl())) maybe_views_.insert(tensor.unsafeGetTensorImpl());
  auto group = alias_group_.find(of.unsafeGetTensorImpl());
  auto own = alias_group_.find(tensor.unsafeGetTensorImpl());
  if (group == alias_group_.end() || own == alias_group_.end() || own->second == group->second) return;
  --group_size_[own->second];
  own->second = group->second;
  ++group_size_[group->second];
}

void Interpreter::learn_concrete(const c10::IValue& value, bool foreign) {
  if (!foreign || !value.isTensor() || !value.toTensor().defined() || is_symbolic(value.toTensor())) return;
  if (value.toTensor().has_storage()) foreign_storages_.insert(value.toTensor().storage().unsafeGetStorageImpl());
}

void Interpreter::forbid_foreign_writes(const jit::Node* node, const Stack& arguments) const {
  const c10::FunctionSchema& schema = node->getOperator().schema();
  for (size_t i = 0; i < arguments.size() && i < schema.arguments().size(); ++i) {
    const c10::AliasInfo* alias = schema.arguments()[i].alias_info();
    if (!alias || !alias->isWrite() || !arguments[i].isTensor()) continue;
    const at::Tensor& tensor = arguments[i].toTensor();
    if (!tensor.has_storage()) continue;
    const c10::StorageImpl* storage = tensor.storage().unsafeGetStorageImpl();
    expect(!foreign_storages_.count(storage) && !constant_storages_.count(storage),
           "writes to a tensor of the module in place");
  }
}

// ---------------------------------------------------------------------------------------------------------------------

bool Interpreter::run_block(const jit::Block* block) {
  bool all_fine = true;
  for (const jit::Node* node : block->nodes()) {
    if (try_node(node).kind == Kind::kFailed) all_fine = false;
  }
  return all_fine;
}

NodeOutcome Interpreter::try_node(const jit::Node* node) {
  expect(++steps_ <= kMaxSteps, "the program runs more than a million TorchScript steps for these inputs");
  graph_.origin = source_line(node);
  if (!observer_) {
    try {
      return run_node(node);
    } catch (const Unsupported& reason) {
      throw Unsupported(op_name(node) + (graph_.origin.empty() ? "" : " at " + graph_.origin) + ": " + reason.what());
    }
  }
  NodeOutcome outcome;
  size_t nodes_before = graph_.nodes().size();
  try {
    outcome = run_node(node);
    auto reason = outcome.kind == Kind::kFailed ? std::nullopt : observer_->excluded(node);
    if (reason) outcome = {Kind::kFailed, *reason, 0};
  } catch (const std::exception& error) {
    outcome = {Kind::kFailed, first_line(error.what()), 0};
    assume_results(node);
  }
  if (node->blocks().empty()) {
    auto it = graph_.nodes().end();
    for (size_t i = graph_.nodes().size(); i > nodes_before; --i) --it;
    for (; it != graph_.nodes().end(); ++it) {
      outcome.flops += flops_of(**it);
      bool computes = !(*it)->attrs.def().is_view && !(*it)->as<Constant>();
      if (computes || outcome.computations == 0) ++outcome.computations;
      outcome.is_heavy = outcome.is_heavy || is_heavy(**it);
    }
  }
  observer_->note(node, outcome);
  return outcome;
}

NodeOutcome Interpreter::run_node(const jit::Node* node) {
  switch (node->kind()) {
    case prim::If:
      return run_if(node);
    case prim::Loop:
      return run_loop(node);
    case prim::GetAttr:
      return run_get_attr(node);
    case prim::SetAttr:
      throw Unsupported("writes an attribute of the module");
    case prim::RaiseException:
      throw Unsupported("raises an exception for these inputs");
    case prim::Print:
      throw Unsupported("prints");
    case prim::PythonOp:
    case prim::IgnoredPythonOp:
      throw Unsupported("runs Python code");
    case prim::CallMethod:
    case prim::CallFunction:
      throw Unsupported("calls a function that could not be inlined");
    default:
      break;
  }
  if (node->kind() == c10::aten::warn) throw Unsupported("prints a warning");
  if (!node->blocks().empty()) throw Unsupported("control flow of this kind stays in LibTorch");
  return node->maybeOperator() ? run_operator(node) : run_structure(node);
}

// The instructions of LibTorch's interpreter that are no operators.
NodeOutcome Interpreter::run_structure(const jit::Node* node) {
  if (node->kind() == prim::Constant) {
    auto value = jit::toIValue(node->output());
    expect(value.has_value(), "a constant of this kind stays in LibTorch");
    learn_concrete(*value, /*foreign=*/true);
    set(node->output(), *value);
    return {};
  }
  auto results = run_structural(node, arguments_of(node));
  expect(results.has_value(), "instructions of this kind stay in LibTorch");
  set_outputs(node, std::move(*results));
  return {};
}

NodeOutcome Interpreter::run_if(const jit::Node* node) {
  bool condition = get(node->input()).toBool();
  const jit::Block* block = node->blocks()[condition ? 0 : 1];
  bool fine = run_block(block);
  for (size_t i = 0; i < node->outputs().size(); ++i) {
    environment_.erase(node->outputs()[i]);
    if (const c10::IValue* value = find(block->outputs()[i])) set(node->outputs()[i], *value);
  }
  return fine ? NodeOutcome{} : NodeOutcome{Kind::kFailed, "a part of its body stays in LibTorch", 0};
}

NodeOutcome Interpreter::run_loop(const jit::Node* node) {
  const jit::Block* body = node->blocks()[0];
  int64_t trips = get(node->inputs()[0]).toInt();
  bool condition = get(node->inputs()[1]).toBool();
  size_t carried = node->outputs().size();
  std::vector<std::optional<c10::IValue>> state(carried);
  for (size_t i = 0; i < carried; ++i) {
    if (const c10::IValue* value = find(node->inputs()[i + 2])) state[i] = *value;
  }
  bool fine = true;
  for (int64_t i = 0; i < trips && condition; ++i) {
    if (observer_ && observer_->wants_likely_results() && i == kMaxLikelyTrips) break;
    expect(!observer_ || steps_ < kMaxObservedSteps, "its body runs too many times to be looked at");
    set(body->inputs()[0], i);
    for (size_t k = 0; k < carried; ++k) {
      environment_.erase(body->inputs()[k + 1]);
      if (state[k]) set(body->inputs()[k + 1], *state[k]);
    }
    if (observer_) observer_->note(body->param_node(), {});
    fine = run_block(body) && fine;
    condition = get(body->outputs()[0]).toBool();
    for (size_t k = 0; k < carried; ++k) {
      const c10::IValue* value = find(body->outputs()[k + 1]);
      state[k] = value ? std::optional(*value) : std::nullopt;
    }
  }
  for (size_t k = 0; k < carried; ++k) {
    environment_.erase(node->outputs()[k]);
    if (state[k]) set(node->outputs()[k], *state[k]);
  }
  return fine ? NodeOutcome{} : NodeOutcome{Kind::kFailed, "a part of its body stays in LibTorch", 0};
}

NodeOutcome Interpreter::run_get_attr(const jit::Node* node) {
  const c10::IValue& owner = get(node->input());
  expect(owner.isObject(), "reads an attribute of something that is no module");
  expect(!observer_ || !observer_->written(node), "reads an attribute that the module writes");
  const std::string& name = node->s(c10::attr::name);
  c10::IValue value = owner.toObjectRef().getAttr(name);
  auto path = paths_.find(node->input());
  std::string full = path == paths_.end() || path->second.empty() ? name : path->second + "." + name;
  if (value.isObject()) paths_[node->output()] = full;
  if (value.isTensor() && value.toTensor().defined()) {
    names_[value.toTensor().unsafeGetTensorImpl()] = full;
    attributes_.push_back(value.toTensor());
  }
  learn_concrete(value, /*foreign=*/true);
  set(node->output(), std::move(value));
  return {};
}

// ---------------------------------------------------------------------------------------------------------------------

NodeOutcome Interpreter::run_operator(const jit::Node* node) {
  const c10::FunctionSchema& schema = node->getOperator().schema();
  bool symbolic = false;
  for (const jit::Value* input : node->inputs()) symbolic = symbolic || mentions_symbolic(get(input));
  if (!symbolic) return run_concrete(node);

  // Answers for the value, not for the meta tensor that stands for it.
  if (node->kind() == prim::device) {
    set(node->output(), c10::IValue(device_));
    return {};
  }
  if (node->kind().toQualString() == std::string("prim::is_cuda")) {
    set(node->output(), device_.is_cuda());
    return {};
  }
  if (node->kind().toQualString() == std::string("prim::is_cpu")) {
    set(node->output(), device_.is_cpu());
    return {};
  }
  std::string name = dispatcher_name(toString(schema.operator_name()));
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
  if (node->kind().toQualString() == std::string("prim::data")) {
    set(node->output(), get(node->input()));
    return {};
  }
  if (handles_any_type(schema) || !returns_tensors(schema)) return run_concrete(node);
  return run_generic(node, name, in_place);
}

NodeOutcome Interpreter::run_concrete(const jit::Node* node) {
  const jit::Operator& op = node->getOperator();
  expect(!node->isNondeterministic(), "draws random numbers");
  Stack stack = arguments_of(node);
  forbid_foreign_writes(node, stack);
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
  for (size_t i = 0; i < formal.size(); ++i) {
    c10::IValue value = i < actual.size() ? actual[i] : formal[i].default_value().value_or(c10::IValue());
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
      check(next < values.size(), "too few results from the importer of " + op_name(node));
      Value* value = values[next++];
      if (!value) return at::Tensor();
      // What an importer made up at compile time is known, so the program may go on working on it.
      const at::Tensor* known = constant_of(value);
      if (known && !known->unsafeGetTensorImpl()->is_wrapped_number()) return *known;
      std::vector<at::Tensor> sources;  // arguments that it is a view of, or may be
      for (const jit::Value* input : node->inputs()) {
        for_each_tensor(get(input), [&](const at::Tensor& argument) {
          bool related =
              is_symbolic(argument) && (value->from<Aten>() || base_of(value) == base_of(value_of(argument)));
          if (related) sources.push_back(argument);
        });
      }
      bool is_new = !result.alias_info() && !may_return_argument(schema);
      if (is_new && !sources.empty() && !value->from<Aten>()) {  // cat of one tensor, say
        value = graph_.add(Copy{dense_strides_like(value->type.shape, value->type.strides)}, {value});
      }
      at::Tensor tensor = make_symbolic(value);
      for (const at::Tensor& source : sources) {
        if (!is_new) mark_alias(tensor, source, always_gives_views(schema));
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
  check(next == values.size(), "too many results from the importer of " + op_name(node));
}

// ---------------------------------------------------------------------------------------------------------------------

namespace {

void collect_outputs(const c10::IValue& value, Interpreter& interpreter, Graph& graph) {
  if (value.isTensor()) {
    graph.add_output(interpreter.result_of(value.toTensor()));
  } else if (value.isTensorList() || value.isList()) {
    for (const c10::IValue& element : value.toListRef()) collect_outputs(element, interpreter, graph);
  } else if (value.isTuple()) {
    for (const c10::IValue& element : value.toTupleRef().elements()) collect_outputs(element, interpreter, graph);
  } else {
    throw Unsupported("a result of kind " + value.tagKind() + " is no tensor");
  }
}

}  // namespace

std::unique_ptr<Graph> import_graph(const jit::Graph& script, const std::vector<ImportArgument>& arguments,
                                    c10::Device device, std::vector<at::Tensor>* attributes) {
  auto graph = std::make_unique<Graph>();
  Interpreter interpreter(*graph, device);
  std::vector<c10::IValue> values;
  for (const ImportArgument& argument : arguments) {
    auto* type = std::get_if<TensorType>(&argument);
    values.push_back(type ? c10::IValue(interpreter.add_input(*type)) : std::get<c10::IValue>(argument));
  }
  for (const c10::IValue& output : interpreter.run(script, values)) collect_outputs(output, interpreter, *graph);
  graph->sweep();
  if (attributes) *attributes = interpreter.attributes();
  return graph;
}

}  // namespace torchweld
