// Kernels timed with weights that come from memory: what is timed, and (on a GPU) that it shows.
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "conversion/measure.h"
#include "conversion/select.h"
#include "core/ops/constant.h"
#include "core/ops/matmul.h"
#include "tests/cuda/blocks.h"
#include "tests/cuda/conv_nodes.h"
#include "tests/cuda/transformer_nodes.h"

namespace torchweld::cuda_tests {
namespace {

/// Sets TORCHWELD_COLD as long as it lives.
class ColdSetting {
 public:
  explicit ColdSetting(const char* value) { setenv("TORCHWELD_COLD", value, 1); }
  ~ColdSetting() { unsetenv("TORCHWELD_COLD"); }
  ColdSetting(const ColdSetting&) = delete;
  ColdSetting& operator=(const ColdSetting&) = delete;
};

TEST(ColdWeights, OtherWeightsTakeTheSameKernels) {
  std::vector<Case> list = deferred_norms(c10::kHalf, kDevice, false);
  for (Case& c : odd_products(c10::kHalf, kDevice, false)) list.push_back(std::move(c));
  for (Case& c : cases(c10::kHalf, kDevice, false)) list.push_back(std::move(c));
  size_t weighted = 0;
  for (const Case& c : list) {
    Case other{c.name, with_other_weights(c.node())};
    std::set<std::string> expected, found;
    for (const cuda::Program& program : programs_of(c)) expected.insert(program.text);
    for (const cuda::Program& program : programs_of(other)) found.insert(program.text);
    EXPECT_EQ(found, expected) << c.name;
    bool has_weights = false;
    for (const Value* input : c.node().inputs()) has_weights = has_weights || constant_of(input);
    weighted += has_weights && !expected.empty();
  }
  EXPECT_GT(weighted, 10u);
}

TEST(ColdWeights, AreNoMatterOfTheCpu) {
  ColdSetting cold("1");
  Graph graph;
  Value* x = graph.add_input(contiguous_type(c10::kFloat, {4, 128}, c10::kCPU));
  graph.add_output(graph.add(Linear{}, {x, graph.add(Constant{at::randn({64, 128}), "w"}, {})}));
  Options options;
  options.optimization_level = 1;
  TimingCache cache;
  Selection selection = select(graph, options, /*tune=*/true, cache);
  EXPECT_GT(selection.at(graph.nodes().back().get()).microseconds, 0);
  EXPECT_EQ(cache.text().find("cold weights"), std::string::npos) << cache.text();
}

class ColdWeightsOnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  }
  c10::InferenceMode inference_;
};

/// One row times 2048 x 4096 weights (16 MB in f16): little but a read of these.
std::unique_ptr<Graph> row_product() {
  auto graph = std::make_unique<Graph>();
  Value* x = graph->add_input(contiguous_type(c10::kHalf, {1, 4096}, kDevice));
  at::Tensor weight = at::randn({2048, 4096}, at::TensorOptions(c10::kHalf).device(kDevice));
  graph->add_output(graph->add(Linear{}, {x, graph->add(Constant{weight, "w"}, {})}));
  return graph;
}

TEST_F(ColdWeightsOnGpu, TakeLonger) {
  auto graph = row_product();
  const Node& node = *graph->nodes().back();
  Offers offers = offers_for(node, {}, "aten");
  ASSERT_EQ(offers.offers().size(), 1u);
  std::shared_ptr<const Kernel> kernel = offers.offers()[0].build();
  Workbench bench(node);
  std::vector<std::unique_ptr<Graph>> twins;
  std::vector<Workbench> benches(kColdRuns, bench);
  std::vector<WeightedRun> runs{{kernel, &benches[0]}};
  while (runs.size() < kColdRuns) {
    twins.push_back(with_other_weights(node));
    benches[runs.size()].take_constants(*twins.back()->nodes().back());
    runs.push_back({kernel, &benches[runs.size()]});
  }
  constexpr double kBudget = 5;
  at::Tensor sweep = twice_the_cache(kDevice);
  double warm = measure(*kernel, bench, kDevice, kBudget);
  double cold = measure_cold(runs, sweep, kBudget);
  double again = measure_cold(runs, sweep, kBudget);
  std::printf("warm %.2f us, cold %.2f and %.2f us\n", warm, cold, again);
  EXPECT_GT(cold, 1.1 * warm);
  EXPECT_LT(cold, 5 * warm);
  EXPECT_NEAR(cold, again, 0.1 * cold);
}

TEST_F(ColdWeightsOnGpu, AreNotedInTheTimingCache) {
  Options options;
  options.optimization_level = 1;
  for (const char* setting : {"0", "1"}) {
    ColdSetting cold(setting);
    auto graph = row_product();
    TimingCache cache;
    select(*graph, options, /*tune=*/true, cache);
    EXPECT_EQ(cache.text().find("cold weights") != std::string::npos, std::string(setting) == "1") << cache.text();
    // Planned again, it is the same kernel.
    std::string before = cache.text();
    select(*graph, options, /*tune=*/false, cache);
    EXPECT_EQ(cache.text(), before);
  }
}

}  // namespace
}  // namespace torchweld::cuda_tests
