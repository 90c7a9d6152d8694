#include "conversion/measure.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <chrono>

#include "conversion/device.h"
#include "core/ops/constant.h"

#ifdef TORCHWELD_WITH_CUDA
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
/// As many runs as take about so long, so that recording and launching a graph counts for little.
constexpr double kGraphMicroseconds = 1000;
constexpr double kMostRunsPerGraph = 16;
/// From here on launching is a small part of a single run.
constexpr double kLongRun = 100;

double measure_cuda(const std::function<void(void*)>& run, bool capturable, c10::Device device, double budget_ms,
                    double hopeless) {
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
  auto run_once = [&] { return timed([&] { run(stream.stream()); }, 1); };
  double single = run_once();
  const double longest = std::max(hopeless, kLongRun);
  if (single > longest) single = std::min(single, run_once());  // Something may have come in between.
  if (single > longest) return single;
  int runs = static_cast<int>(std::clamp(kGraphMicroseconds / single, 1.0, kMostRunsPerGraph));
  auto run_all = [&] {
    for (int i = 0; i < runs; ++i) run(stream.stream());
  };
  if (!capturable) return sample([&] { return timed(run_all, runs); }, budget_ms);
  at::cuda::CUDAGraph graph;
  graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
  try {
    run_all();
  } catch (...) {
    cuda::end_failed_capture(graph);
    throw;
  }
  graph.capture_end();
  graph.replay();
  return sample([&] { return timed([&] { graph.replay(); }, runs); }, budget_ms);
}
#endif

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
  // Numbers of operands are computed on the current stream; kernels are measured on another.
  wait_for_current_stream(node.output()->type.device);
}

double measure(const Kernel& kernel, Workbench& bench, c10::Device device, double budget_ms,
               [[maybe_unused]] double hopeless) {
  std::vector<const at::Tensor*> in;
  std::vector<at::Tensor*> out;
  for (const at::Tensor& t : bench.inputs) in.push_back(&t);
  for (at::Tensor& t : bench.outputs) out.push_back(&t);
  at::Tensor workspace = at::empty({kernel.workspace_bytes()}, at::TensorOptions(c10::kByte).device(device));
  auto run = [&](void* stream) {
    kernel.run({.in = in, .out = out, .workspace = workspace.mutable_data_ptr(), .stream = stream});
  };
#ifdef TORCHWELD_WITH_CUDA
  if (device.is_cuda()) return measure_cuda(run, kernel.capturable(), device, budget_ms, hopeless);
#endif
  for (int i = 0; i < 2; ++i) run(nullptr);
  auto once = [&] {
    double begin = now_us();
    run(nullptr);
    return now_us() - begin;
  };
  return sample(once, budget_ms);
}

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
