// Timing two ways side by side, and what is timed.
#include "conversion/measure.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "conversion/traffic.h"
#include "core/ops/constant.h"
#include "core/ops/index.h"
#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

TEST(Contest, TellsTheSlowerWay) {
  int firsts = 0;
  int seconds = 0;
  auto wait = [](int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); };
  auto first = [&] {
    ++firsts;
    wait(6);
  };
  auto second = [&] {
    ++seconds;
    wait(1);
  };
  Contest times = contest(first, second, c10::kCPU, /*budget_ms=*/1);
  EXPECT_GT(times.first, times.second);
  EXPECT_GE(times.first, 6000);
  EXPECT_EQ(firsts, seconds);
}

TEST(RandomTensor, FillsExpandedAndPaddedTypes) {
  at::Tensor expanded = torchweld::random_tensor({.dtype = c10::kFloat, .shape = {2, 3, 4}, .strides = {4, 0, 1}});
  EXPECT_TRUE(expanded.strides() == (c10::IntArrayRef{4, 0, 1}));
  EXPECT_TRUE(expanded.select(1, 0).equal(expanded.select(1, 2)));
  EXPECT_GT(expanded.std().item<float>(), 0.1F);
  at::Tensor padded = torchweld::random_tensor({.dtype = c10::kLong, .shape = {3, 5}, .strides = {8, 1}});
  EXPECT_TRUE(padded.equal(at::zeros({3, 5}, c10::kLong)));
}

/// A linear layer of 5 x 4 weights with its bias.
std::unique_ptr<Graph> linear_layer(Node** node) {
  auto graph = std::make_unique<Graph>();
  Value* x = graph->add_input(contiguous_type(c10::kFloat, {3, 4}, c10::kCPU));
  Value* weight = graph->add(Constant{at::ones({5, 4}), "weight"}, {});
  Value* bias = graph->add(Constant{at::ones({5}), "bias"}, {});
  *node = graph->add_node(Linear{}, {x, weight, bias});
  return graph;
}

TEST(OtherWeights, AreOtherNumbersOfTheSameTypes) {
  Node* node = nullptr;
  auto graph = linear_layer(&node);
  node->output()->type.strides = {1, 3};
  auto first = with_other_weights(*node);
  auto second = with_other_weights(*node);
  first->verify();
  const Node& copy = *first->nodes().back();
  EXPECT_TRUE(copy.attrs == node->attrs);
  EXPECT_EQ(copy.input_types(), node->input_types());
  EXPECT_EQ(copy.output()->type, node->output()->type);
  EXPECT_EQ(constant_of(copy.input(0)), nullptr);
  const at::Tensor& weight = *constant_of(copy.input(1));
  EXPECT_FALSE(weight.equal(*constant_of(node->input(1))));
  EXPECT_FALSE(weight.equal(*constant_of(second->nodes().back()->input(1))));
  // Offers may depend on a few numbers, which stay.
  EXPECT_TRUE(constant_of(copy.input(2))->is_same(*constant_of(node->input(2))));

  Workbench bench(*node);
  Workbench other = bench;
  other.take_constants(copy);
  EXPECT_TRUE(other.inputs[0].is_same(bench.inputs[0]));
  EXPECT_TRUE(other.inputs[1].is_same(weight));
  EXPECT_TRUE(other.outputs[0].is_same(bench.outputs[0]));
}

TEST(OtherWeights, WhatIsReadTwiceStaysOneValue) {
  Graph graph;
  Value* x = graph.add_input(contiguous_type(c10::kFloat, {3}, c10::kCPU));
  Value* sum = graph.add(Pointwise{.fn = "add"}, {x, x});
  auto other = with_other_weights(*sum->producer());
  EXPECT_EQ(other->inputs().size(), 1u);
  EXPECT_EQ(other->nodes().back()->input(0), other->nodes().back()->input(1));
}

TEST(Traffic, CountsEachOperandOnce) {
  Node* node = nullptr;
  auto graph = linear_layer(&node);
  Traffic traffic = traffic_of(*node);
  EXPECT_EQ(traffic.weights, 4 * (5 * 4 + 5));
  EXPECT_EQ(traffic.others, 4 * (3 * 4 + 3 * 5));
  EXPECT_EQ(weight_bytes(*graph), traffic.weights);
  // The same weights again, seen through a view.
  Value* turned = graph->add(Permute{.order = {1, 0}}, {node->input(1)});
  Node* again = graph->add_node(
      Matmul{}, {graph->add(Slice{.axis = 1, .start = 0, .end = 4, .step = 1}, {node->output()}), turned});
  EXPECT_EQ(traffic_of(*again).weights, 4 * 5 * 4);
  EXPECT_EQ(weight_bytes(*graph), traffic.weights);
}

TEST(Traffic, OfATableIsWhatIsPicked) {
  Graph graph;
  Value* table = graph.add(Constant{at::ones({1000, 8}), "table"}, {});
  Value* index = graph.add_input(contiguous_type(c10::kLong, {2, 3}, c10::kCPU));
  Value* rows = graph.add(Take{}, {table, index});
  Traffic traffic = traffic_of(*rows->producer());
  EXPECT_EQ(traffic.weights, 4 * 6 * 8);
  EXPECT_EQ(traffic.others, 8 * 6 + 4 * 6 * 8);
  EXPECT_EQ(weight_bytes(graph), traffic.weights);
}

TEST(Traffic, OfExpandedTensorsAndSlicesIsTheirMemory) {
  Graph graph;
  Value* expanded = graph.add_input({.dtype = c10::kFloat, .shape = {4, 6}, .strides = {0, 1}});
  Value* slice = graph.add_input({.dtype = c10::kFloat, .shape = {4, 6}, .strides = {100, 1}});
  Value* sum = graph.add(Pointwise{.fn = "add"}, {expanded, slice});
  sum->type = contiguous_type(c10::kFloat, {4, 6}, c10::kCPU);
  EXPECT_EQ(traffic_of(*sum->producer()).others, 4 * (6 + 24 + 24));
}

}  // namespace
}  // namespace torchweld
