// How long a kernel takes on its device.
#pragma once

#include <functional>
#include <limits>

#include "core/graph.h"
#include "kernels/kernel.h"

namespace torchweld {

/// Tensors to run a node's kernel on: constants as they are, random floats in [-1, 1), zeros for other dtypes.
struct Workbench {
  std::vector<at::Tensor> inputs;
  std::vector<at::Tensor> outputs;
  explicit Workbench(const Node& node);
};

/// A tensor of this type: random floats in [-1, 1), zeros of other dtypes.
at::Tensor random_tensor(const TensorType& type);

/// Median time of one run in microseconds, over about `budget_ms` of runs after a warm-up. On CUDA kernels that can be
/// recorded are timed as a CUDA graph of several runs in a row, so that launching does not hide the kernel's own time.
/// There, a kernel that takes more than 100 us and more than `hopeless` microseconds twice does not run again.
/// Throws what the kernel throws.
double measure(const Kernel& kernel, Workbench& bench, c10::Device device, double budget_ms,
               double hopeless = std::numeric_limits<double>::infinity());

/// Median times in microseconds of two ways to do the same, host time included, run by turns so that both see the same
/// machine.
struct Contest {
  double first = 0;
  double second = 0;
};
Contest contest(const std::function<void()>& first, const std::function<void()>& second, c10::Device device,
                double budget_ms);

}  // namespace torchweld
