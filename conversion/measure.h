// How long a kernel takes on its device.
#pragma once

#include <functional>

#include "core/graph.h"
#include "kernels/kernel.h"

namespace torchweld {

/// Tensors to run a node's kernel on: constants as they are, random floats in [-1, 1), zeros for other dtypes.
struct Workbench {
  std::vector<at::Tensor> inputs;
  std::vector<at::Tensor> outputs;
  explicit Workbench(const Node& node);
  /// The constants of a node with the same inputs in place of this one's.
  void take_constants(const Node& node);
};

/// The node alone in a graph, on inputs of the same types and with other weights: constants of floating point with more
/// than a few numbers are random ones, all others are shared.
std::unique_ptr<Graph> with_other_weights(const Node& node);

/// A tensor of this type: random floats in [-1, 1), zeros of other dtypes.
at::Tensor random_tensor(const TensorType& type);

/// Median time of one run in microseconds, over about `budget_ms` of runs after a warm-up. On CUDA kernels that can be
/// recorded are timed as a CUDA graph of several runs in a row, so that launching does not hide the kernel's own time.
/// Throws what the kernel throws.
double measure(const Kernel& kernel, Workbench& bench, c10::Device device, double budget_ms);

/// One of several runs that differ in nothing but their weights.
struct WeightedRun {
  std::shared_ptr<const Kernel> kernel;
  Workbench* bench = nullptr;
};
/// Of how many runs `measure_cold` takes a time.
constexpr size_t kColdRuns = 6;
/// Memory of twice a CUDA device's L2 cache: who reads all of it leaves nothing else there.
at::Tensor twice_the_cache(c10::Device device);
/// The time of one run in microseconds where weights come from the device's memory and all else is in its L2 cache, as
/// in a plan with more weights than the cache holds. `runs` (kColdRuns) stand one behind the other in a CUDA graph,
/// behind a read of `sweep`; the first ones, which find nothing in the cache, are subtracted. Throws what the kernels
/// throw, and Unsupported when one of them cannot be recorded.
double measure_cold(const std::vector<WeightedRun>& runs, const at::Tensor& sweep, double budget_ms);

/// Median times in microseconds of two ways to do the same, host time included, run by turns so that both see the same
/// machine.
struct Contest {
  double first = 0;
  double second = 0;
};
Contest contest(const std::function<void()>& first, const std::function<void()>& second, c10::Device device,
                double budget_ms);

}  // namespace torchweld
