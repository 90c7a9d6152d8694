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

#include <set>

#include "conversion/place.h"
#include "core/ops/pointwise.h"
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

/// A graph whose kernels were "timed": two nodes of one kind, and one that takes longer than each of them alone.
class TriedInPlace : public ::testing::Test {
 protected:
  TriedInPlace() {
    options.optimization_level = 3;
    selection = select(*graph, options, /*tune=*/false, cache);
    plan = place(*graph, selection, c10::kCPU);
    std::vector<const Node*> relus;
    std::vector<const Node*> tanhs;
    for (const auto& node : graph->nodes()) (node->as<Pointwise>()->fn == "tanh" ? tanhs : relus).push_back(node.get());
    timed = {{"tanh", tanhs, {{"aten", "", 16}}}, {"relu", relus, {{"of another machine", "", 11}, {"aten", "", 12}}}};
    cache.set("tanh", {"cpu_pointwise", "", 15});
    cache.set("relu", {"cpu_pointwise", "", 10});
  }

  /// Tries, and takes the trials in `taken` (by their number) for faster.
  std::shared_ptr<Plan> try_all(std::set<size_t> taken) {
    auto is_faster = [&](const std::shared_ptr<const Plan>& now, const std::shared_ptr<const Plan>& other) {
      EXPECT_EQ(now, trials.empty() || best == nullptr ? std::shared_ptr<const Plan>(plan) : best);
      trials.push_back(tactics_of(*other));
      bool is_taken = taken.count(trials.size() - 1) > 0;
      if (is_taken) best = other;
      return is_taken;
    };
    return tried_in_place(plan, *graph, timed, selection, options, cache, {}, is_faster);
  }

  using Tactics = std::vector<std::string>;
  std::unique_ptr<Graph> graph = Graph::parse(R"(
graph(%x: f32[64,64]) {
  %a = pointwise{fn="relu"}(%x)
  %b = pointwise{fn="tanh"}(%a)
  %c = pointwise{fn="relu"}(%b)
  return %c
})");
  Options options;
  TimingCache cache;
  Selection selection;
  std::shared_ptr<Plan> plan;
  std::vector<TimedKind> timed;
  std::vector<Tactics> trials;
  std::shared_ptr<const Plan> best;
  const std::string own = "cpu_pointwise";
};

TEST_F(TriedInPlace, WhatTakesMostOfTheTimeIsTriedFirstAndWhatIsFasterStays) {
  ASSERT_EQ(tactics_of(*plan), (Tactics{own, own, own}));
  std::shared_ptr<Plan> found = try_all({0, 1});
  EXPECT_EQ(trials, (std::vector<Tactics>{{"aten", own, "aten"}, {"aten", "aten", "aten"}}));
  EXPECT_EQ(found, best);
  EXPECT_EQ(tactics_of(*place(*graph, selection, c10::kCPU)), trials.back());
  // The cache names it, with the time of what was the fastest alone.
  EXPECT_EQ(cache.find("relu"), (TimingCache::Entry{"aten", "", 10}));
  EXPECT_EQ(cache.find("tanh"), (TimingCache::Entry{"aten", "", 15}));
}

TEST_F(TriedInPlace, WhatIsNoFasterGoes) {
  EXPECT_EQ(try_all({}), plan);
  EXPECT_EQ(trials, (std::vector<Tactics>{{"aten", own, "aten"}, {own, "aten", own}}));
  EXPECT_EQ(tactics_of(*place(*graph, selection, c10::kCPU)), (Tactics{own, own, own}));
  EXPECT_EQ(cache.find("relu"), (TimingCache::Entry{own, "", 10}));
}

TEST_F(TriedInPlace, EachKindIsTakenOrNotForItself) {
  EXPECT_EQ(try_all({1}), best);
  EXPECT_EQ(trials, (std::vector<Tactics>{{"aten", own, "aten"}, {own, "aten", own}}));
  EXPECT_EQ(cache.find("relu"), (TimingCache::Entry{own, "", 10}));
  EXPECT_EQ(cache.find("tanh"), (TimingCache::Entry{"aten", "", 15}));
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
