// Configurations of matrix products: what is offered can run, for any sizes.
#include <gtest/gtest.h>

#include "kernels/cuda/implicit_gemm_plan.h"

namespace torchweld::cuda {
namespace {

GemmProblem square_conv(int64_t images, int64_t size, int64_t channels, int64_t outputs, int64_t window, int64_t stride,
                        int64_t element_bytes = 2) {
  GemmProblem p;
  p.element_bytes = element_bytes;
  p.images = images;
  p.height = p.width = size;
  p.channels = channels;
  p.outputs = outputs;
  for (int d : {0, 1}) p.window[d] = window, p.stride[d] = stride, p.padding[d] = window / 2;
  p.out_height = p.out_width = (size + 2 * (window / 2) - window) / stride + 1;
  p.in[0] = size * size * channels, p.in[1] = size * channels, p.in[2] = channels;
  p.vector_reads = channels % p.chunk() == 0;
  return p;
}

std::vector<GemmProblem> many_problems() {
  std::vector<GemmProblem> list;
  for (int64_t images : {1, 3, 32}) {
    for (int64_t size : {1, 7, 14, 57, 224}) {
      for (int64_t channels : {1, 3, 16, 24, 96, 512, 2048}) {
        for (int64_t window : {1, 3, 7}) {
          for (int64_t bytes : {2, 4})
            list.push_back(square_conv(images, size, channels, 40, window, 1 + size % 2, bytes));
        }
      }
    }
  }
  return list;
}

TEST(ImplicitGemmPlan, EveryProblemHasConfigurationsThatFit) {
  for (int64_t shared_bytes : {64 << 10, 99 << 10, 227 << 10}) {
    GemmDevice device{.processors = 80, .shared_bytes = shared_bytes, .clusters = shared_bytes > 200 << 10};
    for (const GemmProblem& p : many_problems()) {
      std::vector<GemmConfig> configs = gemm_configs(p, device, 8);
      // A block keeps a table of all of k.
      constexpr int64_t kLongest = 32768;  // Bytes.
      if (p.channels * p.taps() * p.element_bytes <= kLongest)
        EXPECT_FALSE(configs.empty()) << p.channels << " channels at " << p.height;
      for (const GemmConfig& c : configs) {
        EXPECT_LE(c.shared_bytes, device.shared_bytes) << c.text();
        EXPECT_TRUE(c.splits == 1 || device.clusters) << c.text();
        EXPECT_LE(c.threads(), 512) << c.text();
        EXPECT_EQ(c.pitch(p) % 2, 1) << c.text();
        EXPECT_GE(c.slice * c.splits * p.chunk(), c.source == GemmSource::kPixels ? 0 : p.channels) << c.text();
      }
    }
  }
}

// Other sources do not read a second tensor.
TEST(ImplicitGemmPlan, OnlyRowsAndStagesComeFromTwoTensors) {
  for (int64_t images : {1, 32}) {
    GemmProblem p = square_conv(images, 14, 256 + 512, 1024, 1, 1);
    p.first_channels = 256;
    std::vector<GemmConfig> configs = gemm_configs(p, {}, 100);
    EXPECT_FALSE(configs.empty());
    for (const GemmConfig& c : configs)
      EXPECT_TRUE(c.source == GemmSource::kRows || c.source == GemmSource::kStages) << c.text();
  }
}

TEST(ImplicitGemmPlan, BestComesFirstAndNamesAreUnique) {
  for (const GemmProblem& p : many_problems()) {
    std::vector<GemmConfig> configs = gemm_configs(p, {}, 8);
    for (size_t i = 1; i < configs.size(); ++i) {
      EXPECT_LE(configs[i - 1].microseconds, configs[i].microseconds);
      for (size_t j = 0; j < i; ++j) EXPECT_NE(configs[i].text(), configs[j].text());
    }
  }
}

/// A layer of `groups` groups with as many results as channels.
GemmProblem grouped_conv(int64_t images, int64_t size, int64_t groups, int64_t channels, int64_t stride) {
  GemmProblem p = square_conv(images, size, channels, channels, 3, stride);
  p.groups = groups;
  for (int64_t& step : p.in) step *= groups;
  p.in[3] = 1;
  return p;
}

// The layers of ResNeXt50 32x4d, and wider ones.
TEST(ImplicitGemmPlan, GroupsHaveTilesOfTheirOwn) {
  for (int64_t images : {1, 32}) {
    for (auto [size, channels] : {std::pair(56, 4), {28, 8}, {28, 12}, {14, 16}, {14, 24}, {7, 32}, {14, 112}}) {
      GemmProblem p = grouped_conv(images, size, 32, channels, 1);
      std::vector<GemmConfig> configs = gemm_configs(p, {}, 12);
      ASSERT_FALSE(configs.empty());
      for (const GemmConfig& c : configs) {
        EXPECT_EQ(c.column_tiles(p) * c.columns, p.groups * c.group_columns(p)) << c.text();
        EXPECT_GE(c.group_columns(p), channels) << c.text();
        EXPECT_LT(c.group_columns(p), std::max<int64_t>(2 * channels, 9)) << c.text();
        if (c.groups > 1) {
          EXPECT_EQ(p.groups % c.groups, 0) << c.text();
          EXPECT_EQ(c.warps_n, c.groups) << c.text();
          EXPECT_TRUE(c.source == GemmSource::kPixels || c.source == GemmSource::kPatch) << c.text();
        }
      }
    }
  }
}

TEST(ImplicitGemmPlan, TapsOfOneChunkShareSteps) {
  GemmProblem p = grouped_conv(1, 28, 32, 8, 1);
  GemmConfig c{.rows = 64, .columns = 8, .slice = 1};
  EXPECT_EQ(c.steps(p), 5);
  c.warps_k = 2;
  EXPECT_EQ(c.steps(p), 6);
  for (const GemmConfig& found : gemm_configs(p, {}, 100)) {
    if (found.source != GemmSource::kPatch) EXPECT_EQ(found.slice, 1) << found.text();
  }
}

TEST(ImplicitGemmPlan, FewChannelsAreReadAsPixels) {
  EXPECT_EQ(gemm_configs(square_conv(1, 224, 3, 64, 7, 2), {}, 1).front().source, GemmSource::kPixels);
}

TEST(ImplicitGemmPlan, EncoderLayersGoToWarpgroupsWhereThereAreSome) {
  for (int64_t bytes : {2, 4}) {
    GemmProblem p = square_conv(1, 1, 768, 2304, 1, 1, bytes);
    p.width = p.out_width = 128;
    EXPECT_EQ(gemm_configs(p, {}, 1).front().source, GemmSource::kStages) << bytes;
    for (const GemmConfig& c : gemm_configs(p, {.warpgroups = false}, 12)) EXPECT_NE(c.source, GemmSource::kStages);
  }
}

TEST(ImplicitGemmPlan, WhatDoesNotFitComesInTurns) {
  GemmProblem p = square_conv(1, 1, 768, 3072, 1, 1, 4);
  p.width = p.out_width = 128;
  const GemmConfig best = gemm_configs(p, {}, 1).front();
  EXPECT_EQ(best.source, GemmSource::kStages);
  EXPECT_GE(best.kept, 3);
  EXPECT_LT(best.kept_stages(p), best.stage_count(p));
}

TEST(ImplicitGemmPlan, ManyRowsPassThroughARingOrPipeline) {
  for (int64_t bytes : {2, 4}) {
    GemmProblem p = square_conv(128, 28, 256, 256, 3, 1, bytes);
    EXPECT_EQ(gemm_configs(p, {.warpgroups = false}, 1).front().source, GemmSource::kRing) << bytes;
    EXPECT_EQ(gemm_configs(p, {}, 1).front().source, GemmSource::kPipeline) << bytes;
  }
}

}  // namespace
}  // namespace torchweld::cuda
