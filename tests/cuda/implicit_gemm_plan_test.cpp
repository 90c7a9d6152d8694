// Configurations of matrix products: what is offered can run, for any sizes.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <set>

#include "kernels/cuda/implicit_gemm_order.h"
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

// They are looked for directly: no other way may find more or fewer of them, or in another order.
TEST(ImplicitGemmPlan, WantedConfigurationsAreThoseOfTheirNames) {
  constexpr size_t kAll = 100000;
  for (const GemmProblem& p : many_problems()) {
    std::vector<GemmConfig> hopeful = gemm_configs(p, {}, kAll);
    std::set<std::string> wanted = {"", "2x2 split1 warps8", "64x64"};
    for (size_t i = 0; i < hopeful.size(); i += 3) wanted.insert(hopeful[i].text());
    std::vector<std::string> expected;
    for (size_t i = 0; i < hopeful.size(); i += 3) expected.push_back(hopeful[i].text());
    std::vector<std::string> found;
    double last = 0;
    for (const GemmConfig& c : gemm_configs(p, {}, 1, &wanted)) {
      found.push_back(c.text());
      EXPECT_GE(c.microseconds, last) << c.text();
      last = c.microseconds;
    }
    std::sort(found.begin(), found.end());
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(found, expected) << p.channels << " channels at " << p.height;
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

GemmProblem linear_of(int64_t rows, int64_t channels, int64_t outputs, int64_t bytes = 2) {
  GemmProblem p = square_conv(1, 1, channels, outputs, 1, 1, bytes);
  p.width = p.out_width = rows;
  return p;
}

TEST(ImplicitGemmPlan, RowsThatLeaveTilesOf64EmptyAreSwapped) {
  auto swapped_of = [](const GemmProblem& p) {
    std::vector<GemmConfig> found = gemm_configs(p, {}, 1000);
    std::erase_if(found, [](const GemmConfig& c) { return !c.swapped(); });
    return found;
  };
  for (int64_t bytes : {2, 4}) {
    for (int64_t outputs : {768, 2304, 3072}) {
      std::vector<GemmConfig> swapped = swapped_of(linear_of(197, 768, outputs, bytes));
      EXPECT_FALSE(swapped.empty());
      for (const GemmConfig& c : swapped) {
        EXPECT_LT(c.rows * c.row_tiles(linear_of(197, 768, outputs, bytes)), 256) << c.text();
        EXPECT_EQ(c.rows % c.splits, 0) << c.text();
        EXPECT_EQ(c.columns, 16 * c.warps_n) << c.text();
      }
    }
  }
  for (int64_t rows : {64, 128, 192, 16384}) EXPECT_TRUE(swapped_of(linear_of(rows, 768, 768)).empty()) << rows;
  // The widest product of ViT-B/16.
  EXPECT_TRUE(gemm_configs(linear_of(197, 768, 3072), {}, 1).front().swapped());
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

TEST(ImplicitGemmPlan, TeamsTakeTilesInTurnWhereABlockHasMany) {
  GemmProblem p = square_conv(1, 1, 768, 3072, 1, 1, 2);
  p.width = p.out_width = 16384;
  const GemmConfig best = gemm_configs(p, {}, 1).front();
  EXPECT_EQ(best.teams, 2);
  EXPECT_EQ(best.threads(), 256);
  EXPECT_EQ(best.text(), "128x192 w4,1,1 pipeline5 teams2");
}

using Dims2 = std::array<int64_t, 2>;

GemmProblem dilated_conv(int64_t images, Dims2 size, int64_t channels, Dims2 window, Dims2 stride, Dims2 padding,
                         Dims2 dilation) {
  GemmProblem p = square_conv(images, 1, channels, 256, 1, 1);
  p.height = size[0], p.width = size[1];
  for (size_t d : {0, 1})
    p.window[d] = window[d], p.stride[d] = stride[d], p.padding[d] = padding[d], p.dilation[d] = dilation[d];
  p.out_height = (p.height + 2 * padding[0] - dilation[0] * (window[0] - 1) - 1) / stride[0] + 1;
  p.out_width = (p.width + 2 * padding[1] - dilation[1] * (window[1] - 1) - 1) / stride[1] + 1;
  p.in[0] = p.height * p.width * channels, p.in[1] = p.width * channels, p.in[2] = channels;
  return p;
}
GemmProblem pyramid_conv(int64_t images, int64_t dilation) {
  return dilated_conv(images, {64, 64}, 2048, {3, 3}, {1, 1}, {dilation, dilation}, {dilation, dilation});
}

/// The taps of a result that lie inside the image, row by row.
std::set<int64_t> taps_inside(const GemmProblem& p, int64_t result) {
  int64_t row = result / p.out_width % p.out_height * p.stride[0] - p.padding[0];
  int64_t column = result % p.out_width * p.stride[1] - p.padding[1];
  std::set<int64_t> taps;
  for (int64_t tap = 0; tap < p.taps(); ++tap) {
    int64_t y = row + tap / p.window[1] * p.dilation[0];
    int64_t x = column + tap % p.window[1] * p.dilation[1];
    if (y >= 0 && y < p.height && x >= 0 && x < p.width) taps.insert(tap);
  }
  return taps;
}

void expect_what_results_need(const GemmProblem& p, const GemmConfig& c) {
  GemmOrder order = gemm_order(p, c);
  EXPECT_EQ(order.results.size(), static_cast<size_t>(p.rows()));
  EXPECT_EQ(std::set<int32_t>(order.results.begin(), order.results.end()).size(), order.results.size());
  double sum = 0;
  double most = 0;
  auto before = static_cast<size_t>(p.taps());
  for (int64_t tile = 0; tile < c.row_tiles(p); ++tile) {
    std::set<int64_t> taps;
    for (int64_t row = tile * c.rows; row < std::min((tile + 1) * c.rows, p.rows()); ++row)
      taps.merge(taps_inside(p, order.results[row]));
    sum += static_cast<double>(taps.size());
    most = std::max(most, static_cast<double>(taps.size()));
    std::set<int64_t> wanted;
    for (int64_t tap : taps) {
      for (int64_t chunk = tap * c.slice; chunk < (tap + 1) * c.slice; ++chunk)
        wanted.insert(chunk / c.chunks_of_stage());
    }
    const auto first = order.lists.begin() + order.lists[2 * tile];
    const int32_t count = order.lists[2 * tile + 1];
    EXPECT_EQ(std::vector<int64_t>(first, first + count), std::vector<int64_t>(wanted.begin(), wanted.end()));
    bool partial = (tile + 1) * c.rows > p.rows();
    if (!partial) EXPECT_LE(taps.size(), before) << "what takes long begins early";
    before = taps.size();
  }
  auto tap_share = [&](double taps) { return taps / static_cast<double>(p.taps()); };
  EXPECT_NEAR(c.shares.mean, tap_share(sum) / static_cast<double>(c.row_tiles(p)), 1e-9) << c.text();
  EXPECT_EQ(c.shares.largest, tap_share(most)) << c.text();
}

TEST(ImplicitGemmPlan, TilesHaveTheStagesThatTheirResultsNeed) {
  const GemmProblem problems[] = {
      pyramid_conv(1, 24),
      dilated_conv(3, {23, 37}, 200, {3, 3}, {1, 1}, {9, 11}, {9, 11}),
      dilated_conv(3, {9, 13}, 248, {3, 3}, {1, 1}, {16, 16}, {16, 16}),   // Only the tap in the middle.
      dilated_conv(5, {31, 29}, 144, {3, 3}, {2, 2}, {12, 10}, {12, 10}),  // Every second pixel.
      dilated_conv(2, {5, 7}, 192, {3, 3}, {1, 1}, {24, 25}, {12, 9}),     // No tap at all between two.
      dilated_conv(9, {12, 19}, 760, {1, 7}, {1, 3}, {0, 15}, {1, 5}),     // A row of taps.
      dilated_conv(3, {16, 17}, 136, {5, 5}, {1, 1}, {8, 8}, {4, 4}),
  };
  for (const GemmProblem& p : problems) {
    for (bool warpgroups : {false, true}) {
      int skipping = 0;
      for (const GemmConfig& c : gemm_configs(p, {.warpgroups = warpgroups}, 100)) {
        if (!c.skips) continue;
        ++skipping;
        expect_what_results_need(p, c);
      }
      if (warpgroups) EXPECT_GT(skipping, 0) << p.height;
    }
  }
}

TEST(ImplicitGemmPlan, LargeDilationsLeaveStagesOut) {
  for (int64_t images : {1, 8}) {
    double before = 1e9;
    for (int64_t dilation : {12, 24, 36}) {
      const GemmConfig best = gemm_configs(pyramid_conv(images, dilation), {}, 1).front();
      EXPECT_TRUE(best.skips) << best.text();
      EXPECT_LT(best.microseconds, before);
      before = best.microseconds;
      std::vector<GemmConfig> rings = gemm_configs(pyramid_conv(images, dilation), {.warpgroups = false}, 12);
      EXPECT_TRUE(std::any_of(rings.begin(), rings.end(), [](const GemmConfig& c) { return c.skips; }));
    }
  }
}

TEST(ImplicitGemmPlan, ClustersHaveTheTilesOfAPipelineWhereThereAreFew) {
  for (int64_t bytes : {2, 4}) {
    GemmProblem p = square_conv(1, 32, 1024, 512, 3, 1, bytes);
    int clustered = 0;
    for (const GemmConfig& c : gemm_configs(p, {}, 100)) {
      if (c.source != GemmSource::kPipeline || c.splits == 1) continue;
      ++clustered;
      EXPECT_EQ(c.launched_blocks(p, {}), c.row_tiles(p) * c.column_tiles(p) * c.splits) << c.text();
      // Sums of all blocks lie where the stages were.
      EXPECT_LE(4 * c.rows * (c.columns + 4), c.stages * 128 * (c.rows + c.columns)) << c.text();
    }
    EXPECT_GT(clustered, 0);
    for (const GemmConfig& c : gemm_configs(p, {.clusters = false}, 100)) EXPECT_EQ(c.splits, 1) << c.text();
  }
}

TEST(ImplicitGemmPlan, WhereHardlyAnyTapIsOutsideAllStagesStay) {
  for (int64_t dilation : {1, 2}) {
    for (const GemmConfig& c : gemm_configs(pyramid_conv(8, dilation), {}, 100)) EXPECT_FALSE(c.skips) << c.text();
  }
  for (const GemmConfig& c : gemm_configs(square_conv(32, 14, 512, 512, 1, 1), {}, 100)) EXPECT_FALSE(c.skips);
}

}  // namespace
}  // namespace torchweld::cuda
