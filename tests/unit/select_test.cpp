// Choosing kernels where blocks are made of blocks.
#include "conversion/select.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "conversion/passes/passes.h"
#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"

namespace torchweld {
namespace {

constexpr const char* kExcited = R"(
graph(%x: f16[1,2,4,4]{32,1,8,2}) {
  %w = constant{value=f16[4,2,1,1](1.0, 2.0, 3.0, 4.0, 0.5, -1.0, 0.25, 1.0)}()
  %d = constant{value=f16[4,1,1,3](1.0, 2.0, 1.0, 0.5, 1.0, -0.5, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0)}()
  %s = constant{value=f16[1,4,1,1](1.0, -1.0, 0.5, 0.25)}()
  %r = constant{value=f16[4,1,1,1](1.0, 0.5, 0.5, -0.25)}()
  %p = constant{value=f16[2,4,1,1](1.0, -1.0, 0.5, 0.25, 1.0, 0.5, 0.5, -0.25)}()
  %e = conv{stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1, transposed=false, output_padding=[0, 0]}(%x, %w)
  %h = conv{stride=[1, 1], padding=[0, 1], dilation=[1, 1], groups=4, transposed=false, output_padding=[0, 0]}(%e, %d)
  %m = reduce{kind="mean", axes=[2, 3], keepdim=true, parameter=0.0}(%h)
  %a = conv{stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1, transposed=false, output_padding=[0, 0]}(%m, %s)
  %b = conv{stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1, transposed=false, output_padding=[0, 0]}(%a, %r)
  %g = pointwise{fn="mul"}(%h, %b)
  %o = conv{stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1, transposed=false, output_padding=[0, 0]}(%g, %p)
  return %o
})";

/// A block of three blocks, for which the CPU has no kernels.
std::unique_ptr<Graph> block_of_blocks() {
  auto graph = Graph::parse(kExcited);
  PassContext context;
  context.tensor_cores = true;
  fuse_blocks(*graph, context);
  graph->sweep();
  return graph;
}

/// What was chosen for the nodes, in the graph's order.
std::vector<std::string> choices(Graph& graph, bool tune, TimingCache& cache) {
  Options options;
  options.optimization_level = 1;
  Selection selection = select(graph, options, tune, cache);
  std::vector<std::string> tactics;
  for (const auto& node : graph.nodes()) {
    if (node->as<Constant>()) continue;
    EXPECT_FALSE(block_of(*node)) << graph.text();
    auto choice = selection.find(node.get());
    if (choice == selection.end()) return {};
    tactics.push_back(node->op() + " by " + choice->second.tactic);
  }
  return tactics;
}

TEST(Select, BlocksOfBlocksWithoutKernelsDissolveToTheLastPart) {
  TimingCache cache;
  auto graph = block_of_blocks();
  size_t parts = static_cast<size_t>(std::count_if(graph->nodes().begin(), graph->nodes().end(),
                                                   [](const auto& node) { return !node->template as<Constant>(); }));
  ASSERT_EQ(parts, 1u) << graph->text();
  std::vector<std::string> timed = choices(*graph, true, cache);
  EXPECT_EQ(timed.size(), 7u) << graph->text();
  // What was timed is chosen again.
  EXPECT_EQ(choices(*block_of_blocks(), false, cache), timed);
}

TEST(Select, BlocksOfBlocksDissolveWithoutTimes) {
  TimingCache cache;
  EXPECT_EQ(choices(*block_of_blocks(), false, cache).size(), 7u);
}

TEST(Select, WithoutCompilerBlocksDissolveToWhatIsThere) {
  auto graph = block_of_blocks();
  Selection selection = select_compiled(*graph, {}, {});
  EXPECT_EQ(selection.size(), 7u) << graph->text();
  for (const auto& node : graph->nodes()) {
    if (node->as<Constant>()) continue;
    ASSERT_EQ(selection.count(node.get()), 1u) << graph->text();
    EXPECT_NE(selection.at(node.get()).kernel, nullptr);
  }
}

TEST(Select, WithoutCompilerWhatIsMostlyHeavyIsLeftToLibTorch) {
  constexpr const char* kProduct = R"(
graph(%x: f32[64,64], %y: f32[64,64]) {
  %z = matmul(%x, %y)
  %r = pointwise{fn="relu"}(%z)
  return %r
})";
  auto graph = Graph::parse(kProduct);
  EXPECT_THROW(select_compiled(*graph, {}, {}), Unsupported);
  EXPECT_EQ(choices(*graph, false, *std::make_unique<TimingCache>()).size(), 2u);
}

}  // namespace
}  // namespace torchweld
