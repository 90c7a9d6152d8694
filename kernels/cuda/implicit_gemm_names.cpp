#include "kernels/cuda/implicit_gemm_names.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace torchweld::cuda {
namespace {

constexpr const char* kSplit = " split";
constexpr const char* kSkips = " skips";

}  // namespace

std::string GemmConfig::text() const {
  auto number = [](int64_t n) { return std::to_string(n); };
  std::string text =
      number(rows) + "x" + number(columns) + " w" + number(warps_m) + "," + number(warps_n) + "," + number(warps_k);
  if (source == GemmSource::kPatch) text += " patch";
  if (source == GemmSource::kPixels) text += " pixels";
  if (groups > 1) text += " groups" + number(groups);
  if (source == GemmSource::kRing) text += " ring" + number(stages) + "x" + number(stage_chunks);
  if (source == GemmSource::kStages) text += " stages" + number(stages);
  if (kept > 0) text += " kept" + number(kept);
  if (source == GemmSource::kPipeline) text += " pipeline" + number(stages);
  if (teams > 1) text += " teams" + number(teams);
  if (splits > 1) text += kSplit + number(splits);
  if (skips) text += kSkips;
  return text;
}

NamedTile::NamedTile(const std::string& name) {
  if (std::sscanf(name.c_str(), "%dx%d w%d,%d,%d", &rows, &columns, &warps_m, &warps_n, &warps_k) != 5) rows = 0;
  const size_t split = name.find(kSplit);
  if (split != std::string::npos) splits = std::atoi(name.c_str() + split + std::strlen(kSplit));
}

bool NamedTile::is_of(const GemmConfig& c) const {
  return rows == c.rows && columns == c.columns && warps_m == c.warps_m && warps_n == c.warps_n &&
         warps_k == c.warps_k && splits == c.splits;
}

bool names_skips(const std::string& name) { return name.ends_with(kSkips); }

}  // namespace torchweld::cuda
