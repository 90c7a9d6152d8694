#include "kernels/cuda/inverted_residual_tiling.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "kernels/cuda/own_kernel.h"
#include "kernels/cuda/pooled_parts.h"

namespace torchweld::cuda {
namespace {

/// Cycles of an SM in which a warp computes one item of the depthwise part, a group of results for each of its threads:
/// those in which its four schedulers issue instructions, and those in which shared memory moves 128 bytes.
int64_t cycles_of_item(const InvertedResidual& block, const ResidualLayout& layout) {
  const int64_t function = block.costly_functions ? 12 : 4;  // instructions per result
  int64_t group = layout.group_h * layout.group_w;
  int64_t taps = block.window[0] * block.window[1];
  int64_t span = (layout.group_w - 1) * block.stride[1] + block.window[1];
  int64_t reads = layout.group_h * block.window[0] * span;
  int64_t instructions =
      group * (taps + function) * layout.width + taps * layout.width / 4 + reads * (layout.width + 2);
  return instructions / 4 + taps * layout.width + (reads + group) * layout.width / 2;
}

/// Chooses how many channels and results a thread computes at once.
void choose_groups(const InvertedResidual& block, ResidualLayout& layout) {
  const Tiling& tiling = layout.tiling;
  int64_t threads = 32 * tiling.warps;
  int64_t items = tiling.height * tiling.width * layout.hidden / 8;
  if (items < 2 * threads || block.scales) {
    layout.width = items >= threads ? 8 : 4 * items >= threads ? 4 : 2;
    return;
  }
  // Neighbouring results share the window's weights and most of what they read, as far as registers hold their sums.
  constexpr int64_t kMostRegisters = 72, kMostResults = 8;
  int64_t least = std::numeric_limits<int64_t>::max();
  ResidualLayout tried = layout, best = layout;
  for (tried.width = 8; tried.width >= 4; tried.width /= 2) {
    for (tried.group_h = 1; tried.group_h <= std::min<int64_t>(tiling.height, kMostResults); ++tried.group_h) {
      for (tried.group_w = 1; tried.group_w <= std::min(tiling.width, kMostResults / tried.group_h); ++tried.group_w) {
        int64_t group = tried.group_h * tried.group_w;
        if (tiling.height % tried.group_h != 0 || tiling.width % tried.group_w != 0 ||
            (group + block.window[1]) * tried.width > kMostRegisters)
          continue;
        int64_t rounds = ceil_div(tiling.height * tiling.width / group * (layout.hidden / tried.width), threads);
        int64_t cycles = rounds * cycles_of_item(block, tried);
        if (cycles >= least) continue;
        least = cycles;
        best = tried;
      }
    }
  }
  layout = best;
}

/// A product of rows x columns x depth in tiles of 16x16x16, shared among the warps of a block.
struct Product {
  double rounds = 0;  ///< Tiles of the result that a warp computes one after the other.
  double tiles = 0;
  double steps = 0;
};
Product product_of(int64_t rows, int64_t columns, int64_t depth, int64_t warps) {
  int64_t tiles = ceil_div(rows, 16) * ceil_div(columns, 16);
  return {static_cast<double>(ceil_div(tiles, warps)), static_cast<double>(tiles),
          static_cast<double>(ceil_div(depth, 16))};
}

/// Blocks that run at once, as far as shared memory and, for clusters, groups of 16 SMs let them.
int64_t resident_blocks(const InvertedResidual& block, const ResidualLayout& layout, const DeviceLimits& limits) {
  constexpr int64_t kReserved = 1024, kThreads = 2048, kGroup = 16;
  const Tiling& tiling = layout.tiling;
  int64_t each = std::max<int64_t>(
      1, std::min(limits.shared_bytes / (layout.shared_bytes + kReserved), kThreads / (32 * tiling.warps)));
  if (cluster_of(block, layout) == 1) return limits.processors * each;
  int64_t clusters = limits.processors / kGroup * (kGroup * each / tiling.splits);
  return std::max<int64_t>(clusters, 1) * tiling.splits;
}

/// The layout with blocks that take several tiles. Nothing where that cannot be, for clusters and where tiles are
/// counted by blocks, or does not pay, since registers leave room for much fewer of these blocks than of others.
std::optional<ResidualLayout> persistent_of(const InvertedResidual& block, ResidualLayout layout,
                                            const DeviceLimits& limits) {
  if (cluster_of(block, layout) > 1 || block.scales || block.pools || block.squeezed > 0) return std::nullopt;
  constexpr int64_t kRegisters = 65536;              // of an SM
  constexpr int64_t kSmallWindow = 80, kUsual = 64;  // of a thread with a window of 3, persistent and not
  constexpr int64_t kLargeWindow = 96;               // of a thread with a larger one
  const int64_t threads = 32 * layout.tiling.warps, each = layout.resident / limits.processors;
  auto together = [&](int64_t registers) { return std::clamp<int64_t>(kRegisters / (threads * registers), 1, each); };
  const bool small_window = block.window[1] <= 3;
  layout.tiling.persistent = true;
  layout.together = together(small_window ? kSmallWindow : kLargeWindow);
  layout.resident = limits.processors * layout.together;
  // One instead of two; three instead of four are enough.
  if (small_window && 4 * layout.together < 3 * together(kUsual)) return std::nullopt;
  return layout;
}

/// Cycles of an SM for the depthwise part of a block of threads.
double depthwise_cycles(const InvertedResidual& block, const ResidualLayout& layout) {
  if (block.scales) return 0;
  const Tiling& tiling = layout.tiling;
  int64_t items = tiling.height * tiling.width / (layout.group_h * layout.group_w) * (layout.hidden / layout.width);
  return static_cast<double>(ceil_div(items, 32) * cycles_of_item(block, layout));
}

}  // namespace

std::string Tiling::text() const {
  return std::to_string(height) + "x" + std::to_string(width) + " split" + std::to_string(splits) + " warps" +
         std::to_string(warps) + (persistent ? " persistent" : "");
}

int64_t tiles_of(const InvertedResidual& block, const Tiling& tiling) {
  return ceil_div(block.image[0], tiling.height) * ceil_div(block.image[1], tiling.width);
}

int64_t blocks_of(const InvertedResidual& block, const Tiling& tiling) {
  return block.batch * tiles_of(block, tiling) * tiling.splits;
}

int64_t cluster_of(const InvertedResidual& block, const ResidualLayout& layout) {
  return block.projects ? layout.tiling.splits : 1;
}

namespace {

ResidualLayout lay_out(const InvertedResidual& block, const Tiling& tiling) {
  ResidualLayout layout{.tiling = tiling};
  constexpr int64_t kPad = 8;              // elements, so that ldmatrix finds 8 rows in 8 different banks
  constexpr int64_t kPooledChannels = 32;  // Of a warp that adds up results; see write_and_pool.
  constexpr int64_t kMostShares = 16;
  layout.hidden = block.hidden / tiling.splits;
  layout.region_h = (tiling.height - 1) * block.stride[0] + (block.window[0] - 1) * block.dilation[0] + 1;
  layout.region_w = (tiling.width - 1) * block.stride[1] + (block.window[1] - 1) * block.dilation[1] + 1;
  choose_groups(block, layout);
  layout.in_step = round_up(block.in, 16) + kPad;
  layout.hidden_step = round_up(layout.hidden, 16) + kPad;
  int64_t end = 0;
  auto take = [&end](int64_t& at, int64_t bytes) {
    at = end;
    end += round_up(bytes, 16);
  };
  int64_t hidden_rows = round_up(layout.hidden, 16), out_rows = round_up(block.out, 16);
  take(layout.expand_at, block.expands ? hidden_rows * layout.in_step * 2 : 0);
  take(layout.project_at, block.projects ? out_rows * layout.hidden_step * 2 : 0);
  take(layout.depthwise_at, block.scales ? 0 : block.window[0] * block.window[1] * layout.hidden * 4);
  take(layout.expand_bias_at, block.expands ? hidden_rows * 4 : 0);
  take(layout.depthwise_bias_at, block.scales ? 0 : layout.hidden * 4);
  take(layout.project_bias_at, block.projects ? out_rows * 4 : 0);
  int64_t squeezed4 = round_up(block.squeezed, 4);
  if (block.squeezed > 0) {
    layout.squeeze_step = row_step(layout.hidden);
    layout.excite_step = row_step(block.squeezed);
    take(layout.squeeze_at, squeezed4 * layout.squeeze_step * 2);
    take(layout.excite_at, layout.hidden * layout.excite_step * 2);
    take(layout.squeeze_bias_at, block.squeezed * 4);
    take(layout.excite_bias_at, layout.hidden * 4);
  }
  layout.weights_bytes = end;
  int64_t region = round_up(layout.region_h * layout.region_w, 16);
  int64_t tile = tiling.height * tiling.width;
  constexpr int64_t kBarriers = 32;
  end = kBarriers;
  take(layout.weights_at, layout.weights_bytes);
  take(layout.covered_at, block.expands ? region : 0);
  take(layout.x_at, block.expands ? region * layout.in_step * 2 : 0);
  take(layout.hidden_at, region * layout.hidden_step * 2);
  if (block.scales) {
    layout.result_at = layout.hidden_at;
    layout.out_step = block.out + kPad;
    take(layout.gates_at, layout.hidden * 2);
    take(layout.added_at, block.adds_input ? tile * layout.out_step * 2 : 0);
  } else {
    take(layout.result_at, block.projects || block.pools ? round_up(tile, 16) * layout.hidden_step * 2 : 0);
  }
  bool reduces = block.projects && tiling.splits > 1;
  take(layout.sums_at, reduces ? tiling.splits * ceil_div(tile * block.out / 4, tiling.splits) * 16 : 0);
  int64_t threads = 32 * tiling.warps;
  if (block.pools) {
    layout.pool_shares = std::max<int64_t>(1, tiling.warps / ceil_div(layout.hidden, kPooledChannels));
    take(layout.pool_at, layout.pool_shares * layout.hidden * 4);
  }
  if (block.squeezed > 0) {
    layout.pool_shares = std::clamp<int64_t>(threads / (layout.hidden / 4), 1, kMostShares);
    take(layout.pool_at, layout.pool_shares * layout.hidden * 4);
    take(layout.means_at, layout.hidden * 4);
    take(layout.partial_at, squeezed4 * 4);
    take(layout.exchanged_at, tiling.splits > 1 ? tiling.splits * squeezed4 * 4 : 0);
    take(layout.squeezed_at, round_up(block.squeezed, 8) * 4);
  }
  layout.shared_bytes = end;
  return layout;
}

/// Microseconds that a model of the hardware gives for one run. The layout knows how many blocks are resident.
double estimate_microseconds(const InvertedResidual& block, const ResidualLayout& layout, const DeviceLimits& limits) {
  const Tiling& tiling = layout.tiling;
  int64_t region = layout.region_h * layout.region_w;
  int64_t tile = tiling.height * tiling.width;
  int64_t blocks = blocks_of(block, tiling);
  auto number = [](int64_t n) { return static_cast<double>(n); };
  // Fitted to 550 measurements of 65 blocks on an H100; relative error 9 % (root mean square).
  double work = 1.7e-5 * number(region * (block.expands ? block.in : layout.hidden) * 2) +
                5.5e-4 * depthwise_cycles(block, layout);
  if (block.expands) {
    Product expand = product_of(region, layout.hidden, block.in, tiling.warps);
    work += 7.3e-3 * expand.tiles * expand.steps + 0.075 * expand.rounds;
    work += (block.costly_functions ? 2.5e-2 : 4.8e-3) * expand.tiles;
  }
  if (block.projects) {
    Product project = product_of(tile, block.out, layout.hidden, tiling.warps);
    work += 1.27e-2 * project.tiles * project.steps + 8.7e-3 * project.rounds * project.steps;
  }
  double fixed = 1.22 + (tiling.warps > 8 ? 0.04 : tiling.warps < 8 ? 0.22 : 0);
  if (block.projects && tiling.splits > 1) fixed += 0.44 + 1.28e-5 * number(tiling.splits * tile * block.out);
  // Guesses beside the other kernel's model.
  if (block.pools) fixed += 0.15;
  if (block.squeezed > 0) {
    fixed += 0.8 + (tiling.splits > 1 ? 0.4 : 0);
    work += 7.8e-6 * number(2 * block.squeezed * layout.hidden);
  }
  fixed += 0.58 * std::min(number(blocks) / limits.processors, 3.0);
  // The next kernel starts early where there is room for its blocks beside this one's.
  double share = number(blocks) / number(layout.resident);
  if (share > 0.5) fixed += 0.41;
  if (share > 1 && tiling.splits > 1) fixed += 3.1;
  // More than one block per SM shares it.
  double per_processor = number(ceil_div(blocks, limits.processors));
  return fixed + work * (1 + 0.5 * (per_processor - 1));
}

}  // namespace

std::vector<ResidualLayout> rank_layouts(const InvertedResidual& block, const DeviceLimits& limits,
                                         const std::set<std::string>* wanted) {
  constexpr int64_t kMostSplits = 16;
  constexpr int kClusters = 9;
  constexpr int64_t kTileSizes[] = {1, 2, 3, 4, 5, 7, 8, 14, 16};
  constexpr int64_t kMostResults = 128;
  bool needs_all_channels = block.adds_input && !block.expands && !block.scales;
  // Texts are made for few: this is for calls that wait.
  std::set<std::pair<int64_t, int64_t>> tiles;
  if (wanted) {
    for (const std::string& name : *wanted) {
      int height = 0;
      int width = 0;
      if (std::sscanf(name.c_str(), "%dx%d", &height, &width) == 2) tiles.emplace(height, width);
    }
  }
  std::vector<ResidualLayout> layouts;
  for (int64_t splits = 1; splits <= kMostSplits; ++splits) {
    if (block.hidden / 8 % splits != 0) continue;
    if (splits > 1 && block.projects && (limits.major < kClusters || needs_all_channels)) continue;
    for (int64_t height : kTileSizes) {
      for (int64_t width : kTileSizes) {
        if (height > width || height > block.image[0] + 1 || width > 2 * block.image[1] || height > 2 * block.image[0])
          continue;
        if (height * width > kMostResults || (wanted && !tiles.count({height, width}))) continue;
        for (int64_t warps : {4, 8, 16}) {
          auto is_wanted = [&](bool persistent) {
            return !wanted || wanted->count(Tiling{height, width, splits, warps, persistent}.text());
          };
          if (!is_wanted(false) && !is_wanted(true)) continue;
          ResidualLayout layout = lay_out(block, {height, width, splits, warps});
          if (layout.shared_bytes > limits.shared_bytes) continue;
          layout.resident = resident_blocks(block, layout, limits);
          layout.microseconds = estimate_microseconds(block, layout, limits);
          // With fewer tiles the weights come nearly as often, and blocks wait for their input as long; with few blocks
          // for a column of tiles their number is rounded too far down.
          constexpr int64_t kManyTiles = 2, kManyBlocks = 4;
          std::optional<ResidualLayout> persistent = persistent_of(block, layout, limits);
          bool many = blocks_of(block, layout.tiling) >= kManyTiles * layout.resident && persistent &&
                      persistent->resident >= kManyBlocks * ceil_div(block.image[1], width) * splits;
          bool persists = persistent && (wanted ? is_wanted(true) : many);
          if (persists) layouts.push_back(*persistent);
          if (wanted ? is_wanted(false) : !persists) layouts.push_back(layout);
        }
      }
    }
  }
  std::stable_sort(layouts.begin(), layouts.end(),
                   [](const ResidualLayout& a, const ResidualLayout& b) { return a.microseconds < b.microseconds; });
  // The model errs most between numbers of splits, so the best of each come before further ones of the same.
  constexpr int kOfOneKind = 6;
  std::map<int64_t, int> seen;
  std::stable_partition(layouts.begin(), layouts.end(),
                        [&](const ResidualLayout& layout) { return ++seen[layout.tiling.splits] <= kOfOneKind; });
  return layouts;
}

}  // namespace torchweld::cuda
