// Configurations of matrix products: what is offered can run, for any sizes.
#include <gtest/gtest.h>

#include <array>
#include <set>

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

// What runs a layer at one batch size can run it at others, where it would not be among the best.
TEST(ImplicitGemmPlan, WantedConfigurationsAreFoundAtEveryBatchSize) {
  for (auto [size, channels, outputs, window] : {std::array{56, 64, 64, 3}, {28, 512, 128, 1}, {7, 512, 2048, 1}}) {
    for (const GemmConfig& known : gemm_configs(square_conv(1, size, channels, outputs, window, 1), {}, 12)) {
      const std::set<std::string> wanted = {known.text()};
      for (int64_t images : {2, 3, 8, 64}) {
        std::vector<GemmConfig> found =
            gemm_configs(square_conv(images, size, channels, outputs, window, 1), {}, 1, &wanted);
        if (known.source == GemmSource::kPatch && found.empty()) continue;  // More rows of images may not fit.
        ASSERT_EQ(found.size(), 1u) << known.text() << " for " << images << " images";
        EXPECT_EQ(found[0].text(), known.text());
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
