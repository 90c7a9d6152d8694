// Bytes that a node moves.
#include "conversion/traffic.h"

#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "core/ops/index.h"
#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

/// A linear layer of 5 x 4 weights with its bias.
std::unique_ptr<Graph> linear_layer(Node** node) {
  auto graph = std::make_unique<Graph>();
  Value* x = graph->add_input(contiguous_type(c10::kFloat, {3, 4}, c10::kCPU));
  Value* weight = graph->add(Constant{at::ones({5, 4}), "weight"}, {});
  Value* bias = graph->add(Constant{at::ones({5}), "bias"}, {});
  *node = graph->add_node(Linear{}, {x, weight, bias});
  return graph;
}

TEST(Traffic, CountsEachOperandOnce) {
  Node* node = nullptr;
  auto graph = linear_layer(&node);
  Traffic traffic = traffic_of(*node);
  EXPECT_EQ(traffic.weights, 4 * (5 * 4 + 5));
  EXPECT_EQ(traffic.others, 4 * (3 * 4 + 3 * 5));
  // The same weights again, seen through a view.
  Value* turned = graph->add(Permute{.order = {1, 0}}, {node->input(1)});
  Node* again = graph->add_node(
      Matmul{}, {graph->add(Slice{.axis = 1, .start = 0, .end = 4, .step = 1}, {node->output()}), turned});
  EXPECT_EQ(traffic_of(*again).weights, 4 * 5 * 4);
}

TEST(Traffic, OfATableIsWhatIsPicked) {
  Graph graph;
  Value* table = graph.add(Constant{at::ones({1000, 8}), "table"}, {});
  Value* index = graph.add_input(contiguous_type(c10::kLong, {2, 3}, c10::kCPU));
  Value* rows = graph.add(Take{}, {table, index});
  Traffic traffic = traffic_of(*rows->producer());
  EXPECT_EQ(traffic.weights, 4 * 6 * 8);
  EXPECT_EQ(traffic.others, 8 * 6 + 4 * 6 * 8);
}

TEST(Traffic, OfATableInAFusedNodeIsWhatIsPicked) {
  auto body = std::make_shared<Graph>();
  Value* table = body->add_input(contiguous_type(c10::kFloat, {1000, 8}, c10::kCPU));
  Value* index = body->add_input(contiguous_type(c10::kLong, {2, 3}, c10::kCPU));
  Value* added = body->add_input(contiguous_type(c10::kFloat, {8}, c10::kCPU));
  Value* sum = body->add(Pointwise{.fn = "add"}, {body->add(Take{}, {table, index}), added});
  body->add_output(body->add(Pointwise{.fn = "add"}, {sum, body->add(Take{}, {table, index})}));
  Graph graph;
  Value* weights = graph.add(Constant{at::ones({1000, 8}), "table"}, {});
  Value* rows = graph.add_input(contiguous_type(c10::kLong, {2, 3}, c10::kCPU));
  Value* other = graph.add(Constant{at::ones({8}), "other"}, {});
  Traffic traffic = traffic_of(*graph.add_node(Fused{body}, {weights, rows, other}));
  EXPECT_EQ(traffic.weights, 4 * (2 * 6 * 8 + 8));
  EXPECT_EQ(traffic.others, 8 * 6 + 4 * 6 * 8);
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
