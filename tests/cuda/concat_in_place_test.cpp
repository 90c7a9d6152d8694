// Concatenations written by their producers: what the graph and the memory plan make of them. The kernels here are
// stand-ins that run on the CPU and say that they are single launches; no GPU is needed.
#include "conversion/concat_in_place.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <regex>
#include <set>

#include "conversion/place.h"
#include "core/ops/fused.h"
#include "core/ops/shape.h"
#include "kernels/cuda/launch.h"
#include "runtime/run_context.h"

namespace torchweld::cuda_tests {
namespace {

/// Runs a node by its ATen line and writes into the outputs it is given.
class StandIn : public Kernel {
 public:
  explicit StandIn(const Node& node) : attrs_(node.attrs), output_(node.output()->type) {}
  void run(const StepArgs& args) const override {
    std::vector<at::Tensor> inputs;
    for (const at::Tensor* x : args.in) inputs.push_back(*x);
    std::vector<at::Tensor> results = attrs_.def().aten(attrs_.data(), inputs);
    EXPECT_EQ(type_of(*args.out[0]), output_);
    for (size_t i = 0; i < results.size(); ++i) args.out[i]->copy_(results[i]);
  }
  const cuda::Launch* launch() const override { return &launch_; }

 private:
  Attrs attrs_;
  TensorType output_;
  cuda::Launch launch_;
};

/// The graph of a text in which pointwise nodes go by the names of their functions.
std::unique_ptr<Graph> parse(const std::string& text) {
  static const std::regex function("= (relu|neg|exp|tanh)\\(");
  return Graph::parse(std::regex_replace(text, function, "= pointwise{fn=\"$1\"}("));
}

struct Result {
  size_t steps = 0;
  int lanes = 1;     ///< In which independent steps run, each of which takes 10 us.
  std::string text;  ///< Of the graph afterwards.
};

/// Plans `text`, whose nodes named in `fixed` take no other strides than those they have, and compares a run with the
/// graph's meaning.
Result plan_and_run(const std::string& text, const std::set<std::string>& fixed = {}) {
  auto graph = parse(text);
  std::vector<at::Tensor> inputs;
  for (const auto& input : graph->inputs()) {
    at::Tensor x = empty_tensor(input->type);
    inputs.push_back(x.copy_(at::randn(input->type.shape)));
  }
  std::vector<at::Tensor> expected = run_aten(*graph, inputs);
  Selection selection;
  for (const auto& node : graph->nodes()) {
    int64_t offset = 0;
    if (!is_free_view(*node, &offset)) selection[node.get()] = {std::make_shared<StandIn>(*node), "stand_in", "", 10};
  }
  write_concats_in_place(*graph, selection, [&](const Node& node) -> std::optional<Choice> {
    if (fixed.count(node.op())) return std::nullopt;
    return Choice{std::make_shared<StandIn>(node), "stand_in", "", 10};
  });
  graph->verify();
  auto plan = place(*graph, selection, c10::kCPU);
  auto in_lanes = with_parallel_branches(*plan);
  for (const auto& way : {plan, in_lanes ? in_lanes : plan}) {
    RunContext context(way);
    for (int run = 0; run < 2; ++run) {
      std::vector<at::Tensor> outputs = context.run_steps(inputs, nullptr);
      EXPECT_EQ(outputs.size(), expected.size());
      for (size_t i = 0; i < outputs.size(); ++i) EXPECT_TRUE(at::equal(outputs[i], expected[i])) << text << i;
    }
  }
  return {plan->steps.size(), in_lanes ? in_lanes->lanes : 1, graph->text()};
}

TEST(ConcatInPlace, InputsAreWrittenIntoTheResult) {
  for (const char* axis : {"0", "1", "2", "3"}) {
    std::string shape = axis == std::string("1") ? "f32[2,5,4,6]{120,1,30,5}" : "f32[2,3,4,6]{72,1,18,3}";
    Result result =
        plan_and_run("graph(%x: f32[2,3,4,6]{72,1,18,3}, %y: " + shape + ") {\n  %a = relu(%x)\n  %b = neg(%y)\n" +
                     "  %c = concat{axis=" + axis + "}(%a, %b)\n  %d = relu(%c)\n  return %d\n}");
    EXPECT_EQ(result.steps, 3u) << axis;
    EXPECT_EQ(result.lanes, 2) << axis;
  }
}

TEST(ConcatInPlace, TheResultMayBeAnOutput) {
  Result result = plan_and_run(
      "graph(%x: f32[2,3,4]) {\n  %a = relu(%x)\n  %b = neg(%x)\n  %c = concat{axis=1}(%a, %b)\n  return %c, %c\n}");
  EXPECT_EQ(result.steps, 2u);
}

TEST(ConcatInPlace, OneInsideTheOther) {
  Result result = plan_and_run(
      "graph(%x: f32[2,3,4]) {\n  %a = relu(%x)\n  %b = neg(%x)\n  %c = concat{axis=1}(%a, %b)\n  %d = exp(%x)\n"
      "  %e = concat{axis=1}(%d, %c)\n  %f = tanh(%e)\n  %g = concat{axis=2}(%f, %e)\n  return %g\n}");
  EXPECT_EQ(result.steps, 4u);
  EXPECT_EQ(result.lanes, 3);
}

TEST(ConcatInPlace, OthersMayReadAnInput) {
  Result result = plan_and_run(
      "graph(%x: f32[2,3,4]) {\n  %a = relu(%x)\n  %b = neg(%a)\n  %c = concat{axis=1}(%a, %b)\n  %d = tanh(%a)\n"
      "  return %c, %d\n}");
  EXPECT_EQ(result.steps, 3u);
  EXPECT_EQ(result.lanes, 2);
}

TEST(ConcatInPlace, AnInputHasOnePlace) {
  // Twice in one concatenation; in two of them, of which the first gets it.
  EXPECT_EQ(plan_and_run("graph(%x: f32[2,3]) {\n  %a = relu(%x)\n  %c = concat{axis=1}(%a, %a)\n  return %c\n}").steps,
            2u);
  Result two = plan_and_run(
      "graph(%x: f32[2,3]) {\n  %a = relu(%x)\n  %b = neg(%x)\n  %c = concat{axis=1}(%a, %b)\n"
      "  %d = concat{axis=1}(%b, %a)\n  return %c, %d\n}");
  EXPECT_EQ(two.steps, 3u);
}

TEST(ConcatInPlace, WhatIsTheCallersKeepsItsMemory) {
  EXPECT_EQ(plan_and_run("graph(%x: f32[2,3], %y: f32[2,3]) {\n  %a = relu(%x)\n  %c = concat{axis=1}(%a, %y)\n"
                         "  return %c\n}")
                .steps,
            2u);
  EXPECT_EQ(plan_and_run("graph(%x: f32[2,3]) {\n  %a = relu(%x)\n  %b = neg(%x)\n  %c = concat{axis=1}(%a, %b)\n"
                         "  return %c, %a\n}")
                .steps,
            3u);
  EXPECT_EQ(plan_and_run("graph(%x: f32[2,3]) {\n  %a = relu(%x)\n  %v = reshape{shape=[6]}(%a)\n  %b = neg(%x)\n"
                         "  %c = concat{axis=1}(%a, %b)\n  return %c, %v\n}")
                .steps,
            3u);
}

TEST(ConcatInPlace, AKernelThatNeedsItsStridesKeepsEverythingAsItWas) {
  std::string text =
      "graph(%x: f32[2,3,4]) {\n  %a = relu(%x)\n  %b = softmax{axis=1}(%x)\n"
      "  %c = concat{axis=1}(%a, %b)\n  %d = concat{axis=2}(%c, %c)\n  return %d\n}";
  Result result = plan_and_run(text, {"softmax"});
  EXPECT_EQ(result.steps, 4u);
  EXPECT_EQ(result.text, parse(text)->text());
}

TEST(ConcatInPlace, FusedBodiesSayTheNewStrides) {
  Result result = plan_and_run(
      "graph(%x: f32[2,3]) {\n  %a = fused{body=graph(%y: f32[2,3]) {\n    %z = relu(%y)\n    return %z\n  }}(%x)\n"
      "  %b = fused{body=graph(%y: f32[2,3]) {\n    %z = neg(%y)\n    return %z\n  }}(%a)\n"
      "  %c = concat{axis=1}(%a, %b)\n  return %c\n}");
  EXPECT_EQ(result.steps, 2u);
  EXPECT_NE(result.text.find("graph(%x0: f32[2,3]{6,1})"), std::string::npos) << result.text;
}

}  // namespace
}  // namespace torchweld::cuda_tests
