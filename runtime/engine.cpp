#include "runtime/engine.h"

#include <c10/core/GradMode.h>
#include <c10/util/ScopeExit.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "conversion/device.h"
#include "core/environment.h"
#include "core/error.h"
#include "core/plain_aten.h"
#include "runtime/rehearsal.h"

#ifdef TORCHWELD_WITH_CUDA
#include <c10/cuda/CUDAGraphsC10Utils.h>
#endif

namespace torchweld {
namespace {

/// Kernels rely on elements that lie next to each other and start at a multiple of 16 bytes.
bool is_presentable(const at::Tensor& tensor) {
  return tensor.is_non_overlapping_and_dense() && reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 16 == 0;
}

/// True for tensors whose numbers lie in memory as their sizes and strides say: not for sparse or quantized ones, nor
/// for those of a subclass in Python, of torch.func and the like.
bool is_readable(const at::Tensor& tensor) {
  constexpr c10::DispatchKeySet ordinary =
      c10::DispatchKeySet(c10::DispatchKey::CPU) | c10::DispatchKeySet(c10::DispatchKey::CUDA) |
      c10::autograd_dispatch_keyset_with_ADInplaceOrView | c10::autocast_dispatch_keyset;
  return tensor.defined() && (tensor.key_set() | ordinary) == ordinary && !tensor.is_complex();
}

/// Whether a program asks for strides.
bool reads_strides(const torch::jit::Block* block) {
  return std::any_of(block->nodes().begin(), block->nodes().end(), [](const torch::jit::Node* node) {
    return node->kind() == c10::aten::stride ||
           std::any_of(node->blocks().begin(), node->blocks().end(), reads_strides);
  });
}

bool is_being_captured() {
#ifdef TORCHWELD_WITH_CUDA
  return c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
#else
  return false;
#endif
}

}  // namespace

Engine::Engine(EngineState state) : state_(std::move(state)), table_(std::make_shared<const Table>()) {
  timings_.merge(state_.timings);
}

std::vector<at::Tensor> Engine::run(const c10::IValue& segment, c10::ArrayRef<c10::IValue> arguments) {
  c10::NoGradGuard no_grad;
  NoAutocast no_autocast;
  if (state_.left_to_torch) return run_in_torch(segment, arguments);
  std::vector<c10::IValue> adapted;  // all arguments, where one has to be another tensor
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (!arguments[i].isTensor()) continue;
    const at::Tensor& given = arguments[i].toTensor();
    if (!is_readable(given)) return run_in_torch(segment, arguments);
    if (is_presentable(given)) continue;
    if (needs_strides(segment)) return run_in_torch(segment, arguments);
    if (adapted.empty()) adapted = arguments.vec();
    adapted[i] = given.clone();  // dense, dimensions in the same order
  }
  const c10::ArrayRef<c10::IValue> operands = adapted.empty() ? arguments : c10::ArrayRef<c10::IValue>(adapted);
  std::shared_ptr<const Entry> entry = find(operands);
  return entry ? run_by(entry, segment, arguments, operands) : run_first(segment, arguments, operands);
}

