#include "partitioning/probe.h"

namespace torchweld {

namespace jit = torch::jit;

namespace {

/// True when `text` matches `pattern`, in which an asterisk stands for any text.
bool matches(const std::string& pattern, const std::string& text) {
  size_t star = pattern.find('*');
  if (star == std::string::npos) return pattern == text;
  if (text.compare(0, star, pattern, 0, star) != 0) return false;
  std::string rest = pattern.substr(star + 1);
  for (size_t at = star; at <= text.size(); ++at) {
    if (matches(rest, text.substr(at))) return true;
  }
  return false;
}

/// "__torch__.torchvision.models.resnet.___torch_mangle_3.Bottleneck" -> "torchvision.models.resnet.Bottleneck"
std::string plain_class_name(const std::string& qualified) {
  std::string name;
  size_t start = 0;
  while (start <= qualified.size()) {
    size_t end = std::min(qualified.find('.', start), qualified.size());
    std::string part = qualified.substr(start, end - start);
    if (part != "__torch__" && part.rfind("___torch_mangle", 0) != 0) name += (name.empty() ? "" : ".") + part;
    start = end + 1;
  }
  return name;
}

class Observer final : public ImportObserver {
 public:
  Observer(Probe& result, const Options& options, const Writes& writes, bool wants_likely_results)
      : result_(result), options_(options), writes_(writes), likely_(wants_likely_results) {}

  void attach(const Interpreter* interpreter) { interpreter_ = interpreter; }

  std::optional<std::string> excluded(const jit::Node* node) override {
    auto rule = exclusion_rule(node, options_);
    return rule ? std::optional(rule->text()) : std::nullopt;
  }

  bool written(const jit::Node* node) override { return writes_.written(node); }
  bool keeps_type(const jit::Node* node) override { return writes_.keeps_type(node); }

  bool wants_likely_results() const override { return likely_; }

  void note(const jit::Node* node, const NodeOutcome& outcome) override {
    auto [entry, is_new] = result_.outcomes.emplace(node, outcome);
    // In a loop the worst iteration counts.
    if (!is_new) {
      double flops = entry->second.flops + outcome.flops;
      if (outcome.kind == NodeOutcome::Kind::kFailed) entry->second = outcome;
      entry->second.flops = flops;
    }
    result_.flops += outcome.flops;
    for (const jit::Value* output : node->outputs()) learn_type(output);
  }

  /// Types that are the same whenever the value is computed.
  void forget_varying_types() {
    for (const jit::Value* value : varying_) result_.types.erase(value);
  }

  void learn_type(const jit::Value* value) {
    const c10::IValue* held = interpreter_->find(value);
    if (!held || !held->isTensor() || !held->toTensor().defined()) return;
    const at::Tensor& tensor = held->toTensor();
    TensorType type = type_of(tensor);
    if (interpreter_->is_symbolic(tensor)) {
      type.device = interpreter_->device();
      result_.symbolic.insert(value);
    } else if (type.device != interpreter_->device()) {
      result_.elsewhere.insert(value);
    }
    auto [known, is_new] = result_.types.emplace(value, type);
    if (!is_new && known->second != type) varying_.insert(value);
  }

 private:
  Probe& result_;
  const Options& options_;
  const Writes& writes_;
  const bool likely_;
  std::unordered_set<const jit::Value*> varying_;  // in a loop, from one iteration to the next
  const Interpreter* interpreter_ = nullptr;
};

}  // namespace

std::optional<ExclusionRule> exclusion_rule(const jit::Node* node, const Options& options) {
  const jit::Operator* op = node->maybeOperator();
  if (!op) return std::nullopt;  // reads of attributes, lists, control flow
  std::string with_overload = toString(op->schema().operator_name());
  const std::string& name = op->schema().name();
  for (const std::string& rule : options.torch_executed_ops) {
    if (matches(rule, name) || matches(rule, with_overload)) return ExclusionRule{"torch_executed_ops", rule};
  }
  if (options.torch_executed_modules.empty() || !node->callstack()) return std::nullopt;
  std::string path;
  for (const auto& entry : (*node->callstack())->vec()) {
    const auto& instance = std::get<2>(entry);
    if (!instance || !instance->class_type()) continue;
    if (!instance->instance_name().empty()) path += (path.empty() ? "" : ".") + instance->instance_name();
    std::string class_name = plain_class_name(instance->class_type()->name()->qualifiedName());
    for (const std::string& rule : options.torch_executed_modules) {
      if (matches(rule, class_name) || matches(rule, path)) return ExclusionRule{"torch_executed_modules", rule};
    }
  }
  return std::nullopt;
}

namespace {

Probe interpret(const jit::Graph& graph, const std::vector<c10::IValue>& arguments, c10::Device device,
                const Options& options, const Writes& writes, bool wants_likely_results) {
  Probe result;
  Graph scratch;
  Observer observer(result, options, writes, wants_likely_results);
  Interpreter interpreter(scratch, device, &observer);
  observer.attach(&interpreter);
  std::vector<c10::IValue> values{arguments.at(0)};
  for (size_t i = 1; i < arguments.size(); ++i) values.push_back(interpreter.make_unknown(arguments[i]));
  interpreter.run(graph, values);
  for (const jit::Value* input : graph.inputs()) observer.learn_type(input);
  observer.forget_varying_types();
  return result;
}

}  // namespace

void Probe::visit_imported(const jit::Node* node, const std::function<void(const NodeOutcome&)>& visit) const {
  auto outcome = outcomes.find(node);
  if (outcome != outcomes.end() &&
      (outcome->second.kind == NodeOutcome::Kind::kNative || outcome->second.kind == NodeOutcome::Kind::kGeneric)) {
    visit(outcome->second);
  }
  for (const jit::Block* block : node->blocks()) {
    for (const jit::Node* inner : block->nodes()) visit_imported(inner, visit);
  }
}

double Probe::flops_of(const jit::Node* node) const {
  auto outcome = outcomes.find(node);
  double sum = outcome == outcomes.end() ? 0 : outcome->second.flops;
  for (const jit::Block* block : node->blocks()) {
    for (const jit::Node* inner : block->nodes()) sum += flops_of(inner);
  }
  return sum;
}

Probe probe(const jit::Graph& graph, const std::vector<c10::IValue>& arguments, c10::Device device,
            const Options& options, const Writes& writes) {
  Probe result = interpret(graph, arguments, device, options, writes, /*wants_likely_results=*/true);
  Probe sure = interpret(graph, arguments, device, options, writes, /*wants_likely_results=*/false);
  result.types = std::move(sure.types);
  result.elsewhere.merge(sure.elsewhere);
  return result;
}

}  // namespace torchweld
