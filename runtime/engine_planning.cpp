// How an engine comes to plans: at compile, at a call, and in the background.
#include <c10/core/GradMode.h>
#include <c10/util/hash.h>
#include <torch/csrc/jit/api/function_impl.h>

#include <algorithm>
#include <cmath>

#include "conversion/convert.h"
#include "conversion/device.h"
#include "conversion/place.h"
#include "core/environment.h"
#include "core/error.h"
#include "runtime/background.h"
#include "runtime/engine.h"
#include "runtime/rehearsal.h"

#ifdef TORCHWELD_WITH_CUDA
#include "kernels/cuda/driver.h"
#endif

namespace torchweld {
namespace {

const torch::jit::Graph& script_of(const c10::IValue& segment) {
  return *toGraphFunction(segment.toObjectRef().type()->getMethod("forward")).graph();
}

/// What conversion takes for a call of this signature. Throws Unsupported where engines run no such call.
std::vector<ImportArgument> import_arguments(const c10::IValue& segment, const CallSignature& signature) {
  expect(!signature.tensors.empty(), "the segment has no tensor input");
  for (const TensorType& type : signature.tensors) {
    expect(type.device == signature.tensors.front().device, "inputs are on different devices");
    expect(type.numel() > 0, "an input has no elements");
  }
  std::vector<ImportArgument> arguments{segment};
  auto add = [&](const auto& argument) { arguments.emplace_back(argument); };
  signature.visit(add, add);
  return arguments;
}

constexpr const char* kParallel = "parallel_branches";
constexpr const char* kSerial = "one_stream";

/// What a plan's steps are, in any order, and with `kernels` what runs them, as a part of keys of the timing cache.
std::string steps_digest(const Plan& plan, bool kernels = false) {
  std::vector<std::string> steps;
  for (const Step& step : plan.steps) {
    std::string& text = steps.emplace_back(step.op());
    for (int slot : step.inputs) text += " " + to_string(plan.slots[slot].type);
    text += " ->";
    for (int slot : step.outputs) text += " " + to_string(plan.slots[slot].type);
    if (kernels) text += " by " + step.tactic;
  }
  std::sort(steps.begin(), steps.end());
  std::string text;
  for (const std::string& step : steps) text += step + "\n";
  return std::to_string(plan.steps.size()) + " steps, " + c10::sha1(text).str();
}

/// Where plans are made that no call waits for. What its thread uses until it is stopped must be loaded before it.
Background& planner() {
#ifdef TORCHWELD_WITH_CUDA
  try {
    cuda::nvrtc();
  } catch (const std::exception&) {
    // A plan without it says what is missing.
  }
#endif
  return Background::get();
}

}  // namespace

std::shared_ptr<const Engine::Entry> Engine::plan(const c10::IValue& segment, const CallSignature& signature, bool tune,
                                                  const std::function<void(size_t, size_t)>& progress,
                                                  const WeightMarks& marks) {
  std::vector<ImportArgument> arguments = import_arguments(segment, signature);
  c10::Device device = signature.tensors.front().device;
  bool rehearses = tune && device.is_cuda() && state_.options.cuda_graphs && !is_disabled("try_in_place");
  auto plan = convert(script_of(segment), arguments, device, state_.options, state_.name, tune, timings_, progress,
                      rehearses ? IsFaster(Rehearsal()) : IsFaster(), marks);
  auto entry = std::make_shared<Entry>();
  entry->signature = signature;
  entry->executor = faster_executor(std::move(plan), tune);
  return entry;
}

std::shared_ptr<Executor> Engine::faster_executor(std::shared_ptr<const Plan> plan, bool tune) {
  constexpr double kMargin = 0.98;
  constexpr double kMilliseconds = 30;
  auto serial = std::make_shared<Executor>(plan, state_.options.cuda_graphs);
  if (!serial->records() || is_disabled("parallel_branches")) return serial;
  std::string key = device_name(plan->device) + " | branches of " + steps_digest(*plan);
  std::optional<TimingCache::Entry> known = timings_.find(key);
  if (known ? known->tactic != kParallel : !tune) return serial;
  std::shared_ptr<const Plan> in_lanes = with_parallel_branches(*plan);
  if (!in_lanes) return serial;
  auto parallel = std::make_shared<Executor>(in_lanes, state_.options.cuda_graphs);
  if (known) return parallel;
  std::optional<Contest> times = race(*serial, *parallel, kMilliseconds);
  if (!times) return serial;
  bool pays = times->second <= kMargin * times->first;
  timings_.set(key, {pays ? kParallel : kSerial, "", pays ? times->second : times->first});
  log(3, state_.name + ": " + std::to_string(times->first) + " us on one stream, " + std::to_string(times->second) +
             " us on " + std::to_string(in_lanes->lanes) + ": " + (pays ? kParallel : kSerial));
  return pays ? parallel : serial;
}

std::string Engine::why_libtorch(const c10::IValue& segment, double budget_ms) try {
  constexpr double kMargin = 1.05;
  std::shared_ptr<Executor> executor = executor_for(state_.signatures.front());
  const c10::Device device = executor->plan().device;
  const std::string ours = device_name(device) + " | an engine of " + steps_digest(executor->plan(), /*kernels=*/true);
  const std::string theirs =
      device_name(device) + " | LibTorch " TORCHWELD_TORCH_VERSION " in place of " + steps_digest(executor->plan());
  if (!timings_.find(ours) || !timings_.find(theirs)) {
    Contest times = race_libtorch(segment, *executor, budget_ms);
    timings_.set(ours, {"engine", "", times.first});
    timings_.set(theirs, {"libtorch", "", times.second});
  }
  const double engine = timings_.find(ours)->microseconds;
  const double torch = timings_.find(theirs)->microseconds;
  if (engine <= kMargin * torch) return "";
  return "measured " + std::to_string(std::lround(engine)) + " us as an engine, " + std::to_string(std::lround(torch)) +
         " us in LibTorch";
} catch (const std::exception&) {
  return "";  // An operator that raises on random numbers, as a Cholesky decomposition does, cannot be measured.
}

Contest Engine::race_libtorch(const c10::IValue& segment, Executor& executor, double budget_ms) {
  c10::NoGradGuard no_grad;  // as in run(): LibTorch would keep what a gradient needs
  std::vector<at::Tensor> tensors;
  std::vector<c10::IValue> arguments;
  auto add_tensor = [&](const TensorType& type) {
    tensors.push_back(random_tensor(type));
    arguments.emplace_back(tensors.back());
  };
  state_.signatures.front().visit(add_tensor, [&](const c10::IValue& value) { arguments.push_back(value); });
  executor.run(tensors);  // What it throws, run() would replace by LibTorch.
  return contest([&] { run(segment, arguments); }, [&] { run_in_torch(segment, arguments); }, executor.plan().device,
                 budget_ms);
}

std::shared_ptr<const Engine::Entry> Engine::plan_at_call(const c10::IValue& segment, const CallSignature& signature,
                                                          const WeightMarks& marks) {
  std::lock_guard lock(plan_mutex_);
  std::shared_ptr<const Entry> entry = find(signature);
  if (entry && !entry->is_being_planned) return entry;  // another thread was first
  try {
    entry = plan(segment, signature, /*tune=*/false, {}, marks);
  } catch (const std::exception& error) {
    bool planned = entry && entry->executor;
    warn_once(state_.name +
              (planned ? " keeps the plan that was made at once for this call: "
                       : " cannot be planned for this call and runs in LibTorch: ") +
              error.what());
    // A plan that was made at once stays.
    entry = std::make_shared<const Entry>(signature, entry ? entry->executor : nullptr);
  }
  add(entry);
  return entry;
}

Precedents Engine::precedents_for(const CallSignature& signature) const {
  constexpr size_t kMost = 2;
  auto log_size = [](const CallSignature& of) {
    double sum = 0;
    for (const TensorType& type : of.tensors) sum += std::log1p(static_cast<double>(type.numel()));
    return sum;
  };
  const double own = log_size(signature);
  std::vector<std::pair<double, const Executor*>> by_distance;
  std::shared_ptr<const Table> table = table_.load();
  for (const auto& entry : *table) {
    // What runs until there is a plan is no better than what it was made from.
    if (entry->executor && !entry->is_being_planned)
      by_distance.emplace_back(std::abs(log_size(entry->signature) - own), entry->executor.get());
  }
  std::stable_sort(by_distance.begin(), by_distance.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  Precedents precedents;
  for (size_t i = 0; i < std::min(by_distance.size(), kMost); ++i) precedents.add(by_distance[i].second->plan());
  return precedents;
}

std::shared_ptr<Executor> Engine::plan_at_once(const c10::IValue& segment, const CallSignature& signature) const try {
  if (is_disabled("plan_at_once")) return nullptr;
#ifdef TORCHWELD_WITH_CUDA
  c10::cuda::CUDAStreamCaptureModeGuard beside_captures(cudaStreamCaptureModeRelaxed);
#endif
  std::vector<ImportArgument> arguments = import_arguments(segment, signature);
  auto plan = convert_at_once(script_of(segment), arguments, signature.tensors.front().device, state_.options,
                              state_.name + "_at_once", timings_, precedents_for(signature));
  return std::make_shared<Executor>(std::move(plan), state_.options.cuda_graphs);
} catch (const std::exception& error) {
  log(2, state_.name + " is not planned at once: " + error.what());
  return nullptr;
}

void Engine::plan_later(const c10::IValue& segment, const CallSignature& signature,
                        std::shared_ptr<Executor> until_then) {
  if (auto entry = announce(signature, std::move(until_then))) post_plan(segment, entry);
}

std::shared_ptr<const Engine::Entry> Engine::announce(const CallSignature& signature,
                                                      std::shared_ptr<Executor> until_then) {
  auto entry = std::make_shared<const Entry>(signature, std::move(until_then), /*is_being_planned=*/true);
  std::lock_guard lock(table_mutex_);
  if (find(signature)) return nullptr;  // another thread was first
  auto table = std::make_shared<Table>(*table_.load());
  put(*table, entry);
  table_.store(std::move(table));
  return entry;
}

void Engine::post_plan(const c10::IValue& segment, const std::shared_ptr<const Entry>& entry) {
  const CallSignature& signature = entry->signature;
  std::shared_ptr<WeightsView> view;
  try {
    view = std::make_shared<WeightsView>(segment, signature.tensors.front().device);
  } catch (...) {
    remove(entry);  // Nobody would ever plan for it.
    throw;
  }
  auto self = c10::intrusive_ptr<Engine>::unsafe_reclaim_from_nonowning(this);
  auto work = [self, view, signature, waiting = std::weak_ptr(entry)] {
    // Unless the weights have changed, and another plan of them is waiting, or nobody has asked for long.
    std::shared_ptr<const Entry> now = self->find(signature);
    if (!now || now != waiting.lock()) return;
    now.reset();  // Its memory may be wanted.
    c10::NoGradGuard no_grad;
#ifdef TORCHWELD_WITH_CUDA
    c10::cuda::CUDAStreamCaptureModeGuard beside_captures(cudaStreamCaptureModeRelaxed);
#endif
    self->plan_at_call(view->module(), signature, view->marks());
  };
  if (planner().post(work)) return;
  if (entry->executor) {
    entry->is_refused = true;
  } else {
    remove(entry);
  }
}

}  // namespace torchweld
