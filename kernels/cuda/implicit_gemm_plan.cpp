#include "kernels/cuda/implicit_gemm_plan.h"

#include <algorithm>
#include <bit>
#include <map>
#include <set>
#include <utility>

#include "kernels/cuda/implicit_gemm_estimate.h"
#include "kernels/cuda/implicit_gemm_names.h"
#include "kernels/cuda/implicit_gemm_order.h"

namespace torchweld::cuda {
namespace {

constexpr int64_t kHeaderBytes = 128;
constexpr int64_t kStageChunks = 8;  ///< Of kStages and kPipeline: 128 bytes.

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Pixels of x that the results [first, last] need, in whole rows of the images.
int64_t patch_pixels(const GemmProblem& p, int64_t first, int64_t last) {
  auto top_row = [&](int64_t m) { return m / p.out_width % p.out_height * p.stride[0] - p.padding[0]; };
  auto image = [&](int64_t m) { return m / (p.out_width * p.out_height); };
  int64_t top = image(first) * p.height + std::clamp<int64_t>(top_row(first), 0, p.height - 1);
  int64_t lowest = std::min(top_row(last) + (p.window[0] - 1) * p.dilation[0], p.height - 1);
  int64_t bottom = image(last) * p.height + std::max<int64_t>(lowest, -1);
  return std::max<int64_t>(bottom + 1 - top, 0) * p.width;
}

/// Pixels of the padded images that the results [first, last] need, in whole rows.
int64_t padded_pixels(const GemmProblem& p, int64_t first, int64_t last) {
  auto line = [&](int64_t m) {
    return m / (p.out_width * p.out_height) * p.padded_height() + m / p.out_width % p.out_height * p.stride[0];
  };
  return (line(last) - line(first) + p.window[0]) * p.padded_width();
}

int64_t largest_patch(const GemmProblem& p, const GemmConfig& c) {
  if (c.source != GemmSource::kPatch && c.source != GemmSource::kPixels) return 0;
  auto pixels = c.source == GemmSource::kPatch ? patch_pixels : padded_pixels;
  int64_t most = 0;
  for (int64_t first = 0; first < p.rows(); first += c.rows)
    most = std::max(most, pixels(p, first, std::min(first + c.rows, p.rows()) - 1));
  return most;
}

bool allows(const GemmProblem& p, GemmSource source) {
  if (p.first_channels > 0 && source != GemmSource::kRows && source != GemmSource::kStages) return false;
  switch (source) {
    case GemmSource::kRows:
    case GemmSource::kRing:
      return true;
    case GemmSource::kStages:
      return p.vector_reads;
    case GemmSource::kPipeline:  // A thread holds so many results that code for each alone takes long to compile.
      return p.vector_reads && p.vector_writes;
    case GemmSource::kPatch:  // They are read as one run of pixels.
      return p.taps() > 1 && p.in[1] == p.width * p.in[2] && (p.images == 1 || p.in[0] == p.height * p.in[1]);
    case GemmSource::kPixels:
      return p.channels <= 4 && p.dilation[0] == 1 && p.dilation[1] == 1;
  }
  return false;
}

int64_t shared_bytes(const GemmProblem& p, const GemmConfig& c) {
  if (c.source == GemmSource::kRing) {
    int64_t weights = int64_t{16} * c.stages * c.columns * (c.stage_chunks + 1);
    return kHeaderBytes + c.x_bytes(p) + weights + c.stage_count(p) * c.stage_chunks * 8;
  }
  constexpr int64_t kHeaderAndAlignment = 256 + 1024;
  if (c.source == GemmSource::kPipeline) {
    int64_t table = p.is_pointwise() ? 0 : c.stage_count(p) * kStageChunks * 8;
    return kHeaderAndAlignment + c.stages * (c.rows + c.columns) * kStageChunks * 16 + table;
  }
  if (c.source == GemmSource::kStages) {
    int64_t slots = c.splits > 1 ? int64_t{4} * c.rows * (c.columns + 4) : 0;
    int64_t table = p.is_pointwise() ? 0 : c.stage_count(p) * kStageChunks * 8;
    return kHeaderAndAlignment + c.kept_stages(p) * (c.rows + c.columns) * kStageChunks * 16 + table + slots;
  }
  int64_t slots = c.summed() ? int64_t{4} * c.warps_k * c.rows * (c.columns + 4) : 0;
  int64_t weights = c.columns * c.pitch(p) * 16;
  int64_t extra = 0;
  if (c.source == GemmSource::kPatch) extra = c.slice * 16;
  if (c.source == GemmSource::kRows && !p.is_pointwise()) extra = 2 * c.steps(p) * 8;
  return kHeaderBytes + slots + weights + c.x_bytes(p) + extra;
}

/// Whether a configuration may leave stages out.
bool may_skip(const GemmConfig& c) {
  return c.source == GemmSource::kRing || c.source == GemmSource::kPipeline || c.kept > 0;
}

/// Threads that read one row together: no more than it has chunks, no fewer than there are threads for a row.
int lanes_for(const GemmProblem& p, const GemmConfig& c) {
  if (c.source != GemmSource::kRows && c.source != GemmSource::kPatch) return 1;
  bool patch = c.source == GemmSource::kPatch;
  auto chunks = static_cast<uint64_t>(patch ? c.pixel_pitch(p) - 1 : 2 * c.steps(p));
  auto most = static_cast<int>(std::min<uint64_t>(std::bit_ceil(chunks), patch ? 32 : 8));
  return std::max(most, patch ? 1 : c.threads() / c.rows);
}

/// Chunks of one tap in a block of kRows, and of all sources without pairs of chunks of their own. Where channels are
/// not split a step may take the last chunk of one tap and the first of the next.
int64_t chunks_of_tap(const GemmProblem& p, int splits) {
  int64_t chunks = ceil_div(p.channels, p.chunk());
  return splits == 1 ? chunks : 2 * ceil_div(ceil_div(chunks, 2), splits);
}

/// True when a warp can read the channels of its group from a tile's without reading others.
bool keeps_groups_apart(const GemmProblem& p, const GemmConfig& c) {
  if (p.groups % c.groups != 0) return false;
  if (c.source == GemmSource::kPixels) return true;
  int64_t chunks = p.channels / p.chunk();
  return p.vector_reads && (chunks == 1 || chunks % 2 == 0);
}

/// True when it makes sense: every block has channels, warps have steps, registers suffice.
bool is_sensible(const GemmProblem& p, const GemmConfig& c) {
  int m_tiles = c.rows / c.warps_m / 16;
  int n_tiles = c.columns / c.warps_n / 8;
  int most_tiles = c.teams > 1 ? 48 : c.source == GemmSource::kRing || c.source == GemmSource::kPipeline ? 32 : 16;
  if (m_tiles < 1 || n_tiles < 1 || m_tiles * n_tiles > most_tiles) return false;
  if (m_tiles > 4 && !c.swapped()) return false;
  if (c.groups > 1) return keeps_groups_apart(p, c) && m_tiles <= (c.source == GemmSource::kPixels ? 2 : 4);
  // With groups there are tiles enough.
  if (p.groups > 1 && c.columns >= 2 * p.outputs && c.columns > 8) return false;
  if (c.source == GemmSource::kPixels) return m_tiles <= 2;
  if (c.source == GemmSource::kStages) return c.columns < 2 * p.outputs;
  if (c.source == GemmSource::kPipeline) return c.columns < 2 * p.outputs;
  if (c.source == GemmSource::kRing) return c.threads() / c.stage_chunks <= c.rows;
  int warps = c.warps_m * c.warps_n * c.warps_k;
  if (c.threads() / c.rows > 32 || (warps != 4 && warps != 8)) return false;
  int64_t pairs = ceil_div(ceil_div(p.channels, p.chunk()), 2);
  // Every warp's sums would go through the cluster.
  if (c.splits > 1 && (c.warps_k > 1 || pairs % c.splits != 0 || pairs / c.splits < 2)) return false;
  bool patch = c.source == GemmSource::kPatch;
  return c.warps_k <= (patch ? ceil_div(pairs, c.splits) : ceil_div(p.taps() * chunks_of_tap(p, c.splits), 2));
}

/// Collects the configurations that are possible: with `wanted`, only those of such names.
class Search {
 public:
  Search(const GemmProblem& problem, const GemmDevice& device, const std::set<std::string>* wanted)
      : p_(problem), device_(device), wanted_(wanted) {
    bool may_skip = !wanted;
    if (wanted) {
      for (const std::string& name : *wanted) {
        tiles_.emplace_back(name);
        may_skip = may_skip || names_skips(name);
      }
    }
    if (problem.is_pointwise() || !may_skip) return;
    runs_ = gemm_runs(problem);
    least_share_ = share_inside(problem, runs_);
  }