std::vector<at::Tensor> Engine::run_first(const c10::IValue& segment, c10::ArrayRef<c10::IValue> arguments,
                                          c10::ArrayRef<c10::IValue> operands) {
  CallSignature signature = CallSignature::of(operands);
  if (std::string reason = outside_range(signature); !reason.empty() && state_.options.outside_range != "build") {
    if (state_.options.outside_range == "error") throw Error(reason);
    warn_once(reason + " It runs in LibTorch.");
    return run_in_torch(segment, arguments);
  }
  if (!is_worth_a_plan(signature)) return run_plainly(segment, arguments);
  bool on_cuda = !signature.tensors.empty() && signature.tensors.front().device.is_cuda();
  if (!on_cuda) return run_by(plan_at_call(segment, signature), segment, arguments, operands);
  if (is_being_captured()) return run_in_capture(segment, arguments);
  // The compiler has run for remembered signatures.
  if (is_remembered(signature)) return run_by(plan_at_call(segment, signature), segment, arguments, operands);
  std::unique_lock alone(at_once_mutex_, std::try_to_lock);
  if (!alone) return run_plainly(segment, arguments);
  std::shared_ptr<Executor> executor = plan_at_once(segment, signature);
  if (executor) {
    std::shared_ptr<const Entry> announced = announce(signature, executor);
    alone.unlock();
    // The planner would compete with the launches for the device's locks, so it begins behind them.
    auto post = c10::make_scope_exit([&] {
      try {
        if (announced) post_plan(segment, announced);
      } catch (const std::exception& error) {  // The call itself is well; a later one may try again.
        remove(announced);
        log(1, state_.name + " is not planned in the background: " + error.what());
      }
    });
    return run_by(std::make_shared<const Entry>(signature, std::move(executor)), segment, arguments, operands);
  }
  // LibTorch, too, looks for its kernels now: only then may the compiler keep all cores busy.
  std::vector<at::Tensor> outputs = run_plainly(segment, arguments);
  plan_later(segment, signature, nullptr);
  return outputs;
}

std::vector<at::Tensor> Engine::run_by(const std::shared_ptr<const Entry>& entry, const c10::IValue& segment,
                                       c10::ArrayRef<c10::IValue> arguments, c10::ArrayRef<c10::IValue> operands) {
  if (entry->is_being_planned) {
    // What a plan made at once has packed is gone when the other one replaces it, and a captured graph would still read
    // it.
    if (is_being_captured()) return run_in_capture(segment, arguments);
    if (!entry->executor) return run_plainly(segment, arguments);
    if (entry->is_refused.exchange(false)) {
      remove(entry);
      plan_later(segment, entry->signature, entry->executor);
    }
  }
  if (!entry->executor) return run_in_torch(segment, arguments);
  try {
    std::vector<at::Tensor> tensors;
    tensors.reserve(operands.size());
    for (const c10::IValue& operand : operands) {
      if (operand.isTensor()) tensors.push_back(operand.toTensor());
    }
    std::vector<at::Tensor> outputs = entry->executor->run(tensors);
    // Looking at all weights takes longer than a launch does, so it is done while the device works.
    if (entry->executor->plan().is_current()) return outputs;
    remove(entry);
    return run(segment, arguments);
  } catch (const InternalError& error) {
    warn_once(std::string("an engine failed and LibTorch ran in its place: ") + error.what());
  } catch (const c10::Error& error) {
    warn_once(std::string("an engine failed and LibTorch ran in its place: ") + error.what_without_backtrace());
  }
  return run_in_torch(segment, arguments);
}

std::vector<at::Tensor> Engine::run_in_capture(const c10::IValue& segment, c10::ArrayRef<c10::IValue> arguments) {
  warn_once("a CUDA graph is captured before " + state_.name +
            " has a plan for these inputs, so the graph holds LibTorch's kernels; call torchweld.warm_up(module, "
            "inputs) before the capture.");
  return run_plainly(segment, arguments);
}

std::shared_ptr<const Engine::Entry> Engine::find(const CallSignature& signature) const {
  std::shared_ptr<const Table> table = table_.load();
  auto found = std::find_if(table->begin(), table->end(), [&](const auto& e) { return e->signature == signature; });
  return found == table->end() ? nullptr : *found;
}

std::shared_ptr<const Engine::Entry> Engine::find(c10::ArrayRef<c10::IValue> arguments) const {
  std::shared_ptr<const Table> table = table_.load(std::memory_order_acquire);
  for (const auto& entry : *table) {
    if (!entry->signature.matches(arguments)) continue;
    entry->last_use.store(clock_.fetch_add(1, std::memory_order_relaxed), std::memory_order_relaxed);
    return entry;
  }
  return nullptr;
}

