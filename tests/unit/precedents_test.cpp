// What plans for other shapes chose is chosen again.
#include "conversion/precedents.h"

#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include "conversion/place.h"
#include "conversion/select.h"
#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"

namespace torchweld {
namespace {

TensorType rows_of(int64_t rows) { return contiguous_type(c10::kFloat, {rows, 8}, c10::kCPU); }

/// x + weight, where the weight has this origin.
std::unique_ptr<Graph> sum_graph(int64_t rows, const std::string& function, const std::string& origin) {
  auto graph = std::make_unique<Graph>();
  Value* x = graph->add_input(rows_of(rows));
  Value* weight = graph->add(Constant{.value = LazyTensor(at::ones({8}), origin), .name = ""}, {});
  graph->add_output(graph->add(Pointwise{.fn = function}, {x, weight}));
  return graph;
}

size_t likeness_of_sum(int64_t rows, const std::string& function, const std::string& origin) {
  return likeness_of(*sum_graph(rows, function, origin)->nodes().back());
}

TEST(Precedents, LikenessIsThatOfALayerWhateverItsSizes) {
  EXPECT_EQ(likeness_of_sum(1, "add", "weight 1"), likeness_of_sum(5, "add", "weight 1"));
  EXPECT_EQ(likeness_of_sum(1, "add", ""), likeness_of_sum(5, "add", ""));
  EXPECT_NE(likeness_of_sum(1, "add", "weight 1"), likeness_of_sum(1, "add", "weight 2"));
  EXPECT_NE(likeness_of_sum(1, "add", "weight 1"), likeness_of_sum(1, "mul", "weight 1"));
}

/// The tactic that a call which waits gets for the last node of a graph.
std::string chosen_at_once(std::unique_ptr<Graph> graph, const Precedents& precedents) {
  Selection selection = select_compiled(*graph, {}, {}, precedents);
  return selection.at(graph->nodes().back().get()).tactic;
}

/// A graph's plan with another tactic for its last node.
std::shared_ptr<Plan> plan_by(Graph& graph, const std::string& tactic) {
  Selection selection = select_compiled(graph, {}, {});
  Node* node = graph.nodes().back().get();
  EXPECT_NE(selection.at(node).tactic, tactic);
  EXPECT_TRUE(replace_choices({.key = "", .nodes = {node}, .runners_up = {}}, {tactic, "", 1}, {}, selection));
  return place(graph, selection, c10::kCPU);
}

/// A linear layer whose weight has this origin.
std::unique_ptr<Graph> linear_graph(int64_t rows, const std::string& origin) {
  auto graph = std::make_unique<Graph>();
  Value* x = graph->add_input(contiguous_type(c10::kFloat, {rows, 64}, c10::kCPU));
  Value* weight = graph->add(Constant{.value = LazyTensor(at::ones({64, 64}), origin), .name = ""}, {});
  graph->add_output(graph->add(Linear{}, {x, weight}));
  return graph;
}

TEST(Precedents, WhatAPlanChoseIsChosenAtAnotherSize) {
  auto graph = linear_graph(16, "weight 1");
  const std::string other =
      chosen_at_once(linear_graph(16, "weight 1"), {}) == "cpu_linear" ? "onednn_linear" : "cpu_linear";
  Precedents precedents;
  EXPECT_EQ(precedents.find(*graph->nodes().back()), nullptr);
  precedents.add(*plan_by(*graph, other));
  ASSERT_NE(precedents.find(*graph->nodes().back()), nullptr);
  EXPECT_EQ(chosen_at_once(linear_graph(48, "weight 1"), precedents), other);
  EXPECT_NE(chosen_at_once(linear_graph(48, "weight 2"), precedents), other);
}

TEST(Precedents, LibTorchsChoicesAreNone) {
  auto graph = sum_graph(1, "add", "weight 1");
  Precedents precedents;
  precedents.add(*plan_by(*graph, "aten"));
  EXPECT_EQ(precedents.find(*graph->nodes().back()), nullptr);
  EXPECT_EQ(chosen_at_once(sum_graph(3, "add", "weight 1"), precedents), "cpu_pointwise");
}

TEST(Precedents, WhatIsNotOnOfferIsNoPrecedent) {
  auto graph = sum_graph(1, "add", "weight 1");
  std::shared_ptr<Plan> plan = place(*graph, select_compiled(*graph, {}, {}), c10::kCPU);
  for (const char* tactic : {"cpu_pointwise of another version", "no_such_tactic"}) {
    plan->steps.front().tactic = tactic;
    Precedents precedents;
    precedents.add(*plan);
    EXPECT_EQ(chosen_at_once(sum_graph(3, "add", "weight 1"), precedents), "cpu_pointwise");
  }
}

/// `layers` products that our own kernels take, and one that only LibTorch does.
std::unique_ptr<Graph> products(int layers) {
  auto graph = std::make_unique<Graph>();
  Value* x = graph->add_input(contiguous_type(c10::kFloat, {64, 64}, c10::kCPU));
  Value* y = graph->add_input(contiguous_type(c10::kFloat, {64, 64}, c10::kCPU));
  Value* weight = graph->add(Constant{.value = at::ones({64, 64}), .name = ""}, {});
  for (int i = 0; i < layers; ++i) x = graph->add(Linear{}, {x, weight});
  graph->add_output(graph->add(Matmul{}, {x, y}));
  return graph;
}

TEST(Precedents, LibTorchMayRunALittleThatIsHeavy) {
  auto few = products(2);
  EXPECT_THROW(select_compiled(*few, {}, {}), Unsupported);
  auto many = products(3);
  Selection selection = select_compiled(*many, {}, {});
  EXPECT_EQ(selection.size(), 4u);
  EXPECT_EQ(selection.at(many->nodes().back().get()).tactic, "aten");
}

}  // namespace
}  // namespace torchweld