  const GemmProblem& problem() const { return p_; }
  const GemmDevice& device() const { return device_; }
  std::vector<GemmConfig>& found() { return found_; }

  /// Whether a configuration of such a tile is wanted by its name.
  bool names(int rows, int columns) const {
    return std::any_of(tiles_.begin(), tiles_.end(),
                       [&](const NamedTile& tile) { return tile.rows == rows && tile.columns == columns; });
  }
  bool wants(int rows, int columns) const { return !wanted_ || names(rows, columns); }

  /// False when it is not possible. Adds it once more where leaving stages out pays.
  bool add(const GemmConfig& tile) {
    if (wanted_ && std::none_of(tiles_.begin(), tiles_.end(), [&](const NamedTile& one) { return one.is_of(tile); }))
      return false;
    GemmConfig c = tile;
    if (!allows(p_, c.source) || !is_sensible(p_, c)) return false;
    c.slice = chunks_of_tap(p_, c.splits);
    // All taps of a patch are shared evenly by the warps along k.
    if (c.source == GemmSource::kPatch) c.slice = ceil_div(c.slice, 2 * c.warps_k) * 2 * c.warps_k;
    if (c.source == GemmSource::kPixels) c.slice = ceil_div(p_.window[1] * 4, 2 * p_.chunk()) * 2;
    c.patch_pixels = patch_of(c);
    c.lanes = lanes_for(p_, c);
    c.shared_bytes = shared_bytes(p_, c);
    if (c.shared_bytes > device_.shared_bytes) return false;
    c.microseconds = gemm_microseconds(p_, c, device_);
    keep(c);
    // What is left out is worth more than the look at the order of results.
    constexpr double kPays = 0.9;
    constexpr double kMicrosecondsToLook = 0.5;
    if (may_skip(c) && least_share_ <= kPays) {
      c.shares = shares_of(c.rows);
      if (c.shares.mean > kPays) return true;
      c.skips = true;
      c.microseconds = gemm_microseconds(p_, c, device_) + kMicrosecondsToLook;
      keep(c);
    }
    return true;
  }

