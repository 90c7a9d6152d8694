// Which configurations of the implicit-GEMM kernel can run a layer, best first.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace torchweld::cuda {

/// A convolution as a matrix product: rows are result pixels, k runs over taps and channels. A linear layer is a window
/// of 1 x 1. Groups are products of the same rows beside each other.
struct GemmProblem {
  int64_t images = 1;
  int64_t height = 1, width = 1;  ///< Of x.
  int64_t out_height = 1, out_width = 1;
  int64_t groups = 1;
  int64_t channels = 0, outputs = 0;  ///< Of a group.
  int64_t window[2] = {1, 1};
  int64_t stride[2] = {1, 1};
  int64_t padding[2] = {0, 0};
  int64_t dilation[2] = {1, 1};
  int64_t in[4] = {0, 0, 0, 1};  ///< Strides of x in elements: image, row, column, channel.
  /// Channels of x; the others are those of a second tensor, one pixel of which each result needs. 0: there is none.
  int64_t first_channels = 0;
  int64_t second_in[3] = {0, 0, 0};  ///< Elements from the pixel of one result to the next: image, row, column.
  int64_t element_bytes = 2;
  bool vector_reads = true;  ///< Channels (of a group) and strides allow copies of 16 bytes.

  bool vector_writes = true;  ///< Results can be written several at a time.

  int64_t rows() const { return images * out_height * out_width; }
  int64_t taps() const { return window[0] * window[1]; }
  /// Elements of a chunk of 16 bytes.
  int64_t chunk() const { return 16 / element_bytes; }
  /// Sizes of the image with the padding that windows reach, for kPixels.
  int64_t padded_height() const { return (out_height - 1) * stride[0] + window[0]; }
  int64_t padded_width() const;
  /// Pairs of columns, of which the first begins at an even one of the image.
  int64_t padded_pairs() const { return (padded_width() + padding[1] % 2 + 1) / 2; }
  /// True when a result needs one pixel of x, and that always exists.
  bool is_pointwise() const { return taps() == 1 && padding[0] == 0 && padding[1] == 0; }
  /// True when that pixel is the one behind that of the result before.
  bool is_flat() const {
    return is_pointwise() && stride[0] == 1 && stride[1] == 1 && in[1] == width * in[2] && in[0] == height * in[1];
  }
  bool operator==(const GemmProblem&) const = default;
};

/// What the device can do.
struct GemmDevice {
  int64_t processors = 132;
  int64_t shared_bytes = 227 << 10;  ///< Per block, at most.
  bool clusters = true;
  bool warpgroups = true;  ///< Products by warpgroups (sm_90a).
};

/// What tiles need of the window where taps outside the image are left out: as shares of all taps, the mean of all
/// tiles and the largest one.
struct GemmShares {
  double mean = 1, largest = 1;
};

/// How a block brings x into shared memory; see kernels/cuda/device/implicit_gemm_sources.cuh.
enum class GemmSource {
  kRows,      ///< Once per tap.
  kPatch,     ///< Once for all taps.
  kPixels,    ///< Once for all taps, at most four channels.
  kRing,      ///< Once per tap, a few chunks of k at a time; the weights too.
  kStages,    ///< Once per tap, for products by warpgroups, which start when the first stages are there.
  kPipeline,  ///< Once per tap, through a ring that a warpgroup of its own fills while others multiply.
};

/// One way to run it. See kernels/cuda/device/implicit_gemm.cuh.
struct GemmConfig {
  int rows = 0, columns = 0;  ///< Of a block's tile.
  int warps_m = 1, warps_n = 1, warps_k = 1;
  int splits = 1;  ///< Blocks of a cluster, which share the channels.
  int groups = 1;  ///< In a tile, one for each of the warps along n; kPatch and kPixels only.
  GemmSource source = GemmSource::kRows;
  int lanes = 8;
  int blocks = 1;        ///< kPipeline: on one processor.
  int teams = 1;         ///< kPipeline: of these warps, which take tiles in turn.
  int stages = 0;        ///< Of a ring; kStages: those that arrive together, a part.
  int kept = 0;          ///< kStages: parts that are in shared memory at a time; 0 for all.
  int stage_chunks = 0;  ///< Chunks of k in a stage.
  /// Results are computed in an order in which those of a tile need nearly the same taps of the window, and stages of k
  /// are left out that hold no other taps; see implicit_gemm_order.h. kRing, kPipeline and stages in turns.
  bool skips = false;

  /// Chunks of one tap (kPixels: of one row of the window) in a block; even for kPatch and kPixels.
  int64_t slice = 0;
  int64_t patch_pixels = 0;  ///< Of the largest patch.
  int64_t shared_bytes = 0;
  GemmShares shares;        ///< With `skips`; else all.
  double microseconds = 0;  ///< Estimate on the GPU that the constants were measured on.

  /// Those that multiply.
  int threads() const { return 32 * warps_m * warps_n * warps_k * teams; }
  /// Those that do nothing but bring operands.
  int loaders() const { return source != GemmSource::kPipeline ? 0 : blocks == 1 ? 128 : 64; }
  /// Warpgroups multiply; k lies in stages of 128 bytes.
  bool by_warpgroups() const { return source == GemmSource::kStages || source == GemmSource::kPipeline; }
  /// They take the weights' columns 64 at a time, and all rows; else the other way round.
  bool swapped() const { return source == GemmSource::kStages && warps_n > 1; }
  bool summed() const { return splits > 1 || warps_k > 1; }
  /// Chunks between rows of operands in shared memory, an odd number.
  int64_t pitch(const GemmProblem& problem) const { return 2 * steps(problem) + 1; }
  /// Steps of two chunks along k in a block, filled up to the same number for each of its warps.
  int64_t steps(const GemmProblem& problem) const;
  /// Chunks of k in a stage, for kRing, kStages and kPipeline.
  int64_t chunks_of_stage() const;
  /// Stages of k, for the same.
  int64_t stage_count(const GemmProblem& problem) const;
  /// kStages: those in shared memory at a time.
  int64_t kept_stages(const GemmProblem& problem) const { return kept ? kept * stages : stage_count(problem); }
  /// kPatch: chunks between pixels in shared memory, an odd number.
  int64_t pixel_pitch(const GemmProblem& problem) const {
    return (groups > 1 ? groups * problem.channels / problem.chunk() : slice) + 1;
  }
  int64_t row_tiles(const GemmProblem& problem) const { return (problem.rows() + rows - 1) / rows; }
  /// Columns that each group of the problem fills, of its own tiles or in one with others.
  int64_t group_columns(const GemmProblem& problem) const {
    return groups > 1 ? columns / groups : (problem.outputs + columns - 1) / columns * columns;
  }
  int64_t column_tiles(const GemmProblem& problem) const { return problem.groups * group_columns(problem) / columns; }
  /// Blocks of the launch along x; those of kPipeline take several tiles of results each, where no clusters share them.
  int64_t launched_blocks(const GemmProblem& problem, const GemmDevice& device) const;
  /// Bytes of x in shared memory, of all stages of a ring.
  int64_t x_bytes(const GemmProblem& problem) const;
  /// `64x32 w1,2,4 patch split4`
  std::string text() const;
};

/// At most `most` configurations that fit the device, best first by the estimate; empty when none fits. With `wanted`
/// (texts) all of these that fit instead.
std::vector<GemmConfig> gemm_configs(const GemmProblem& problem, const GemmDevice& device, size_t most,
                                     const std::set<std::string>* wanted = nullptr);

}  // namespace torchweld::cuda
