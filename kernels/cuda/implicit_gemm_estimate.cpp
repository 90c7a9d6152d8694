#include "kernels/cuda/implicit_gemm_estimate.h"

#include <algorithm>
#include <cmath>

namespace torchweld::cuda {
namespace {

/// Cycles in which shared memory gives the operands of one step to all warps, and in which these multiply them.
double shared_read_cycles(const GemmConfig& c) { return (c.rows * c.warps_n + c.columns * c.warps_m) * 32 / 128.0; }
double multiply_cycles(const GemmConfig& c) { return c.rows * c.columns / 128.0 / 4 * 6.5; }

/// The time of so many waves where stages are left out, as a share of the time of whole waves with all of them. Blocks
/// of long tiles begin first, so that short ones fill the time after them; what is longer than that has memory and
/// power for itself, and is taken for twice as fast. That is hopeful: DeepLabV3's took 1.2 to 1.6 times as long.
double share_in(double waves, const GemmShares& shares) {
  if (shares.mean == 1) return 1;
  return std::max(shares.mean * waves, (shares.mean + shares.largest) / 2) / std::ceil(waves);
}

/// Clusters of four and more do not fill the machine.
double processors_for(const GemmConfig& c, const GemmDevice& device) {
  return c.splits >= 4 ? static_cast<double>(device.processors) * 0.9 : static_cast<double>(device.processors);
}

/// Cycles in which the sums of a cluster of warpgroups' blocks meet.
double sum_cycles(const GemmConfig& c) { return 700 + 25.0 * c.rows * c.columns / c.threads(); }

/// The same for products by warpgroups, whose time is that of bringing the operands; from the times of a prototype in
/// f16 and, for stages in turns, of ViT-B/16's products. Of TF32 a stage has half as many numbers, multiplied at half
/// the rate.
double warpgroup_cycles(const GemmProblem& p, const GemmConfig& c, double blocks, double waves, double beside) {
  constexpr double kStart = 1100;
  const bool turns = c.kept > 0;
  const double bytes_per_cycle = turns ? 5000 : 3500;
  constexpr double kBytesPerCycleOfOne = 55;
  double results = static_cast<double>(c.rows) * c.columns;
  const double stages = share_in(waves, c.shares) * static_cast<double>(c.stage_count(p));
  const auto line = static_cast<double>(c.chunks_of_stage() * 16);  // Bytes of a row or column in a stage.
  // The last tile's may be few.
  double rows = turns ? static_cast<double>(p.rows()) / static_cast<double>(c.row_tiles(p)) : c.rows;
  double all_bytes = c.shares.mean * static_cast<double>(c.stage_count(p)) * line * (rows + c.columns) * blocks;
  double own_bytes = stages * line * (c.rows + static_cast<double>(c.columns));
  double load = std::max(all_bytes / waves / bytes_per_cycle, own_bytes * beside / kBytesPerCycleOfOne);
  const int wide = c.swapped() ? c.rows : c.columns, high = c.swapped() ? c.columns : c.rows;  // Of an instruction.
  double last = static_cast<double>(c.stages) * 4 * (16 + wide / 3.0) * high / 64;
  double sum = c.splits > 1 ? sum_cycles(c) + (turns ? 500.0 * c.splits : 0) : 0;
  // Rounding to TF32, from a count of instructions: 14 for the chunk of each of 32 lanes, on four schedulers.
  double x_chunks = stages * static_cast<double>(c.chunks_of_stage() * c.rows);
  double round = p.element_bytes == 4 ? beside * x_chunks / 32 * 14 / 4 : 0;
  // For a stage that takes the place of another one, all threads wait.
  double waits = turns ? 0.4 * c.threads() * stages : 0;
  double swap = c.swapped() ? 4 * results / c.threads() : 0;
  return kStart + load + last + round + waits + sum + swap + 0.05 * results + 7.2 * results / c.threads();
}

/// Cycles of a block that shares its processor with `beside` - 1 others, of `blocks` in `waves` waves. The constants
/// are a least-squares fit to about 550 measured kernels of ResNet50 and MobileNetV2 in f16 on an H100; it is 8 % off
/// on average.
double block_cycles(const GemmProblem& p, const GemmConfig& c, double blocks, double waves, double beside) {
  auto steps = static_cast<double>(c.steps(p));
  double results = static_cast<double>(c.rows) * c.columns;
  if (c.source == GemmSource::kStages) return warpgroup_cycles(p, c, blocks, waves, beside);
  constexpr double kStart = 870;
  double finish = 0.076 * beside * results + 7.2 * results / c.threads();
  double products = beside * steps * std::max(shared_read_cycles(c), multiply_cycles(c));
  if (c.source == GemmSource::kRing) return kStart + 1000 + 2.2 * share_in(waves, c.shares) * products + finish;
  if (c.source == GemmSource::kPixels) {
    // Four channels side by side are read as one word; what that and several groups cost is a guess.
    double per_pixel = p.channels == 4 && p.in[3] == 1 ? 125 : 500;
    double reads = c.groups > 1 ? beside * c.rows * c.warps_n / 4 : 0;
    return kStart + per_pixel * beside * static_cast<double>(c.groups * c.patch_pixels) / c.threads() +
           std::max(60.0, reads) * steps + finish;
  }

  auto x_bytes = static_cast<double>(c.x_bytes(p));
  double all_bytes = (x_bytes + static_cast<double>(c.columns * c.pitch(p) * 16)) * blocks;
  bool patch = c.source == GemmSource::kPatch;
  double copies = x_bytes / 16 / c.threads();
  double load = copies * (patch              ? 22
                          : p.is_pointwise() ? 14.4
                                             : 42) +
                0.0168 * beside * x_bytes + all_bytes / 8000 / waves;
  if (!p.vector_reads) load += copies * static_cast<double>(p.chunk()) * 25;
  double parts = static_cast<double>(c.warps_k) * results;
  double sum = 0;
  if (c.splits > 1) {
    sum = 1400 + 47 * beside * parts / c.threads();
  } else if (c.warps_k > 1) {
    sum = 90 + 0.04 * beside * parts;
  }
  return kStart + load + 0.62 * products + (patch ? 97.0 * static_cast<double>(p.taps()) : 0) + sum + finish;
}

/// Microseconds of blocks that take tiles in turn: what bounds a stage is the products, the operands' way from L2, or
/// shared memory, where operands are written, f32 is rounded, and every warpgroup reads its rows and all columns.
/// Within 10 % of what was measured on an H100 for the layers of BERT-base and some of ResNet50 at batch 32 in f16. Of
/// TF32 a stage has half as many numbers, multiplied at half the rate.
double pipeline_time(const GemmProblem& p, const GemmConfig& c, const GemmDevice& device) {
  constexpr double kStart = 3000;
  constexpr double kCyclesPerMicrosecond = 1600;
  constexpr double kBytesPerCycle = 45;
  double results = static_cast<double>(c.rows) * c.columns;
  double products = results * 64 / 2048 / 0.85;
  double bytes = 128 * (c.rows + static_cast<double>(c.columns));
  double moved = 2 * bytes + 128.0 * c.columns * (c.rows / 64 - 1) + (p.element_bytes == 4 ? 2 * 128.0 * c.rows : 0);
  auto tiles = static_cast<double>(c.row_tiles(p) * c.column_tiles(p) * c.splits);
  const double places = processors_for(c, device) * c.blocks;
  const double turns = std::ceil(tiles / places);
  double stages = share_in(tiles / places, c.shares) * static_cast<double>(c.stage_count(p)) *
                  std::max({products, bytes / kBytesPerCycle, moved / 128});
  double finish = c.splits > 1 ? sum_cycles(c) : 0.12 * results;
  // Of BERT-base's layers at batch 32 and 128, only the widest at batch 128 is faster so: 154 us instead of 162.
  constexpr double kTeams = 1.2;
  if (c.teams > 1) return (kStart + turns * std::max(stages, finish) + finish) / kCyclesPerMicrosecond * kTeams;
  // Two blocks of a processor finish while the other multiplies.
  double tile = c.blocks > 1 ? std::max(stages, finish) + 0.2 * std::min(stages, finish) : stages + finish;
  double beside = std::min<double>(c.blocks, std::ceil(tiles / static_cast<double>(device.processors)));
  // They took 1.5 to 1.8 times as long as this says, but were the fastest for two of DeepLabV3's three large windows.
  constexpr double kClusters = 1.15;
  return (kStart + turns * beside * tile) / kCyclesPerMicrosecond * (c.splits > 1 ? kClusters : 1);
}

}  // namespace

double gemm_microseconds(const GemmProblem& p, const GemmConfig& c, const GemmDevice& device) {
  if (c.source == GemmSource::kPipeline) return pipeline_time(p, c, device);
  auto blocks = static_cast<double>(c.row_tiles(p) * c.column_tiles(p) * c.splits);
  double processors = processors_for(c, device);
  constexpr int64_t kReserved = 1024;
  int64_t resident = std::min<int64_t>({device.shared_bytes / (c.shared_bytes + kReserved), 1024 / c.threads(), 8});
  auto together = static_cast<double>(std::max<int64_t>(resident, 1));
  double waves = std::ceil(blocks / (processors * together));
  double beside = std::min(together, std::ceil(blocks / processors));
  constexpr double kCyclesPerMicrosecond = 1900;
  constexpr double kHandOver = 0.63;
  return kHandOver + waves * block_cycles(p, c, blocks, waves, beside) / kCyclesPerMicrosecond;
}

}  // namespace torchweld::cuda