 private:
  void keep(const GemmConfig& c) {
    if (!wanted_ || wanted_->count(c.text())) found_.push_back(c);
  }
  GemmShares shares_of(int rows) {
    auto [known, is_new] = shares_.try_emplace(rows);
    if (is_new) known->second = gemm_shares(p_, runs_, rows);
    return known->second;
  }
  int64_t patch_of(const GemmConfig& c) {
    auto [known, is_new] = patches_.try_emplace({c.source, c.rows}, 0);
    if (is_new) known->second = largest_patch(p_, c);
    return known->second;
  }

  const GemmProblem& p_;
  const GemmDevice& device_;
  const std::set<std::string>* wanted_;
  std::vector<NamedTile> tiles_;  // of the wanted
  std::vector<GemmConfig> found_;
  std::map<std::pair<GemmSource, int>, int64_t> patches_;
  std::vector<GemmRun> runs_;
  double least_share_ = 1;  ///< Of all taps, if every result were a tile of its own.
  std::map<int, GemmShares> shares_;
};

/// Of the narrowest tile: 8 only where a group has no more.
int least_columns(const GemmProblem& p) { return p.outputs <= 8 ? 8 : 16; }

/// All ways that keep the whole k of a block in shared memory.
void add_resident(Search& search) {
  GemmConfig c;
  for (c.rows = 16; c.rows <= 128; c.rows *= 2) {
    for (c.columns = least_columns(search.problem()); c.columns <= 128; c.columns *= 2) {
      if (!search.wants(c.rows, c.columns)) continue;
      for (c.warps_m = 1; c.warps_m <= c.rows / 16; c.warps_m *= 2) {
        for (c.warps_n = 1; c.warps_n <= c.columns / 8; c.warps_n *= 2) {
          for (c.warps_k = 1; c.warps_k <= 8; c.warps_k *= 2) {
            for (c.splits = 1; c.splits <= (search.device().clusters ? 8 : 1); c.splits *= 2) {
              for (GemmSource source : {GemmSource::kRows, GemmSource::kPatch}) {
                c.source = source;
                search.add(c);
              }
            }
          }
        }
      }
    }
  }
}

/// All ways for images of few channels: rows come in any multiple of 16, so that they may fit the width.
void add_shallow(Search& search) {
  GemmConfig c;
  c.source = GemmSource::kPixels;
  for (c.warps_m = 2; c.warps_m <= 8; ++c.warps_m) {
    for (int m_tiles : {1, 2}) {
      c.rows = c.warps_m * m_tiles * 16;
      for (c.columns = least_columns(search.problem()); c.columns <= 64; c.columns *= 2) {
        for (c.warps_n = 1; c.warps_n <= 2; ++c.warps_n) search.add(c);
      }
    }
  }
}

/// All ways in which a block has several narrow groups.
void add_narrow_groups(Search& search) {
  const GemmProblem& p = search.problem();
  constexpr int64_t kNarrow = 32;
  if (p.groups == 1 || p.outputs > kNarrow) return;
  GemmConfig c;
  for (c.groups = 2; c.groups <= 8; c.groups *= 2) {
    c.warps_n = c.groups;
    c.columns = c.groups * static_cast<int>(ceil_div(p.outputs, 8) * 8);
    constexpr int kMostWarps = 16;
    for (c.warps_m = 1; c.warps_m * c.groups <= kMostWarps; ++c.warps_m) {
      for (int m_tiles : {1, 2, 4}) {
        c.rows = c.warps_m * m_tiles * 16;
        for (GemmSource source : {GemmSource::kPatch, GemmSource::kPixels}) {
          c.source = source;
          search.add(c);
        }
      }
    }
  }
}

/// All ways in which operands pass through a ring.
void add_rings(Search& search) {
  GemmConfig c;
  c.source = GemmSource::kRing;
  constexpr int kTiles[][4] = {{128, 128, 2, 4}, {128, 128, 2, 2}, {128, 64, 4, 2},  {128, 64, 2, 2}, {64, 128, 2, 2},
                               {64, 64, 2, 2},   {256, 128, 4, 2}, {128, 256, 2, 4}, {256, 64, 4, 2}, {128, 32, 4, 1}};
  for (const auto& tile : kTiles) {
    c.rows = tile[0], c.columns = tile[1], c.warps_m = tile[2], c.warps_n = tile[3];
    // Words of f32 need registers on their way to TF32.
    constexpr int kManyResults = 64 * 32;
    if (search.problem().element_bytes == 4 && c.rows * c.columns / (c.warps_m * c.warps_n) > kManyResults) continue;
    if (c.columns >= 2 * search.problem().outputs && c.columns > 32) continue;
    for (auto [stages, chunks] : {std::pair(4, 4), std::pair(3, 8)}) {
      c.stages = stages, c.stage_chunks = chunks;
      search.add(c);
    }
  }
}

/// All ways in which warpgroups multiply tiles of this size, shared by these warps.
void add_stages(Search& search, int rows, int columns, int warps_m, int warps_n) {
  GemmConfig c;
  c.source = GemmSource::kStages;
  c.rows = rows, c.columns = columns, c.warps_m = warps_m, c.warps_n = warps_n;
  bool power_of_two = (columns & (columns - 1)) == 0;
  for (c.splits = 1; c.splits <= (power_of_two && search.device().clusters ? 8 : 1); c.splits *= 2) {
    int64_t chunks = ceil_div(search.problem().channels, search.problem().chunk());
    if (c.splits > 1 && (chunks % (c.splits * kStageChunks) != 0 || rows % c.splits != 0)) continue;
    int64_t stages = ceil_div(search.problem().taps() * ceil_div(chunks, c.splits), kStageChunks);
    // In about four parts.
    c.stages = static_cast<int>(ceil_div(stages, 4));
    c.kept = 0;
    if (search.add(c)) continue;
    // Not all fits. As many bytes are on their way as keep the way busy, beside the part that is multiplied and the one
    // before; or as many as fit, so that more of the weights come before the kernel ahead has ended.
    constexpr int64_t kOnTheWay = 64 << 10;
    constexpr int kMostKept = 24;
    const int least = 2 + static_cast<int>(ceil_div(kOnTheWay, kStageChunks * 16 * (c.rows + c.columns)));
    c.stages = 1;
    c.kept = least;
    if (c.kept >= stages || !search.add(c)) continue;
    c.kept = static_cast<int>(std::min<int64_t>(stages - 1, kMostKept));
    while (c.kept > least && !search.add(c)) --c.kept;
  }
}

/// Sizes of tiles that leave less of the last one empty than tiles of 64 rows; and those that are wanted.
std::set<int> rows_of_swapped(const Search& search) {
  constexpr int kMostRows = 128;
  constexpr int64_t kManyRows = 512;
  const int64_t rows = search.problem().rows();
  std::set<int> sizes;
  for (int own = 16; own <= kMostRows; own += 16) {
    if (search.names(own, 64) || search.names(own, 128)) sizes.insert(own);
  }
  const int64_t fewest = ceil_div(rows, kMostRows);
  for (int64_t tiles : {fewest, fewest + 1}) {
    auto own = static_cast<int>(ceil_div(ceil_div(rows, tiles), 16) * 16);
    if (rows <= kManyRows && ceil_div(rows, own) * own < ceil_div(rows, 64) * 64) sizes.insert(own);
  }
  return sizes;
}

/// All ways in which warpgroups multiply, with operands swapped where that pays.
void add_warpgroups(Search& search) {
  if (!search.device().warpgroups) return;
  for (int rows : {64, 128}) {
    for (int columns : {8, 16, 32, 48, 64, 96, 128}) {
      if (columns >= least_columns(search.problem())) add_stages(search, rows, columns, rows / 16, 1);
    }
  }
  for (int rows : rows_of_swapped(search)) {
    add_stages(search, rows, 64, 1, 4);
    if (rows % 32 == 0) add_stages(search, rows, 128, 1, 8);
  }
}

/// All ways in which blocks stay for many tiles.
void add_pipelines(Search& search) {
  if (!search.device().warpgroups) return;
  GemmConfig c;
  c.source = GemmSource::kPipeline;
  // Columns, blocks on a processor, stages that fit, teams.
  constexpr int kTiles[][4] = {{256, 1, 4, 1}, {192, 1, 5, 1}, {128, 1, 6, 1}, {128, 2, 3, 1},
                               {96, 2, 3, 1},  {64, 2, 4, 1},  {192, 1, 5, 2}};
  for (const auto& tile : kTiles) {
    c.columns = tile[0], c.blocks = tile[1], c.stages = tile[2], c.teams = tile[3];
    c.rows = 128, c.warps_m = c.rows / 16 / c.teams;
    c.splits = 1;
    search.add(c);
    // A cluster's sums lie where the stages of a block that is alone on its processor were.
    constexpr int kMostSplits = 4;
    const bool may_split =
        c.blocks == 1 && c.teams == 1 && (c.columns & (c.columns - 1)) == 0 && search.device().clusters;
    int64_t chunks = ceil_div(search.problem().channels, search.problem().chunk());
    for (c.splits = 2; may_split && c.splits <= kMostSplits; c.splits *= 2) {
      if (chunks % (c.splits * kStageChunks) == 0) search.add(c);
    }
  }
}

/// Two that differ in nothing but how warps share the tile are unlikely to differ much in time.
bool is_like(const GemmConfig& a, const GemmConfig& b) {
  return a.rows == b.rows && a.columns == b.columns && a.splits == b.splits && a.source == b.source;
}

}  // namespace

int64_t GemmProblem::padded_width() const {
  int64_t per_step = 2 * chunk() / 4;
  return (out_width - 1) * stride[1] + (window[1] + per_step - 1) / per_step * per_step;
}

int64_t GemmConfig::steps(const GemmProblem& problem) const {
  int64_t parts = source == GemmSource::kPixels ? problem.window[0] : problem.taps();
  return ceil_div(parts * slice, 2 * warps_k) * warps_k;
}

int64_t GemmConfig::chunks_of_stage() const { return by_warpgroups() ? kStageChunks : stage_chunks; }

int64_t GemmConfig::stage_count(const GemmProblem& problem) const {
  int64_t chunks = chunks_of_stage();
  return chunks ? ceil_div(problem.taps() * slice, chunks) : 0;
}

int64_t GemmConfig::x_bytes(const GemmProblem& problem) const {
  switch (source) {
    case GemmSource::kRows:
      return rows * pitch(problem) * 16;
    case GemmSource::kPatch:
      return patch_pixels * pixel_pitch(problem) * 16;
    case GemmSource::kPixels:
      return ceil_div(patch_pixels * (groups > 1 ? groups + 1 : 1) * 4 * problem.element_bytes, 16) * 16;
    case GemmSource::kRing:
      return int64_t{16} * stages * rows * (stage_chunks + 1);
    case GemmSource::kStages:
      return kept_stages(problem) * kStageChunks * 16 * rows;
    case GemmSource::kPipeline:
      return stages * kStageChunks * 16 * rows;
  }
  return 0;
}

int64_t GemmConfig::launched_blocks(const GemmProblem& problem, const GemmDevice& device) const {
  if (source == GemmSource::kPipeline && splits > 1) return row_tiles(problem) * column_tiles(problem) * splits;
  if (source != GemmSource::kPipeline) return row_tiles(problem) * splits;
  return std::min(row_tiles(problem) * column_tiles(problem), device.processors * blocks);
}

std::vector<GemmConfig> gemm_configs(const GemmProblem& problem, const GemmDevice& device, size_t most,
                                     const std::set<std::string>* wanted) {
  Search search(problem, device, wanted);
  add_resident(search);
  add_shallow(search);
  add_narrow_groups(search);
  add_rings(search);
  add_warpgroups(search);
  add_pipelines(search);
  std::vector<GemmConfig>& all = search.found();
  std::stable_sort(all.begin(), all.end(),
                   [](const GemmConfig& a, const GemmConfig& b) { return a.microseconds < b.microseconds; });
  if (wanted) return std::move(all);
  // The estimate is least sure about clusters, so that a few of them are always looked at where they may be good.
  const size_t most_others = most - most / 4;
  constexpr double kHopeful = 1.5;
  std::vector<GemmConfig> best;
  size_t others = 0;
  for (const GemmConfig& c : all) {
    if (best.size() == most || c.microseconds > kHopeful * all.front().microseconds) break;
    if (c.splits == 1 && others == most_others) continue;
    constexpr int kMostAlike = 2;
    auto alike = std::count_if(best.begin(), best.end(), [&](const GemmConfig& other) { return is_like(c, other); });
    if (alike == kMostAlike) continue;
    best.push_back(c);
    others += c.splits == 1;
  }
  return best;
}

}  // namespace torchweld::cuda
