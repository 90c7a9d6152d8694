// Blocks and their parts: what fuse_blocks groups, expand_blocks puts back.
#include <gtest/gtest.h>

#include "conversion/passes/groups.h"
#include "conversion/passes/join_shortcut.h"
#include "conversion/passes/passes.h"
#include "core/error.h"
#include "core/ops/fused.h"
#include "core/ops/reduce.h"

namespace torchweld {
namespace {

constexpr const char* kClassifier = R"(
graph(%x: f16[2,4,3,3]{36,1,12,4}) {
  %w = constant{value=f16[3,4](1.0, 2.0, 3.0, 4.0, 0.5, -1.0, 0.25, 1.0, 1.0, 1.0, 0.0, 1.0)}()
  %m = reduce{kind="mean", axes=[2, 3], keepdim=true, parameter=0.0}(%x)
  %f = reshape{shape=[2, 4]}(%m)
  %l = linear(%f, %w)
  %o = cast{dtype=f32}(%l)
  return %o
})";

std::unique_ptr<Graph> with_block() {
  auto graph = Graph::parse(kClassifier);
  PassContext context;
  context.tensor_cores = true;
  fuse_blocks(*graph, context);
  graph->sweep();
  graph->verify();
  return graph;
}

TEST(Blocks, AreLeftAloneWithoutTensorCores) {
  auto graph = Graph::parse(kClassifier);
  fuse_blocks(*graph, {});
  EXPECT_EQ(graph->text(), Graph::parse(kClassifier)->text());
}

TEST(Blocks, ExpandToWhatTheyWereMadeOf) {
  auto graph = with_block();
  ASSERT_TRUE(is_block(*graph->nodes().back()->as<Fused>()));
  EXPECT_EQ(expand_blocks(*graph, [](const Node&) { return true; }), 0);
  EXPECT_EQ(expand_blocks(*graph, [](const Node&) { return false; }), 1);
  graph->verify();
  EXPECT_EQ(graph->text(), Graph::parse(kClassifier)->text());
}

TEST(Blocks, PartsAreAGraphOfTheirOwn) {
  auto graph = with_block();
  EXPECT_EQ(parts_of(*graph->nodes().back())->text(), Graph::parse(kClassifier)->text());
}

constexpr const char* kShortcut = R"(
graph(%h: f16[1,8,2,2]{32,1,16,8}, %x: f16[1,8,4,4]{128,1,32,8}) {
  %v = constant{value=f16[1,8,1,1](1.0, 2.0, 3.0, 4.0, 0.5, -1.0, 0.25, 1.0)}()
  %w = constant{value=f16[1,8,1,1](1.0, 2.0, 3.0, 4.0, 0.5, -1.0, 0.25, 1.0)}()
  %a = conv{stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1, output_padding=[0, 0]}(%h, %v)
  %b = conv{stride=[2, 2], padding=[0, 0], dilation=[1, 1], groups=1, output_padding=[0, 0]}(%x, %w)
  %s = pointwise{fn="add"}(%a, %b)
  %y = pointwise{fn="relu"}(%s)
  return %y
})";

/// What the finder says of the last node of a graph whose pointwise nodes are fused.
size_t shortcut_of(std::string text) {
  auto graph = Graph::parse(text);
  fuse(*graph, {});
  graph->sweep();
  return joined_shortcut(*graph, graph->nodes().back().get()).size();
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  return text.replace(text.find(from), from.size(), to);
}

TEST(Blocks, AConvolutionJoinsTheOneItIsAddedTo) {
  EXPECT_EQ(shortcut_of(kShortcut), 2);
  EXPECT_EQ(shortcut_of(replaced(kShortcut, "return %y", "return %y, %b")), 0);
  std::string residual =
      replaced(kShortcut, "%s = pointwise{fn=\"add\"}(%a, %b)", "%s = pointwise{fn=\"add\"}(%a, %a)");
  EXPECT_EQ(shortcut_of(residual), 0);
}

TEST(Blocks, HaveNoAnchor) {
  auto graph = with_block();
  EXPECT_THROW(anchor_of(*graph->nodes().back()->as<Fused>()), Unsupported);
}

}  // namespace
}  // namespace torchweld
