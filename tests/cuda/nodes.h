// Nodes for tests of CUDA kernels: representative ones, with the layouts and fused bodies that passes make.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/graph.h"

namespace torchweld::cuda_tests {

inline const c10::Device kDevice(c10::kCUDA, 0);

/// A graph whose last node is to be run; every graph input is a tensor that the caller gives.
struct Case {
  std::string name;
  std::unique_ptr<Graph> graph;
  const Node& node() const { return *graph->nodes().back(); }
};

/// Cases for one floating dtype on `device`. Constants (weights) lie in host memory as long as `device` is no CUDA
/// device of this machine.
std::vector<Case> cases(c10::ScalarType dtype, c10::Device device, bool constants_on_device);

/// Fused nodes that together hold every pointwise function that takes operands of `dtype`, each giving one output.
/// Operands are tensors, or 0.5 and 1.5 (1 and 3) where LibTorch takes only numbers.
std::vector<Case> all_pointwise(c10::ScalarType dtype, c10::Device device);

/// The same nodes for every batch size.
std::vector<Case> cases_of_batch(c10::ScalarType dtype, c10::Device device, int64_t batch);
/// Nodes whose result lies in memory of `more` further channels.
std::vector<Case> sliced_results(c10::ScalarType dtype, c10::Device device, bool constants_on_device, int64_t more);
/// Nodes through which NaN and infinities of the first dimension's elements ("samples") 1 to 5 must pass.
std::vector<Case> cases_for_specials(c10::ScalarType dtype, c10::Device device);

}  // namespace torchweld::cuda_tests
