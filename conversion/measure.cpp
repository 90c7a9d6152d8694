#include "conversion/measure.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "core/error.h"
#include "core/ops/constant.h"

#ifdef TORCHWELD_WITH_CUDA
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/cuda/launch.h"
#endif

namespace torchweld {
namespace {

double median(std::vector<double>& samples) {
  std::nth_element(samples.begin(), samples.begin() + samples.size() / 2, samples.end());
  return samples[samples.size() / 2];
}

double now_us() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Calls `once` (which returns its own time in microseconds) until the budget is spent; at least 5 times.
template <class F>
double sample(F once, double budget_ms) {
  std::vector<double> samples;
  double spent = 0;
  while (samples.size() < 5 || (spent < budget_ms * 1000 && samples.size() < 1000)) {
    double begin = now_us();
    samples.push_back(once());
    spent += now_us() - begin;
    if (spent > 20 * budget_ms * 1000) break;  // one run alone is far over the budget
  }
  return median(samples);
}

#ifdef TORCHWELD_WITH_CUDA
constexpr int kRunsPerGraph = 16;

/// Records what `body` enqueues on the current stream.
template <class F>
void record_graph(at::cuda::CUDAGraph& graph, F body) {
  graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
  try {
    body();
  } catch (...) {
    cuda::end_failed_capture(graph);
    throw;
  }
  graph.capture_end();
}

double measure_cuda(const std::function<void(void*)>& run, bool capturable, c10::Device device, double budget_ms) {
  c10::cuda::CUDAGuard guard(device);
  c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool(false, device.index());
  c10::cuda::CUDAStreamGuard on_stream(stream);
  run(stream.stream());
  stream.synchronize();
  at::cuda::CUDAEvent begin(cudaEventDefault);
  at::cuda::CUDAEvent end(cudaEventDefault);
  auto timed = [&](auto body, int runs) {
    begin.record(stream);
    body();
    end.record(stream);
    end.synchronize();
    return begin.elapsed_time(end) * 1000.0 / runs;
  };
  if (!capturable) {
    return sample(
        [&] {
          return timed(
              [&] {
                for (int i = 0; i < kRunsPerGraph; ++i) run(stream.stream());
              },
              kRunsPerGraph);
        },
        budget_ms);
  }
  at::cuda::CUDAGraph graph;
  record_graph(graph, [&] {
    for (int i = 0; i < kRunsPerGraph; ++i) run(stream.stream());
  });
  graph.replay();
  return sample([&] { return timed([&] { graph.replay(); }, kRunsPerGraph); }, budget_ms);
}
#endif

/// A kernel with its operands and memory of at least its workspace's size.
class PreparedRun {
 public:
  PreparedRun(const Kernel& kernel, Workbench& bench, at::Tensor workspace)
      : kernel_(kernel), workspace_(std::move(workspace)) {
    for (const at::Tensor& t : bench.inputs) in_.push_back(&t);
    for (at::Tensor& t : bench.outputs) out_.push_back(&t);
  }
  void operator()(void* stream) const {
    kernel_.run({.in = in_, .out = out_, .workspace = workspace_.mutable_data_ptr(), .stream = stream});
  }

 private:
  const Kernel& kernel_;
  std::vector<const at::Tensor*> in_;
  std::vector<at::Tensor*> out_;
  at::Tensor workspace_;
};

}  // namespace

at::Tensor random_tensor(const TensorType& type) {
  // Elements of an expanded tensor share memory, which must not be written through them.
  int64_t count = type.storage_bytes() / static_cast<int64_t>(c10::elementSize(type.dtype));
  at::Tensor memory = at::empty({count}, at::TensorOptions(type.dtype).device(type.device));
  if (type.is_floating()) {
    memory.uniform_(-1, 1);
  } else {
    memory.zero_();
  }
  return memory.as_strided(type.shape, type.strides);
}

Workbench::Workbench(const Node& node) {
  for (const Value* input : node.inputs()) {
    const at::Tensor* constant = constant_of(input);
    inputs.push_back(constant ? *constant : random_tensor(input->type));
  }
  for (const auto& output : node.outputs()) outputs.push_back(empty_tensor(output->type));
}

std::unique_ptr<Graph> with_other_weights(const Node& node) {
  constexpr int64_t kFewNumbers = 16;
  auto graph = std::make_unique<Graph>();
  std::map<const Value*, Value*> copies;
  std::vector<Value*> inputs;
  for (const Value* input : node.inputs()) {
    Value*& copy = copies[input];
    if (!copy) {
      auto* constant = input->from<Constant>();
      bool is_weight = constant && constant->value.is_floating_point() && constant->value.numel() > kFewNumbers;
      copy = !constant   ? graph->add_input(input->type)
             : is_weight ? graph->add(Constant{random_tensor(type_of(constant->value)), constant->name}, {})
                         : graph->add(*constant, {});
      copy->type = input->type;
    }
    inputs.push_back(copy);
  }
  const Node* copy = graph->add_node(node.attrs, inputs);
  for (size_t i = 0; i < node.outputs().size(); ++i) copy->output(i)->type = node.output(i)->type;
  return graph;
}

void Workbench::take_constants(const Node& node) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (const at::Tensor* constant = constant_of(node.input(i))) inputs[i] = *constant;
  }
}

