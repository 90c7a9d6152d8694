#include "kernels/cuda/implicit_gemm_order.h"

#include <algorithm>
#include <bit>
#include <map>

namespace torchweld::cuda {
namespace {

std::vector<GemmSpan> spans_along(const GemmProblem& p, int d, int64_t size, int64_t out_size) {
  std::vector<GemmSpan> spans;
  for (int64_t at = 0; at < out_size; ++at) {
    uint32_t taps = 0;
    for (int64_t tap = 0; tap < p.window[d]; ++tap) {
      int64_t position = at * p.stride[d] - p.padding[d] + tap * p.dilation[d];
      if (position >= 0 && position < size) taps |= 1u << tap;
    }
    if (spans.empty() || spans.back().taps != taps) spans.push_back({at, at, taps});
    spans.back().end = at + 1;
  }
  return spans;
}

/// Neighbours in the order of runs that a block computes together.
struct OrderedTile {
  int64_t first = 0, count = 0;  ///< Results.
  std::vector<bool> needed;      ///< Taps of the window, row by row.

  int64_t taps() const { return std::count(needed.begin(), needed.end(), true); }
};

void add_taps_of(const GemmProblem& p, const GemmRun& run, OrderedTile& tile) {
  for (int64_t tap = 0; tap < p.taps(); ++tap) {
    bool inside = run.rows.taps >> tap / p.window[1] & run.columns.taps >> tap % p.window[1] & 1;
    if (inside) tile.needed[tap] = true;
  }
}

std::vector<OrderedTile> ordered_tiles(const GemmProblem& p, const std::vector<GemmRun>& runs, int64_t tile_rows) {
  std::vector<OrderedTile> tiles;
  int64_t first = 0;
  for (const GemmRun& run : runs) {
    const int64_t end = first + run.results;
    while (first < end) {
      if (first % tile_rows == 0) tiles.push_back({first, 0, std::vector<bool>(p.taps())});
      OrderedTile& tile = tiles.back();
      const int64_t count = std::min(end, tile.first + tile_rows) - first;
      add_taps_of(p, run, tile);
      tile.count += count;
      first += count;
    }
  }
  return tiles;
}

/// Stages of k that hold a chunk of a tap that is needed.
std::vector<int32_t> stages_needed(const GemmProblem& p, const GemmConfig& c, const std::vector<bool>& needed) {
  const int64_t stages = c.stage_count(p);
  const int64_t chunks = c.chunks_of_stage();
  std::vector<int32_t> list;
  for (int64_t stage = 0; stage < stages; ++stage) {
    const auto first = needed.begin() + stage * chunks / c.slice;
    const auto end = needed.begin() + std::min(((stage + 1) * chunks - 1) / c.slice + 1, p.taps());
    if (std::find(first, end, true) != end) list.push_back(static_cast<int32_t>(stage));
  }
  return list;
}

/// The results in the order of runs.
std::vector<int32_t> results_in_order(const GemmProblem& p, const std::vector<GemmRun>& runs) {
  std::vector<int32_t> results;
  for (const GemmRun& run : runs) {
    for (int64_t image = 0; image < p.images; ++image) {
      for (int64_t row = run.rows.begin; row < run.rows.end; ++row) {
        const int64_t first = (image * p.out_height + row) * p.out_width;
        for (int64_t column = run.columns.begin; column < run.columns.end; ++column)
          results.push_back(static_cast<int32_t>(first + column));
      }
    }
  }
  return results;
}

}  // namespace

std::vector<GemmRun> gemm_runs(const GemmProblem& problem) {
  std::vector<GemmRun> runs;
  std::vector<GemmSpan> across = spans_along(problem, 1, problem.width, problem.out_width);
  for (const GemmSpan& rows : spans_along(problem, 0, problem.height, problem.out_height)) {
    for (const GemmSpan& columns : across)
      runs.push_back({rows, columns, problem.images * (rows.end - rows.begin) * (columns.end - columns.begin)});
    std::reverse(across.begin(), across.end());
  }
  return runs;
}

double share_inside(const GemmProblem& problem, const std::vector<GemmRun>& runs) {
  int64_t inside = 0;
  for (const GemmRun& run : runs)
    inside += run.results * std::popcount(run.rows.taps) * std::popcount(run.columns.taps);
  return static_cast<double>(inside) / static_cast<double>(problem.taps() * problem.rows());
}

GemmShares gemm_shares(const GemmProblem& problem, const std::vector<GemmRun>& runs, int64_t tile_rows) {
  const std::vector<OrderedTile> tiles = ordered_tiles(problem, runs, tile_rows);
  int64_t sum = 0;
  int64_t most = 0;
  for (const OrderedTile& tile : tiles) {
    sum += tile.taps();
    most = std::max(most, tile.taps());
  }
  auto taps = static_cast<double>(problem.taps());
  return {static_cast<double>(sum) / static_cast<double>(tiles.size()) / taps, static_cast<double>(most) / taps};
}

GemmOrder gemm_order(const GemmProblem& problem, const GemmConfig& config) {
  const std::vector<GemmRun> runs = gemm_runs(problem);
  const std::vector<int32_t> results = results_in_order(problem, runs);
  std::vector<OrderedTile> tiles = ordered_tiles(problem, runs, config.rows);
  // Rows past the last result are those of the last tile.
  std::stable_sort(tiles.begin(), tiles.end() - (tiles.back().count < config.rows),
                   [](const OrderedTile& a, const OrderedTile& b) { return a.taps() > b.taps(); });
  GemmOrder order;
  std::map<std::vector<bool>, std::pair<int32_t, int32_t>> known;
  std::vector<int32_t> stages;
  for (const OrderedTile& tile : tiles) {
    order.results.insert(order.results.end(), results.begin() + tile.first, results.begin() + tile.first + tile.count);
    auto [place, is_new] = known.try_emplace(tile.needed);
    if (is_new) {
      const std::vector<int32_t> list = stages_needed(problem, config, tile.needed);
      place->second = {static_cast<int32_t>(2 * tiles.size() + stages.size()), static_cast<int32_t>(list.size())};
      stages.insert(stages.end(), list.begin(), list.end());
    }
    order.lists.insert(order.lists.end(), {place->second.first, place->second.second});
  }
  order.lists.insert(order.lists.end(), stages.begin(), stages.end());
  return order;
}

}  // namespace torchweld::cuda
