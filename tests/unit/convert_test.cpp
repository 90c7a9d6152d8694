// Kernels tried in the whole plan.
#include "conversion/convert.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/irparser.h>

#include "core/types.h"
#include "runtime/executor.h"

namespace torchweld {
namespace {

constexpr const char* kConvolutions = R"(
graph(%self : NoneType, %x : Tensor, %a : Tensor, %b : Tensor):
  %one : int = prim::Constant[value=1]()
  %none : NoneType = prim::Constant()
  %ones : int[] = prim::ListConstruct(%one, %one)
  %y : Tensor = aten::conv2d(%x, %a, %none, %ones, %ones, %ones, %one)
  %z : Tensor = aten::relu(%y)
  %w : Tensor = aten::conv2d(%z, %b, %none, %ones, %ones, %ones, %one)
  return (%w))";

/// Tactics and configurations of a plan's steps.
std::vector<std::string> tactics_of(const Plan& plan) {
  std::vector<std::string> tactics;
  for (const Step& step : plan.steps) tactics.push_back(step.tactic);
  return tactics;
}

TEST(Convert, WhatIsFasterInTheWholePlanStays) {
  torch::jit::Graph graph;
  torch::jit::parseIR(kConvolutions, &graph);
  Dims filter = {24, 24, 3, 3};
  std::vector<ImportArgument> arguments{c10::IValue(), contiguous_type(c10::kFloat, {1, 24, 31, 33}, c10::kCPU),
                                        contiguous_type(c10::kFloat, filter, c10::kCPU),
                                        contiguous_type(c10::kFloat, filter, c10::kCPU)};
  Options options;
  options.optimization_level = 2;
  TimingCache cache;
  std::shared_ptr<const Plan> last;
  // Every trial "is faster": the last one stays.
  auto is_faster = [&](const std::shared_ptr<const Plan>& plan, const std::shared_ptr<const Plan>& other) {
    EXPECT_TRUE(!last || plan == last);
    EXPECT_NE(tactics_of(*plan), tactics_of(*other));
    last = other;
    return true;
  };
  std::shared_ptr<Plan> plan = convert(graph, arguments, c10::kCPU, options, "net", true, cache, {}, is_faster);
  if (!last) GTEST_SKIP() << "nothing was nearly as fast as the fastest";
  EXPECT_EQ(plan, last);
  // A plan made from the cache later is the same.
  std::shared_ptr<Plan> again = convert(graph, arguments, c10::kCPU, options, "net", false, cache);
  EXPECT_EQ(tactics_of(*again), tactics_of(*plan));
}

TEST(Convert, WhatIsNoFasterInTheWholePlanGoes) {
  torch::jit::Graph graph;
  torch::jit::parseIR(kConvolutions, &graph);
  Dims filter = {16, 24, 3, 3};
  std::vector<ImportArgument> arguments{c10::IValue(), contiguous_type(c10::kFloat, {1, 24, 17, 19}, c10::kCPU),
                                        contiguous_type(c10::kFloat, {24, 24, 3, 3}, c10::kCPU),
                                        contiguous_type(c10::kFloat, filter, c10::kCPU)};
  TimingCache cache;
  std::vector<std::string> first;
  auto is_faster = [&](const std::shared_ptr<const Plan>& plan, const std::shared_ptr<const Plan>&) {
    if (first.empty()) first = tactics_of(*plan);
    EXPECT_EQ(tactics_of(*plan), first);
    return false;
  };
  std::shared_ptr<Plan> plan = convert(graph, arguments, c10::kCPU, {}, "net", true, cache, {}, is_faster);
  if (!first.empty()) EXPECT_EQ(tactics_of(*plan), first);
}

/// The module's result for a batch of ones, by a plan made as for a call that waits.
at::Tensor run_at_once(const torch::jit::Module& module, int64_t batch) {
  auto graph = module.get_method("forward").graph()->copy();
  TensorType type = contiguous_type(c10::kFloat, {batch, 3, 6, 6}, c10::kCPU);
  std::vector<ImportArgument> arguments{module._ivalue(), type};
  Executor executor(convert_at_once(*graph, arguments, c10::kCPU, {}, "net", {}), /*cuda_graphs=*/false);
  return executor.run({at::ones(type.shape)})[0];
}

TEST(ConvertAtOnce, SeesWeightsAsTheyAre) {
  c10::NoGradGuard no_grad;
  torch::jit::Module module("net");
  module.register_parameter("filter", at::ones({4, 3, 3, 3}), false);
  for (const char* name : {"scale", "var"}) module.register_parameter(name, at::ones({4}), false);
  for (const char* name : {"shift", "mean"}) module.register_parameter(name, at::zeros({4}), false);
  module.define(R"(
def forward(self, x):
    y = torch.conv2d(x, self.filter)
    return torch.batch_norm(y, self.scale, self.shift, self.mean, self.var, False, 0.1, 0.0, False)
)");
  auto expect_right = [&](int64_t batch) {
    at::Tensor wanted = module.forward({at::ones({batch, 3, 6, 6})}).toTensor();
    EXPECT_TRUE(at::allclose(run_at_once(module, batch), wanted)) << batch;
  };
  // A norm that only adds leaves the filter as it is; this is known of later shapes without a look.
  expect_right(1);
  expect_right(2);
  module.attr("scale").toTensor().mul_(3);
  expect_right(3);
  module.attr("filter").toTensor().add_(1);
  expect_right(4);
  module.setattr("scale", at::full({4}, 5.0));
  expect_right(5);
  module.attr("scale").toTensor().set_data(at::full({4}, 7.0));
  expect_right(6);
}

}  // namespace
}  // namespace torchweld
