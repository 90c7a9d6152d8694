// Which tactics are asked for offers; no GPU is needed.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "kernels/cuda/own_kernel.h"
#include "tests/cuda/blocks.h"
#include "tests/cuda/conv_nodes.h"
#include "tests/cuda/transformer_nodes.h"

namespace torchweld::cuda_tests {
namespace {

/// Why a tactic makes no offer for a 3x3 convolution of so many images; empty when it makes one.
std::string refusal_of(const std::string& tactic, int64_t batch, int64_t groups = 1,
                       const KernelContext& context = {}) {
  cuda::CollectPrograms nothing_is_compiled([](const cuda::Program&) {});
  Case c = conv_case(
      {.name = "conv", .x = {batch, 64, 28, 28}, .outputs = 64, .window = {3, 3}, .padding = {1, 1}, .groups = groups},
      c10::kHalf, kDevice, false);
  Offers offers = offers_for(c.node(), context);
  for (const auto& [name, reason] : offers.refusals()) {
    if (name == tactic) return reason;
  }
  return "";
}

TEST(Offers, LibrariesAreAskedAboutLargeLayersOnly) {
  const std::string small = "a kernel ahead of it is expected to be faster than it has ever been";
  EXPECT_EQ(refusal_of("cuda_implicit_gemm", 1), "");
  EXPECT_EQ(refusal_of("cudnn_conv", 1), small);
  EXPECT_EQ(refusal_of("cuda_implicit_gemm", 64), "");
  EXPECT_NE(refusal_of("cudnn_conv", 64), small);
}

TEST(Offers, GroupsGoToTensorCores) {
  for (bool tune : {true, false}) {
    KernelContext context;
    context.tune = tune;
    for (int64_t batch : {1, 64}) {
      for (int64_t groups : {2, 8, 16}) EXPECT_EQ(refusal_of("cuda_implicit_gemm", batch, groups, context), "");
    }
  }
  EXPECT_EQ(refusal_of("cuda_implicit_gemm", 1, 64), "one channel in a group");
}

/// The configurations that our attention offers for the case of this name and have this word in their names.
std::set<std::string> attention_configs(const std::string& name, c10::ScalarType dtype, const std::string& word) {
  cuda::CollectPrograms nothing_is_compiled([](const cuda::Program&) {});
  std::set<std::string> found;
  for (const Case& c : attention_nodes(dtype, kDevice)) {
    if (!c.name.starts_with("attention_" + name + "/")) continue;
    Offers offers = offers_for(c.node(), {});
    for (const Offers::Offer& offer : offers.offers()) {
      if (offer.config.find(word) != std::string::npos) found.insert(offer.config);
    }
  }
  return found;
}

TEST(Offers, AttentionOverFewKeysHasThemAllAtOnce) {
  using Configs = std::set<std::string>;
  auto whole = [](const char* name, c10::ScalarType dtype) { return attention_configs(name, dtype, "whole"); };
  EXPECT_EQ(whole("encoder", c10::kHalf),
            (Configs{"16x128 w1,4 whole", "16x128 w1,4 whole staged", "32x128 w2,4 whole"}));
  EXPECT_EQ(whole("image", c10::kBFloat16),
            (Configs{"16x256 w1,8 whole", "16x256 w1,8 whole staged", "32x256 w2,8 whole", "16x256 w1,4 whole"}));
  EXPECT_EQ(whole("most_keys", c10::kHalf).size(), 4u);
  EXPECT_EQ(whole("too_many_keys", c10::kHalf), Configs{});
  EXPECT_EQ(whole("turned", c10::kHalf), Configs{});
  EXPECT_EQ(whole("encoder", c10::kFloat), Configs{});
}

TEST(Offers, AttentionByWarpgroupsHasTilesOfOneSize) {
  using Configs = std::set<std::string>;
  auto groups = [](const char* name, c10::ScalarType dtype) { return attention_configs(name, dtype, "warpgroups"); };
  EXPECT_EQ(groups("encoder", c10::kHalf),
            (Configs{"64x32 w4,1 warpgroups", "64x64 w4,1 warpgroups", "64x128 w4,1 warpgroups",
                     "128x32 w8,1 warpgroups", "128x64 w8,1 warpgroups", "128x128 w8,1 warpgroups"}));
  EXPECT_EQ(groups("image", c10::kBFloat16),
            (Configs{"64x32 w4,1 warpgroups", "64x64 w4,1 warpgroups", "64x112 w4,1 warpgroups",
                     "128x32 w8,1 warpgroups", "128x64 w8,1 warpgroups", "128x112 w8,1 warpgroups"}));
  EXPECT_EQ(groups("small", c10::kHalf), (Configs{"64x16 w4,1 warpgroups"}));
  EXPECT_EQ(groups("encoder", c10::kFloat), Configs{});
}

/// Names of the configurations that are on offer for the last node.
std::set<std::string> names_for(const Node& node, const std::string& tactic, const KernelContext& context) {
  std::set<std::string> names;
  Offers offers = offers_for(node, context, tactic);
  for (const Offers::Offer& offer : offers.offers()) names.insert(offer.config);
  return names;
}

/// What is on offer for a batch size by its name is on offer, alone, at every other one, and as the same device code.
template <class Make>
void expect_wanted_at_every_batch(const std::string& tactic, Make make, int64_t offered_at = 1) {
  std::vector<std::string> programs;
  cuda::CollectPrograms collecting([&](const cuda::Program& program) { programs.push_back(program.text); });
  Case first = make(offered_at);
  Offers offers = offers_for(first.node(), {}, tactic);
  EXPECT_FALSE(offers.offers().empty()) << tactic;
  for (const Offers::Offer& offer : offers.offers()) {
    programs.clear();
    offer.build();
    const std::vector<std::string> code = programs;
    const std::set<std::string> wanted = {offer.config, "another tactic's, 3x3"};
    KernelContext context;
    context.wanted = &wanted;
    for (int64_t batch : {1, 2, 7, 64}) {
      Case c = make(batch);
      std::set<std::string> found = names_for(c.node(), tactic, context);
      if (found.empty() && offer.config.find(" alone") != std::string::npos) continue;  // Only where blocks are few.
      EXPECT_EQ(found, std::set<std::string>{offer.config}) << c.name << " at batch " << batch;
      Offers again = offers_for(c.node(), context, tactic);
      programs.clear();
      for (const Offers::Offer& same : again.offers()) same.build();
      EXPECT_EQ(programs, code) << c.name << " " << offer.config << " at batch " << batch;
    }
  }
}

TEST(Offers, BlocksOfManyTilesArePersistent) {
  cuda::CollectPrograms nothing_is_compiled([](const cuda::Program&) {});
  auto make = [](int64_t batch) {
    return make_block(
        ResidualSpec{.name = "residual", .batch = batch, .height = 28, .width = 28, .in = 32, .hidden = 192, .out = 32},
        c10::kHalf, false);
  };
  auto persistent = [&](int64_t batch) {
    std::set<std::string> names = names_for(make(batch).node(), "cuda_inverted_residual", {});
    return std::count_if(names.begin(), names.end(), [](auto& name) { return name.ends_with(" persistent"); });
  };
  EXPECT_EQ(persistent(1), 0);
  EXPECT_GT(persistent(64), 0);
  expect_wanted_at_every_batch("cuda_inverted_residual", make, 64);
}

TEST(Offers, BlocksTakeWantedConfigurationsAtEveryBatchSize) {
  expect_wanted_at_every_batch("cuda_inverted_residual", [](int64_t batch) {
    return make_block(ResidualSpec{.name = "residual", .batch = batch, .in = 64, .hidden = 384, .out = 64}, c10::kHalf,
                      false);
  });
  expect_wanted_at_every_batch("cuda_inverted_residual", [](int64_t batch) {
    return make_block(ScaledSpec{.name = "scaled", .batch = batch}, c10::kHalf, false);
  });
  expect_wanted_at_every_batch("cuda_excited_residual", [](int64_t batch) {
    return make_block(
        ResidualSpec{.name = "excited", .batch = batch, .in = 40, .hidden = 240, .out = 40, .squeezed = 10}, c10::kHalf,
        false);
  });
  expect_wanted_at_every_batch("cuda_stem", [](int64_t batch) {
    return make_block(StemSpec{.name = "stem", .batch = batch, .height = 224, .width = 223 + batch}, c10::kHalf, false);
  });
}

TEST(Offers, PicturesGoToStems) {
  cuda::CollectPrograms nothing_is_compiled([](const cuda::Program&) {});
  auto offered = [](int64_t channels, int64_t window, int64_t stride, bool tune) {
    Case c = conv_case({.name = "picture",
                        .x = {1, channels, 64, 64},
                        .outputs = 32,
                        .window = {window, window},
                        .stride = {stride, stride},
                        .x_is_nchw = true},
                       c10::kHalf, kDevice, false);
    KernelContext context;
    context.tune = tune;
    return !offers_for(c.node(), context, "cuda_stem").offers().empty();
  };
  EXPECT_TRUE(offered(3, 3, 2, true));
  EXPECT_TRUE(offered(4, 3, 1, true));
  EXPECT_FALSE(offered(5, 3, 2, true));
  EXPECT_FALSE(offered(3, 16, 16, true)) << "patches, as a vision transformer has them";
  EXPECT_FALSE(offered(3, 3, 2, false)) << "without timing others are ahead at some sizes";
}

/// A depthwise convolution of a window of so many rows and columns, of square images of this size.
Case depthwise_case(int64_t batch, int64_t channels, int64_t size, int64_t window) {
  return conv_case({.name = "depthwise",
                    .x = {batch, channels, size, size},
                    .outputs = channels,
                    .window = {window, window},
                    .padding = {window / 2, window / 2},
                    .groups = channels},
                   c10::kHalf, kDevice, false);
}

TEST(Offers, DepthwiseTakesWantedConfigurationsAtEveryBatchSize) {
  for (int64_t window : {3, 5, 7})
    expect_wanted_at_every_batch("cuda_depthwise",
                                 [&](int64_t batch) { return depthwise_case(batch, 96, 14, window); });
}

TEST(Offers, DepthwiseGoesDownLargeImagesOnly) {
  cuda::CollectPrograms nothing_is_compiled([](const cuda::Program&) {});
  auto first = [](const Case& c) {
    KernelContext context;
    context.tune = false;
    return names_for(c.node(), "cuda_depthwise", context);
  };
  using Configs = std::set<std::string>;
  EXPECT_EQ(first(depthwise_case(128, 384, 14, 3)), Configs{"7x2 channels4"});
  EXPECT_EQ(first(depthwise_case(128, 960, 7, 5)), Configs{"7x2 channels2"});
  EXPECT_EQ(first(depthwise_case(1, 384, 14, 3)), Configs{"1x1"});
  // What was timed at one height is wanted at another.
  Case other = depthwise_case(1, 384, 15, 3);
  const std::set<std::string> wanted = {"7x1 channels4", "1x1"};
  KernelContext context;
  context.wanted = &wanted;
  EXPECT_EQ(names_for(other.node(), "cuda_depthwise", context), wanted);
}

TEST(Offers, WhatIsWantedOfOthersIsNotOffered) {
  cuda::CollectPrograms nothing_is_compiled([](const cuda::Program&) {});
  const std::set<std::string> wanted = {"1x1 split99 warps8", "64x64 w9,9,9"};
  KernelContext context;
  context.wanted = &wanted;
  Case block = make_block(ResidualSpec{.name = "residual"}, c10::kHalf, false);
  EXPECT_EQ(names_for(block.node(), "cuda_inverted_residual", context), std::set<std::string>{});
  Case conv = conv_case({.name = "conv", .x = {1, 64, 28, 28}, .outputs = 64, .window = {3, 3}, .padding = {1, 1}},
                        c10::kHalf, kDevice, false);
  EXPECT_EQ(names_for(conv.node(), "cuda_implicit_gemm", context), std::set<std::string>{});
  for (const Case& c : attention_nodes(c10::kHalf, kDevice))
    EXPECT_EQ(names_for(c.node(), "cuda_attention", context), std::set<std::string>{}) << c.name;
}

TEST(Offers, TransformersTakeWantedConfigurations) {
  cuda::CollectPrograms nothing_is_compiled([](const cuda::Program&) {});
  size_t seen = 0;
  auto expect_each = [&](const std::string& tactic, const std::vector<Case>& list) {
    for (const Case& c : list) {
      for (const std::string& name : names_for(c.node(), tactic, {})) {
        const std::set<std::string> wanted = {name};
        KernelContext context;
        context.wanted = &wanted;
        EXPECT_EQ(names_for(c.node(), tactic, context), wanted) << c.name;
        ++seen;
      }
    }
  };
  expect_each("cuda_attention", attention_nodes(c10::kHalf, kDevice));
  EXPECT_GT(seen, 0u);
  seen = 0;
  expect_each("cuda_deferred_norm", deferred_norms(c10::kHalf, kDevice, false));
  EXPECT_GT(seen, 0u);
}

}  // namespace
}  // namespace torchweld::cuda_tests