void Engine::build(const c10::IValue& segment, const CallSignature& signature,
                   const std::function<void(size_t, size_t)>& progress) {
  std::lock_guard lock(plan_mutex_);
  add(plan(segment, signature, state_.options.optimization_level > 0, progress));
  state_.signatures.push_back(signature);
}

void Engine::leave_to_torch() {
  state_.left_to_torch = true;
  state_.signatures.clear();
  timings_.clear();
  std::lock_guard lock(table_mutex_);
  table_.store(std::make_shared<const Table>());
}

bool Engine::needs_strides(const c10::IValue& segment) {
  std::call_once(looked_for_strides_, [&] {
    const torch::jit::Function& forward = segment.toObjectRef().type()->getMethod("forward");
    needs_strides_ = reads_strides(torch::jit::toGraphFunction(forward).graph()->block());
  });
  return needs_strides_;
}

void Engine::build_remembered(const c10::IValue& segment) {
  NoAutocast no_autocast;
  for (const CallSignature& signature : std::vector(state_.signatures)) {
    if (!executor_for(signature)) plan_at_call(segment, signature);
  }
}

void Engine::add(std::shared_ptr<const Entry> entry) {
  std::lock_guard lock(table_mutex_);
  auto table = std::make_shared<Table>(*table_.load());
  put(*table, std::move(entry));
  table_.store(std::move(table));
}

void Engine::put(Table& table, std::shared_ptr<const Entry> entry) {
  std::erase_if(table, [&](const auto& other) { return other->signature == entry->signature; });
  entry->last_use = clock_.fetch_add(1);
  if (static_cast<int64_t>(table.size()) >= state_.options.max_cached_plans) {
    table.erase(std::min_element(table.begin(), table.end(),
                                 [](const auto& a, const auto& b) { return a->last_use.load() < b->last_use.load(); }));
  }
  table.push_back(std::move(entry));
}

void Engine::remove(const std::shared_ptr<const Entry>& entry) {
  std::lock_guard lock(table_mutex_);
  auto table = std::make_shared<Table>(*table_.load());
  table->erase(std::remove(table->begin(), table->end(), entry), table->end());
  table_.store(std::move(table));
}

std::string Engine::outside_range(const CallSignature& signature) const {
  std::string reason;
  size_t place = 0;
  auto look_at = [&](const TensorType& type) {
    const size_t i = place++;
    const Dims& shape = type.shape;
    if (!reason.empty() || i >= state_.ranges.size() || !state_.ranges[i].is_known) return;
    const Range& range = state_.ranges[i];
    bool inside = shape.size() == range.min.size();
    for (size_t d = 0; inside && d < shape.size(); ++d) inside = range.min[d] <= shape[d] && shape[d] <= range.max[d];
    if (inside) return;
    reason = "Input " + std::to_string(i) + " of " + state_.name + " has shape " + to_string(shape) +
             ", outside the range " + to_string(range.min) + " to " + to_string(range.max) +
             " that the module was compiled for; compile it with a wider range, or with outside_range=\"build\".";
  };
  signature.visit(look_at, [&](const c10::IValue&) { ++place; });
  return reason;
}

bool Engine::is_remembered(const CallSignature& signature) const {
  auto& remembered = state_.signatures;
  return std::find(remembered.begin(), remembered.end(), signature) != remembered.end();
}

bool Engine::is_worth_a_plan(const CallSignature& signature) {
  auto has_its_scalars = [&](const CallSignature& known) { return known.has_scalars_of(signature); };
  auto is_for_them = [&](const auto& entry) { return has_its_scalars(entry->signature); };
  std::shared_ptr<const Table> table = table_.load();
  const auto& remembered = state_.signatures;  // none where sizes depend on data
  if (std::any_of(remembered.begin(), remembered.end(), has_its_scalars) ||
      (!remembered.empty() && std::any_of(table->begin(), table->end(), is_for_them)))
    return true;
  std::lock_guard lock(seen_mutex_);
  auto known = std::find(seen_.begin(), seen_.end(), signature);
  if (known != seen_.end()) {
    seen_.erase(known);
    return true;
  }
  if (static_cast<int64_t>(seen_.size()) >= state_.options.max_cached_plans) seen_.pop_front();
  seen_.push_back(signature);
  return false;
}

