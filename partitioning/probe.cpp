#include "partitioning/probe.h"

#include <torch/csrc/jit/passes/inliner.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "core/plain_value.h"

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
    for (const jit::Value* output : node->outputs()) learn(output);
  }

  /// Keeps what is the same whenever it is computed.
  void forget_varying() {
    for (const jit::Value* value : varying_) {
      result_.types.erase(value);
      result_.plain_values.erase(value);
    }
  }

  void learn(const jit::Value* value) {
    const c10::IValue* held = interpreter_->find(value);
    if (held && held->isTensor()) {
      if (result_.plain_values.count(value)) varying_.insert(value);
      learn_type(value, held->toTensor());
    } else if (held && is_plain(*held)) {
      auto [known, is_new] = result_.plain_values.emplace(value, held->deepcopy());  // lists go on changing
      if (result_.types.count(value) || !is_same(known->second, *held)) varying_.insert(value);
    } else {
      varying_.insert(value);
    }
  }

 private:
  void learn_type(const jit::Value* value, const at::Tensor& tensor) {
    if (!tensor.defined()) return;
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

  Probe& result_;
  const Options& options_;
  const Writes& writes_;
  const bool likely_;
  std::unordered_set<const jit::Value*> varying_;  // not known, or in a loop not the same in each iteration
  const Interpreter* interpreter_ = nullptr;
};

}  // namespace

namespace {

/// What rules may call an operator: with its overload and without.
std::vector<std::string> names_of(const jit::Operator& op) {
  return {op.schema().name(), toString(op.schema().operator_name())};
}

/// What rules may call the modules that a node stands in, from the outermost on: class and path of each.
std::vector<std::string> names_of_modules(const jit::Node* node) {
  std::vector<std::string> names;
  if (!node->callstack()) return names;
  std::string path;
  for (const auto& entry : (*node->callstack())->vec()) {
    const auto& instance = std::get<2>(entry);
    if (!instance || !instance->class_type()) continue;
    if (!instance->instance_name().empty()) path += (path.empty() ? "" : ".") + instance->instance_name();
    names.push_back(plain_class_name(instance->class_type()->name()->qualifiedName()));
    names.push_back(path);
  }
  return names;
}

/// "aten::add_.Tensor" -> "aten::add.Tensor"
std::string without_in_place_mark(const std::string& name) {
  size_t end = std::min(name.find('.'), name.size());
  bool in_place = end > 0 && name[end - 1] == '_';
  return in_place ? name.substr(0, end - 1) + name.substr(end) : name;
}

/// Whether a rule names an operator. In-place forms mean the functional ones: lowering makes these of them.
bool matches_operator(const std::string& rule, const std::string& name) {
  return matches(rule, name) || without_in_place_mark(rule) == without_in_place_mark(name);
}

/// The first rule that matches one of the names.
template <class Names>
const std::string* matching_rule(const std::vector<std::string>& rules, const Names& names,
                                 bool (*match)(const std::string& rule, const std::string& name)) {
  auto found = std::find_if(rules.begin(), rules.end(), [&](const std::string& rule) {
    return std::any_of(names.begin(), names.end(), [&](const std::string& name) { return match(rule, name); });
  });
  return found == rules.end() ? nullptr : &*found;
}

void collect_names(const jit::Block* block, std::set<std::string>& ops, std::set<std::string>& modules) {
  for (const jit::Node* node : block->nodes()) {
    if (const jit::Operator* op = node->maybeOperator()) {
      for (const std::string& name : names_of(*op)) ops.insert(name);
      for (const std::string& name : names_of_modules(node)) modules.insert(name);
    }
    for (const jit::Block* inner : node->blocks()) collect_names(inner, ops, modules);
  }
}

/// How many characters have to be changed, added or taken away to make one text the other.
size_t distance_between(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);  // from the first i characters of a to the first k of b
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t k = 1; k <= b.size(); ++k) {
      size_t changed = diagonal + (a[i - 1] != b[k - 1]);
      diagonal = row[k];
      row[k] = std::min({changed, row[k] + 1, row[k - 1] + 1});
    }
  }
  return row.back();
}

/// "option names rule, ..." for every rule that matches no name.
void add_idle(const std::string& option, const std::vector<std::string>& rules, const std::set<std::string>& names,
              const std::string& what, bool (*match)(const std::string&, const std::string&),
              std::vector<std::string>& out) {
  constexpr size_t kNearest = 5;
  for (const std::string& rule : rules) {
    if (matching_rule({rule}, names, match)) continue;
    std::vector<std::pair<size_t, std::string>> nearest;
    for (const std::string& name : names) nearest.emplace_back(distance_between(rule, name), name);
    std::sort(nearest.begin(), nearest.end());
    std::string text = ExclusionRule{option, rule}.text() + ", and the module has no such " + what;
    for (size_t i = 0; i < nearest.size() && i < kNearest; ++i) {
      text += (i == 0 ? "; the nearest are " : ", ") + nearest[i].second;
    }
    out.push_back(text);
  }
}

}  // namespace

std::optional<ExclusionRule> exclusion_rule(const jit::Node* node, const Options& options) {
  const jit::Operator* op = node->maybeOperator();
  if (!op) return std::nullopt;  // reads of attributes, lists, control flow
  if (const std::string* rule = matching_rule(options.torch_executed_ops, names_of(*op), matches_operator)) {
    return ExclusionRule{"torch_executed_ops", *rule};
  }
  if (options.torch_executed_modules.empty()) return std::nullopt;
  if (const std::string* rule = matching_rule(options.torch_executed_modules, names_of_modules(node), matches)) {
    return ExclusionRule{"torch_executed_modules", *rule};
  }
  return std::nullopt;
}

std::vector<std::string> idle_rules(const jit::Module& module, const Options& options) {
  std::vector<std::string> idle;
  if (options.torch_executed_ops.empty() && options.torch_executed_modules.empty()) return idle;
  std::set<std::string> ops;
  std::set<std::string> modules;
  for (const std::string& method : options.methods) {
    auto found = module.find_method(method);
    if (!found) continue;
    std::shared_ptr<jit::Graph> graph = found->graph()->copy();
    jit::Inline(*graph);
    collect_names(graph->block(), ops, modules);
  }
  for (const auto& part : module.named_modules()) {  // also those that compute nothing
    if (part.name.empty()) continue;
    modules.insert(part.name);
    modules.insert(plain_class_name(part.value.type()->name()->qualifiedName()));
  }
  add_idle("torch_executed_ops", options.torch_executed_ops, ops, "operator", matches_operator, idle);
  add_idle("torch_executed_modules", options.torch_executed_modules, modules, "module", matches, idle);
  return idle;
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
  for (const jit::Value* input : graph.inputs()) observer.learn(input);
  observer.forget_varying();
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
  result.plain_values = std::move(sure.plain_values);
  result.elsewhere.merge(sure.elsewhere);
  return result;
}

}  // namespace torchweld
