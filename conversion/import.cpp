#include "conversion/import.h"

#include <ATen/EmptyTensor.h>
#include <torch/csrc/jit/runtime/operator.h>

#include "conversion/source_line.h"
#include "conversion/structure.h"
#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/recurrent.h"

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

constexpr const char* kReadsWritten = "reads an attribute that the module writes";

/// Why no engine may have the node, or one under it that these inputs do not reach and those of another call may. What
/// else an engine cannot do is found when it is planned for that call.
std::optional<std::string> why_not_for_all_calls(const jit::Node* node, ImportObserver& observer) {
  if (node->kind() == prim::GetAttr && observer.written(node)) return kReadsWritten;
  if (auto reason = observer.excluded(node)) return reason;
  for (const jit::Block* block : node->blocks()) {
    for (const jit::Node* inner : block->nodes()) {
      if (auto reason = why_not_for_all_calls(inner, observer)) return reason;
    }
  }
  return std::nullopt;
}

}  // namespace

std::string op_name(const c10::FunctionSchema& schema) {
  return schema.overload_name().empty() ? schema.name() : schema.name() + "." + schema.overload_name();
}

std::string op_name(const jit::Node* node) {
  if (const jit::Operator* op = node->maybeOperator()) return op_name(op->schema());
  return node->kind().toQualString();
}

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

c10::IValue with_tensors(const c10::IValue& value, const std::function<c10::IValue(const at::Tensor&)>& give) {
  if (value.isTensor()) return give(value.toTensor());
  if (value.isList()) {
    c10::impl::GenericList list(value.toList().elementType());
    for (const c10::IValue& element : value.toListRef()) list.push_back(with_tensors(element, give));
    return list;
  }
  if (value.isTuple()) {
    std::vector<c10::IValue> elements;
    for (const c10::IValue& element : value.toTupleRef().elements()) elements.push_back(with_tensors(element, give));
    return c10::ivalue::Tuple::createNamed(std::move(elements), value.type()->expect<c10::TupleType>());
  }
  if (value.isGenericDict()) {
    auto dict = value.toGenericDict();
    c10::impl::GenericDict copy(dict.keyType(), dict.valueType());
    for (const auto& entry : dict) copy.insert(entry.key(), with_tensors(entry.value(), give));
    return copy;
  }
  return value;
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
  if (steps_ > 0) assumed_.insert(tensor.unsafeGetTensorImpl());
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
  // A 0-d tensor beside larger ones only brings a number, as in ATen, whatever device it is on.
  if (tensor.dim() == 0 && !tensor.is_meta()) return graph_.add(Constant::immediate(tensor.item(), device_), {});
  expect(tensor.device() == device_, [&] {
    return "a tensor of the module is on " + tensor.device().str() + " and the inputs are on " + device_.str() +
           "; move the module with .to(...) first";
  });
  auto origin = origins_.find(impl);
  Constant constant{.value = LazyTensor(tensor.variable_data(), origin == origins_.end() ? "" : origin->second),
                    .name = ""};
  if (auto name = names_.find(impl); name != names_.end()) constant.name = name->second;
  kept_.push_back(tensor);
  return constants_[impl] = graph_.add(std::move(constant), {});
}

Value* Interpreter::result_of(const at::Tensor& tensor) {
  bool known_number = tensor.defined() && tensor.dim() == 0 && !is_symbolic(tensor);
  if (!known_number) return value_of(tensor);
  expect(tensor.device() == device_, "gives a tensor on another device");
  return graph_.add(Constant{.value = tensor.detach(), .name = ""}, {});
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
  arguments.reserve(node->inputs().size());
  for (const jit::Value* input : node->inputs()) arguments.push_back(get(input));
  return arguments;
}

void Interpreter::set_outputs(const jit::Node* node, Stack results) {
  check(results.size() == node->outputs().size(), [&] { return "number of results of " + op_name(node); });
  for (size_t i = 0; i < results.size(); ++i) set(node->outputs()[i], std::move(results[i]));
}

bool Interpreter::mentions_symbolic(const c10::IValue& value) const {
  bool found = false;
  for_each_tensor(value, [&](const at::Tensor& tensor) { found = found || is_symbolic(tensor); });
  return found;
}

at::Tensor Interpreter::make_symbolic(Value* value) {
  const TensorType& type = value->type;
  at::Tensor tensor(at::detail::empty_strided_meta(type.shape, type.strides, type.dtype));
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
  // These two add no nodes and are most of a graph.
  const bool adds_nodes = node->kind() != prim::Constant && node->kind() != prim::GetAttr;
  graph_.origin = adds_nodes && notes_origins_ ? source_line(node) : "";
  if (!observer_) {
    try {
      return run_node(node);
    } catch (const Unsupported& reason) {
      std::string line = source_line(node);
      throw Unsupported(op_name(node) + (line.empty() ? "" : " at " + line) + ": " + reason.what());
    }
  }
  NodeOutcome outcome;
  size_t nodes_before = graph_.nodes().size();
  try {
    outcome = run_node(node);
    auto reason = outcome.kind == Kind::kFailed ? std::nullopt : why_not_for_all_calls(node, *observer_);
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
      // At every step two products, the gates and the new state.
      constexpr int64_t kOperationsOfRecurrentLayer = 4;
      if ((*it)->as<Recurrent>()) outcome.computations += kOperationsOfRecurrentLayer - 1;
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
    case prim::Constant:  // Here, since it takes a search of all operators to find that it is none.
      return run_structure(node);
    case prim::SetAttr:
      throw Unsupported("writes an attribute of the module");
    case prim::RaiseException:
      throw Unsupported("raises an exception");
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
  expect(!observer_ || !observer_->written(node), kReadsWritten);
  const std::string& name = node->s(c10::attr::name);
  c10::IValue value = owner.toObjectRef().getAttr(name);
  const bool is_tensor = value.isTensor() && value.toTensor().defined();
  if (notes_origins_) {
    auto path = paths_.find(node->input());
    std::string full = path == paths_.end() || path->second.empty() ? name : path->second + "." + name;
    if (value.isObject()) paths_[node->output()] = full;
    if (is_tensor) names_[value.toTensor().unsafeGetTensorImpl()] = full;
  }
  if (is_tensor) {
    const c10::TensorImpl* impl = value.toTensor().unsafeGetTensorImpl();
    if (note_weight_ && !origins_.count(impl)) {
      origins_[impl] = note_weight_(value.toTensor());
      kept_.push_back(value.toTensor());
    }
  }
  learn_concrete(value, /*foreign=*/true);
  set(node->output(), std::move(value));
  return {};
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
                                    c10::Device device, Interpreter::NoteWeight note, bool for_reports) {
  auto graph = std::make_unique<Graph>();
  Interpreter interpreter(*graph, device);
  interpreter.note_origins(for_reports);
  interpreter.note_weights(std::move(note));
  std::vector<c10::IValue> values;
  for (const ImportArgument& argument : arguments) {
    auto* type = std::get_if<TensorType>(&argument);
    values.push_back(type ? c10::IValue(interpreter.add_input(*type)) : std::get<c10::IValue>(argument));
  }
  for (const c10::IValue& output : interpreter.run(script, values)) collect_outputs(output, interpreter, *graph);
  graph->sweep();
  return graph;
}

}  // namespace torchweld