void Engine::warn_once(const std::string& reason) {
  std::lock_guard lock(warn_mutex_);
  // One warning for each kind of trouble: the numbers in the text differ from call to call.
  std::string kind;
  std::copy_if(reason.begin(), reason.end(), std::back_inserter(kind), [](char c) { return !std::isdigit(c); });
  if (std::find(warned_.begin(), warned_.end(), kind) != warned_.end()) return;
  warned_.push_back(kind);
  TORCH_WARN("torchweld: ", reason);
}

std::vector<at::Tensor> Engine::run_in_torch(const c10::IValue& segment, c10::ArrayRef<c10::IValue> arguments) {
  std::vector<c10::IValue> stack{segment};
  stack.insert(stack.end(), arguments.begin(), arguments.end());
  segment.toObjectRef().type()->getMethod("forward").run(stack);
  return stack.at(0).toTensorVector();
}

std::vector<at::Tensor> Engine::run_plainly(const c10::IValue& segment, c10::ArrayRef<c10::IValue> arguments) {
  torch::jit::GraphOptimizerEnabledGuard plain(false);
  return run_in_torch(segment, arguments);
}

std::shared_ptr<Executor> Engine::executor_for(const CallSignature& signature) const {
  std::shared_ptr<const Entry> entry = find(signature);
  return entry ? entry->executor : nullptr;
}

EngineReport Engine::report() const {
  EngineReport report;
  report.name = state_.name;
  std::shared_ptr<Executor> executor;
  if (!state_.signatures.empty()) {
    executor = executor_for(state_.signatures.front());
  } else {
    std::shared_ptr<const Table> table = table_.load();
    for (const auto& entry : *table) executor = entry->executor ? entry->executor : executor;
  }
  if (!executor) return report;
  const Plan& plan = executor->plan();
  for (int slot : plan.inputs) report.inputs.push_back(to_string(plan.slots[slot].type));
  for (int slot : plan.outputs) report.outputs.push_back(to_string(plan.slots[slot].type));
  bool tf32 = plan.device.is_cuda() && !state_.options.disable_tf32 && plan.flops > 0;
  std::set<std::string> precisions;
  for (const Step& step : plan.steps) {
    report.steps.push_back({step.op(), step.tactic, step.origin, step.microseconds, step.flops,
                            step.traffic.weights + step.traffic.others, step.traffic.weights});
    for (int slot : step.outputs) {
      const TensorType& type = plan.slots[slot].type;
      if (type.is_floating()) precisions.insert(type.dtype == c10::kFloat && tf32 ? "tf32" : dtype_name(type.dtype));
    }
  }
  for (const std::string& name : precisions) report.precision += (report.precision.empty() ? "" : ", ") + name;
  report.arena_bytes = plan.arena_bytes;
  for (const Storage& storage : plan.storages) {
    if (storage.kind == Storage::Kind::kConstant) report.constant_bytes += storage.bytes;
  }
  report.launches = executor->launches();
  report.not_recorded = executor->why_not_recorded();
  report.streams = report.not_recorded.empty() ? plan.lanes : 1;
  report.flops = plan.flops;
  return report;
}

c10::intrusive_ptr<Engine> engine_of(const c10::IValue& segment) {
  // By name a segment's hundreds of weights would be searched at each call; the engine is the attribute added last.
  if (!segment.isObject()) throw Error(kWrongArguments);
  const std::vector<c10::IValue>& slots = segment.toObjectRef().slots();
  for (auto slot = slots.rbegin(); slot != slots.rend(); ++slot) {
    if (slot->isCustomClass()) return slot->toCustomClass<Engine>();
  }
  throw Error(kWrongArguments);
}

}  // namespace torchweld