double measure(const Kernel& kernel, Workbench& bench, c10::Device device, double budget_ms) {
  PreparedRun run(kernel, bench, at::empty({kernel.workspace_bytes()}, at::TensorOptions(c10::kByte).device(device)));
#ifdef TORCHWELD_WITH_CUDA
  if (device.is_cuda()) return measure_cuda(run, kernel.capturable(), device, budget_ms);
#endif
  for (int i = 0; i < 2; ++i) run(nullptr);
  auto once = [&] {
    double begin = now_us();
    run(nullptr);
    return now_us() - begin;
  };
  return sample(once, budget_ms);
}

#ifdef TORCHWELD_WITH_CUDA
at::Tensor twice_the_cache(c10::Device device) {
  int64_t bytes = 2 * int64_t{at::cuda::getDeviceProperties(device.index())->l2CacheSize};
  return at::zeros({bytes / static_cast<int64_t>(sizeof(float))}, at::TensorOptions(c10::kFloat).device(device));
}

double measure_cold(const std::vector<WeightedRun>& runs, const at::Tensor& sweep, double budget_ms) {
  // The first run brings code and activations to the cache; the second stands behind one that took longer for that.
  constexpr size_t kSubtracted = 2;
  constexpr int kFewestRounds = 8;
  constexpr int kMostRounds = 50;
  check(runs.size() > kSubtracted, "nothing is left to be timed");
  int64_t workspace_bytes = 0;
  for (const WeightedRun& run : runs) {
    expect(run.kernel->capturable(), "a kernel that needs the host is not timed with cold weights");
    workspace_bytes = std::max(workspace_bytes, run.kernel->workspace_bytes());
  }
  at::Tensor workspace = at::empty({workspace_bytes}, sweep.options().dtype(c10::kByte));
  std::vector<PreparedRun> prepared;
  for (const WeightedRun& run : runs) prepared.emplace_back(*run.kernel, *run.bench, workspace);
  at::Tensor sum = at::empty({}, sweep.options());
  c10::cuda::CUDAGuard guard(sweep.device());
  c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool(false, sweep.get_device());
  c10::cuda::CUDAStreamGuard on_stream(stream);
  auto sweep_and_run = [&](size_t count) {
    at::sum_out(sum, sweep, c10::IntArrayRef{0});
    for (size_t i = 0; i < count; ++i) prepared[i](stream.stream());
  };
  auto milliseconds = [&](auto body) {
    at::cuda::CUDAEvent begin(cudaEventDefault);
    at::cuda::CUDAEvent end(cudaEventDefault);
    begin.record(stream);
    body();
    end.record(stream);
    end.synchronize();
    return static_cast<double>(begin.elapsed_time(end));
  };
  sweep_and_run(runs.size());
  // The device's clock for events ticks twice a microsecond.
  constexpr double kLongEnough = 0.5;
  int sweeps = milliseconds([&] { sweep_and_run(runs.size()); }) < kLongEnough ? 4 : 1;
  at::cuda::CUDAGraph subtracted;
  at::cuda::CUDAGraph all;
  record_graph(subtracted, [&] {
    for (int i = 0; i < sweeps; ++i) sweep_and_run(kSubtracted);
  });
  record_graph(all, [&] {
    for (int i = 0; i < sweeps; ++i) sweep_and_run(runs.size());
  });
  auto pair = [&] {
    subtracted.replay();
    all.replay();
  };
  pair();
  int rounds = static_cast<int>(std::clamp<double>(budget_ms / milliseconds(pair), kFewestRounds, kMostRounds));
  // All rounds are enqueued at once, so that the device never waits for the host.
  std::vector<at::cuda::CUDAEvent> events;
  for (int i = 0; i <= 2 * rounds; ++i) events.emplace_back(cudaEventDefault);
  events[0].record(stream);
  for (int i = 0; i < rounds; ++i) {
    subtracted.replay();
    events[2 * i + 1].record(stream);
    all.replay();
    events[2 * i + 2].record(stream);
  }
  events.back().synchronize();
  std::vector<double> differences;
  for (int i = 0; i < rounds; ++i) {
    differences.push_back(events[2 * i + 1].elapsed_time(events[2 * i + 2]) -
                          events[2 * i].elapsed_time(events[2 * i + 1]));
  }
  constexpr double kLeast = 0.01;  // A time of 0 would mean that none was taken.
  double each = median(differences) * 1000 / (sweeps * static_cast<double>(runs.size() - kSubtracted));
  return std::max(each, kLeast);
}
#endif

Contest contest(const std::function<void()>& first, const std::function<void()>& second, c10::Device device,
                double budget_ms) {
  constexpr int kWarmUps = 3;
  constexpr size_t kFewestRounds = 7;
  auto once = [&](const std::function<void()>& run) {
    double begin = now_us();
    run();
    if (!device.is_cpu()) c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
    return now_us() - begin;
  };
  for (int i = 0; i < kWarmUps; ++i) {
    once(first);
    once(second);
  }
  std::vector<double> firsts;
  std::vector<double> seconds;
  double end = now_us() + budget_ms * 1000;
  while (firsts.size() < kFewestRounds || (now_us() < end && firsts.size() < 1000)) {
    firsts.push_back(once(first));
    seconds.push_back(once(second));
  }
  return {median(firsts), median(seconds)};
}

}  // namespace torchweld
