#include "kernels/cuda/stem.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <optional>

#include "core/error.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/pool.h"
#include "kernels/cuda/block_parts.h"
#include "kernels/cuda/own_kernel.h"
#include "kernels/cuda/packed_bytes.h"
#include "kernels/cuda/warpgroup_multiply.h"

namespace torchweld::cuda {
namespace {

constexpr int64_t kPixel = kPictureChannels;  // numbers, the picture's channels filled up
constexpr int64_t kSegment = 64;              // channels in a row of weights for warpgroups
constexpr int64_t kRowBytes = 128;            // of such a row

/// Whether a pair of the picture's columns is a word in every row, which the code finds out by itself.
bool has_pairs(const TensorType& x) {
  const int64_t channel_step = x.shape[1] == 1 ? 0 : x.strides[1];
  return x.strides[3] == 1 && (x.shape[3] | x.strides[0] | x.strides[2] | channel_step) % 2 == 0;
}

/// A node taken apart. Pairs are height and width.
struct StemParts {
  BlockPart conv;
  std::optional<BlockPart> pool = {};
  MaxPool pool_op = {.kernel = {1, 1}, .stride = {1, 1}, .padding = {0, 0}, .dilation = {1, 1}};
  size_t x_index = 0;
  TensorType x = {};
  TensorType out = {};
  Dims window = {};
  Dims image = {};  ///< Of the convolution's result.
  std::vector<size_t> packed = {};
  const Conv& conv_op() const { return *conv.anchor().as<Conv>(); }
  int64_t channels() const { return out.shape[1]; }
  bool has_pointwise_last() const { return pool && !pool->node->as<MaxPool>(); }
};

/// Of a block: a convolution with a max pool after it.
StemParts take_block_apart(const Node& node) {
  const Graph& body = *node.as<Fused>()->body;
  std::vector<BlockPart> found;
  for (const auto& inner : body.nodes()) {
    found.push_back(take_part(node, *inner));
    expect(found.size() == 1 || found.back().x == body.nodes().front()->output(), "the parts are no chain");
  }
  expect(found.size() == 2 && found[0].anchor().as<Conv>() && found[1].anchor().as<MaxPool>(),
         "not a convolution with a max pool after it");
  StemParts parts{.conv = found[0], .pool = found[1], .pool_op = *found[1].anchor().as<MaxPool>()};
  expect(body.outputs().size() == 1 && body.outputs()[0] == parts.pool->node->output(),
         "the convolution's result is one of the block's");
  expect(!parts.pool->added, "pointwise nodes inside read a tensor");
  expect(!parts.conv.x->producer(), "the block's input is computed inside it");
  parts.x_index = static_cast<size_t>(parts.conv.x->index());
  return parts;
}

/// True for a convolution of few channels whose windows overlap, alone or with pointwise nodes after it.
bool is_lone_stem(const Node& node) {
  auto* fused = node.as<Fused>();
  const Node* anchor = fused ? anchor_of(*fused) : &node;
  auto* conv = anchor ? anchor->as<Conv>() : nullptr;
  if (!conv) return false;
  const TensorType& weight = anchor->input(1)->type;
  return is_stem(*conv, weight) && (weight.shape[2] > conv->stride[0] || weight.shape[3] > conv->stride[1]);
}

StemParts take_apart(const Node& node) {
  StemParts parts = block_of(node) ? take_block_apart(node) : StemParts{.conv = take_part(node, node)};
  if (!parts.pool) parts.x_index = anchor_input(parts.conv.body, 0);
  expect(!parts.conv.added, "pointwise nodes inside read a tensor");
  parts.x = node.input(parts.x_index)->type;
  parts.out = node.output()->type;
  for (size_t i = 0; i < node.inputs().size(); ++i) {
    if (i != parts.x_index) parts.packed.push_back(i);
  }
  const Conv& conv = parts.conv_op();
  const LazyTensor& weight = parts.conv.weight;
  expect(is_stem(conv, weight.type()), "not a 2-d convolution of at most 4 channels without groups and dilation");
  parts.window = {weight.size(2), weight.size(3)};
  for (size_t d : {0, 1})
    parts.image.push_back((parts.x.shape[2 + d] + 2 * conv.padding[d] - parts.window[d]) / conv.stride[d] + 1);
  expect(parts.x.dtype == c10::kHalf || parts.x.dtype == c10::kBFloat16, "only f16 and bf16");
  expect(parts.conv.node->output()->type.dtype == parts.x.dtype && parts.out.dtype == parts.x.dtype,
         "the parts have several dtypes");
  constexpr int64_t kMost = int64_t{1} << 31;
  expect(parts.x.storage_bytes() < kMost, "the picture is too large for 32-bit offsets");
  expect_channels_last(parts.out, "the result");
  return parts;
}

/// How the work is cut up, and what follows from that; members are those of device code (see device/stem.cuh).
struct StemLayout {
  int64_t tile_h = 1, tile_w = 1;
  int64_t row_tiles = 1, channel_tiles = 1;
  int64_t warps = 4;
  int64_t slices = 1;
  bool warpgroups = false;

  int64_t channels = 0, padded = 0;  ///< Of one slice.
  int64_t weight_step = 0, bias_at = 0, weights_bytes = 0, shared_bytes = 0;
  int64_t steps = 0;     ///< Of 16 numbers along k.
  int64_t resident = 1;  ///< Blocks of one SM at once.
  double cycles = 0;     ///< Of one run, by StemSearch::estimate.

  std::string text() const {
    return std::to_string(tile_h) + "x" + std::to_string(tile_w) + " slice" + std::to_string(slices) + " warps" +
           std::to_string(warps) + " each" + std::to_string(row_tiles) + "x" + std::to_string(channel_tiles) +
           (warpgroups ? " warpgroups" : "");
  }

  /// Where number `k` of the weights of a row (see channel_of_row) lies, in bytes from the slice's first.
  int64_t place_of_weight(int64_t row, int64_t k) const {
    if (!warpgroups) return (row * weight_step + k) * 2;
    int64_t chunk = (row % kSegment / 8) ^ (k % 8);  // 128-byte swizzle, see device/warpgroup.cuh
    return (row / kSegment * steps * 16 + k) * kRowBytes + chunk * 16 + row % 8 * 2;
  }
};

/// The sizes of the problem that decide about layouts.
class StemSearch {
 public:
  StemSearch(const StemParts& parts, const DeviceLimits& limits, const std::set<std::string>* wanted)
      : parts_(parts), limits_(limits), wanted_(wanted) {
    if (!wanted) return;
    for (const std::string& name : *wanted) {
      int height = 0;
      int width = 0;
      int slices = 0;
      if (std::sscanf(name.c_str(), "%dx%d slice%d", &height, &width, &slices) == 3)
        tiles_.insert({height, width, slices});
    }
  }

  /// Every layout (of the wanted ones) that the device can run, the one that should be fastest first.
  std::vector<StemLayout> ranked() {
    constexpr int64_t kSizes[] = {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 28};
    for (int64_t slices : {1, 2, 4, 8}) {
      if (parts_.channels() / 8 % slices != 0) continue;
      for (int64_t height : kSizes) {
        for (int64_t width : kSizes) {
          bool flat = height <= width || width >= parts_.out.shape[3];
          bool fits = flat && height <= 2 * parts_.out.shape[2] && width <= 2 * parts_.out.shape[3];
          if (fits && (!wanted_ || tiles_.count({height, width, slices}))) add(height, width, slices);
        }
      }
    }
    std::stable_sort(layouts_.begin(), layouts_.end(),
                     [](const StemLayout& a, const StemLayout& b) { return a.cycles < b.cycles; });
    return std::move(layouts_);
  }

 private:
  void add(int64_t height, int64_t width, int64_t slices) {
    add_warpgroups(height, width, slices);
    for (int64_t channel_tiles : {1, 2, 3, 4}) {
      for (int64_t row_tiles : {1, 2, 3, 4}) {
        for (int64_t warps : {4, 8, 12, 16}) {
          StemLayout l{.tile_h = height,
                       .tile_w = width,
                       .row_tiles = row_tiles,
                       .channel_tiles = channel_tiles,
                       .warps = warps,
                       .slices = slices};
          keep(l);
        }
      }
    }
  }
  /// All channels to each warp.
  void add_warpgroups(int64_t height, int64_t width, int64_t slices) {
    constexpr int64_t kMostChannels = 128;
    constexpr int kWarpgroups = 9;
    int64_t padded = round_up(parts_.channels() / slices, 16);
    if (limits_.major != kWarpgroups || padded > kMostChannels) return;
    for (int64_t warps : {4, 8, 12, 16}) {
      keep({.tile_h = height,
            .tile_w = width,
            .channel_tiles = padded / 16,
            .warps = warps,
            .slices = slices,
            .warpgroups = true});
    }
  }
  void keep(StemLayout l) {
    if ((!wanted_ || wanted_->count(l.text())) && complete(l)) layouts_.push_back(l);
  }

  /// False when the layout cannot run, or leaves warps without work.
  bool complete(StemLayout& l) const {
    const Conv& conv = parts_.conv_op();
    const MaxPool& pool = parts_.pool_op;
    l.channels = parts_.channels() / l.slices;
    l.padded = round_up(l.channels, 16);
    if (l.padded / 16 % l.channel_tiles != 0) return false;
    auto span = [](int64_t count, int64_t stride, int64_t window, int64_t dilation) {
      return (count - 1) * stride + (window - 1) * dilation + 1;
    };
    int64_t region_h = span(l.tile_h, pool.stride[0], pool.kernel[0], pool.dilation[0]);
    int64_t region_w = span(l.tile_w, pool.stride[1], pool.kernel[1], pool.dilation[1]);
    int64_t positions = region_h * region_w;
    int64_t row_steps = ceil_div(parts_.window[1], kPixel);
    l.steps = parts_.window[0] * row_steps;
    int64_t patch_w = round_up((region_w - 1) * conv.stride[1] + row_steps * kPixel, 2);
    int64_t patch = span(region_h, conv.stride[0], parts_.window[0], 1) * patch_w;
    int64_t units = ceil_div(positions, (l.warpgroups ? 4 : l.row_tiles) * 16) * (l.padded / 16 / l.channel_tiles);
    if (l.warpgroups) units *= 4;
    constexpr int64_t kStep = 16, kBarrier = 16, kPad = 8, kFewWarps = 4;
    l.weight_step = l.steps * kStep + kPad;
    l.bias_at =
        l.warpgroups ? ceil_div(l.padded, kSegment) * l.steps * kStep * kRowBytes : l.padded * l.weight_step * 2;
    l.weights_bytes = l.bias_at + l.padded * 4;
    int64_t result_step = l.padded % 32 == 0 ? l.padded + 16 : l.padded;
    constexpr int64_t kAlignment = 1024;
    l.shared_bytes =
        kBarrier + l.weights_bytes + patch * kPixel * 2 + positions * result_step * 2 + (l.warpgroups ? kAlignment : 0);
    if (l.shared_bytes > limits_.shared_bytes || (units < l.warps && l.warps > kFewWarps)) return false;
    constexpr int64_t kReserved = 1024, kThreads = 2048, kRegisters = 65536;
    // Of a thread: sums, operands and what else the convolution holds; the pool needs about a hundred.
    constexpr int64_t kLeast = 104;
    constexpr int64_t kPixelsAtATime = 32;
    int64_t operands = l.warpgroups ? kPixelsAtATime : 5 * l.row_tiles + 4 * l.channel_tiles;
    int64_t registers = std::max(kLeast, round_up(8 * l.row_tiles * l.channel_tiles + operands + 60, 8));
    l.resident = std::min({limits_.shared_bytes / (l.shared_bytes + kReserved), kThreads / (32 * l.warps),
                           kRegisters / (registers * 32 * l.warps)});
    if (l.resident < 1) return false;
    l.cycles = estimate(l, positions, patch, units);
    return true;
  }

  /// Cycles of an H100 (1755 MHz). The numbers are fitted to 480 layouts of four stems, of batch 1 and 32, whose
  /// pictures lie in pairs: the model is off by 6 % on average, and the fastest was among its first twelve.
  double estimate(const StemLayout& l, int64_t positions, int64_t patch, int64_t units) const {
    auto number = [](int64_t n) { return static_cast<double>(n); };
    const MaxPool& pool = parts_.pool_op;
    const bool pairs = has_pairs(parts_.x);
    double rounds = number(ceil_div(units, l.warps)), warps = number(l.warps);
    double threads = 32 * warps, each = number(l.row_tiles * l.channel_tiles);
    int64_t pooled = l.tile_h * l.tile_w * l.channels / 8;
    // What a tile takes of an SM that is always busy.
    double step = l.warpgroups ? 1.7 * std::max(16.0, number(l.padded) / 4) / 4
                               : std::max(3.1 * each, 4.3 * number(l.row_tiles + l.channel_tiles));
    double products = step * rounds * warps * number(l.steps);
    double results = 6.3 * number(ceil_div(positions * l.padded, 128));
    double pooling = 0.54 * number(ceil_div(pooled, 32) * (pool.kernel[0] * pool.kernel[1] * 4 + 16));
    double gathering = (pairs ? 32 : 46) * number(ceil_div(patch, 32));
    double busy = products + results + pooling + gathering;
    // What it takes at least, one thing waiting for the other.
    double alone = std::max(products, rounds * number(l.steps) * (l.warpgroups ? 58 : 11 + 11 * each)) +
                   std::max(results, 60 * rounds * each) +
                   std::max(pooling, 540 * std::ceil(number(pooled) / threads)) +
                   std::max(gathering, 410 * std::ceil(number(patch) / (pairs ? 2 : 1) / threads));
    // What blocks cost before their first tiles: their start, and their weights from L2.
    double start = 890 + number(l.weights_bytes) / 508;
    int64_t tiles = ceil_div(parts_.out.shape[2], l.tile_h) * ceil_div(parts_.out.shape[3], l.tile_w) *
                    parts_.out.shape[0] * l.slices;
    int64_t share = ceil_div(tiles, limits_.processors);
    constexpr double kLaunch = 1800;
    return kLaunch + number(std::min(share, l.resident)) * start +
           std::max(number(share) * busy, number(ceil_div(share, l.resident)) * alone);
  }

  const StemParts& parts_;
  const DeviceLimits& limits_;
  const std::set<std::string>* wanted_;
  std::set<std::array<int64_t, 3>> tiles_;  // of the wanted: height, width, slices
  std::vector<StemLayout> layouts_;
};

/// Every slice's weights and biases as device code finds them in shared memory, one after the other.
at::Tensor pack_weights(const StemParts& parts, const StemLayout& l) {
  PackedBytes bytes(l.weights_bytes * l.slices, parts.x.dtype);
  at::Tensor weight = as_f32(parts.conv.weight.tensor());
  at::Tensor bias = parts.conv.bias.defined() ? as_f32(parts.conv.bias.tensor()) : at::Tensor();
  const float* numbers = weight.const_data_ptr<float>();
  int64_t in = weight.size(1), height = parts.window[0], width = parts.window[1];
  int64_t row = ceil_div(width, kPixel) * kPixel * kPixel;  // Numbers of a row of the window.
  for (int64_t slice = 0; slice < l.slices; ++slice) {
    int64_t at = slice * l.weights_bytes;
    for (int64_t r = 0; r < l.padded; ++r) {
      int64_t channel = channel_of_row(r);
      if (channel >= l.channels) continue;
      const float* filter = numbers + (slice * l.channels + channel) * in * height * width;
      for (int64_t i = 0; i < in * height * width; ++i) {
        int64_t c = i / (height * width), y = i / width % height, x = i % width;
        bytes.put(at + l.place_of_weight(r, y * row + x * kPixel + c), filter[i]);
      }
    }
    for (int64_t c = 0; bias.defined() && c < l.channels; ++c)
      bytes.put_f32(at + l.bias_at + c * 4, bias.const_data_ptr<float>()[slice * l.channels + c]);
  }
  return bytes.tensor();
}

std::string emit_config(const StemParts& parts, const StemLayout& l) {
  const Conv& conv = parts.conv_op();
  const MaxPool& pool = parts.pool_op;
  return "struct Config {\n  using S = " + storage_type(parts.x.dtype) + ";\n" +
         emit_constants(
             {{"in", parts.conv.weight.size(1)}, {"channels", l.channels}, {"pairs", parts.x.strides[3] == 1}}) +
         emit_constants({{"rows", parts.window[0]},
                         {"columns", parts.window[1]},
                         {"stride_h", conv.stride[0]},
                         {"stride_w", conv.stride[1]},
                         {"pad_h", conv.padding[0]},
                         {"pad_w", conv.padding[1]}}) +
         emit_constants({{"pool_rows", pool.kernel[0]},
                         {"pool_columns", pool.kernel[1]},
                         {"pool_stride_h", pool.stride[0]},
                         {"pool_stride_w", pool.stride[1]},
                         {"pool_pad_h", pool.padding[0]},
                         {"pool_pad_w", pool.padding[1]},
                         {"pool_dilation_h", pool.dilation[0]},
                         {"pool_dilation_w", pool.dilation[1]}}) +
         emit_constants({{"tile_h", l.tile_h},
                         {"tile_w", l.tile_w},
                         {"row_tiles", l.row_tiles},
                         {"channel_tiles", l.channel_tiles},
                         {"warps", l.warps},
                         {"warpgroups", l.warpgroups}}) +
         (l.warpgroups ? "  using Multiply = StemMultiply;\n" : "") + emit_after(parts.conv, "after_conv", false) +
         emit_constants({{"finishes_pool", parts.has_pointwise_last()}}) +
         (parts.has_pointwise_last() ? emit_after(*parts.pool, "after_pool", false) : "") + "};\n";
}

Program program_of(const Node& node, const StemParts& parts, const StemLayout& l) {
  return {
      "stem",
      "#include \"types.cuh\"\n#include \"math.cuh\"\n#include \"stem.cuh\"\n"
      "struct Params {\n  const void* weights;\n  int height, width, conv_height, conv_width, out_height, "
      "out_width, tiles_h, tiles_w, tiles;\n  int x[4], y[3];\n};\n" +
          (l.warpgroups ? emit_warpgroup_multiply("StemMultiply", parts.x.dtype, l.padded, WarpgroupRows::kRegisters)
                        : "") +
          emit_config(parts, l) +
          "static_assert(tw::StemSizes<Config>::shared_bytes == " + std::to_string(l.shared_bytes) +
          " && tw::StemSizes<Config>::weights_bytes == " + std::to_string(l.weights_bytes) +
          ", \"what the host says\");\n" + "extern \"C\" __global__ void __launch_bounds__(" +
          std::to_string(32 * l.warps) + ", " + std::to_string(l.resident) + ") kernel(" +
          emit_pointers(node, parts.packed) + "const __grid_constant__ Params p) {\n  tw::stem<Config>(x" +
          std::to_string(parts.x_index) + ", y0, p);\n}\n",
      true};
}

std::unique_ptr<Kernel> make_stem(const Node& node, const StemParts& parts, const StemLayout& l,
                                  const DeviceLimits& limits) {
  Program program = program_of(node, parts, l);
  expect_compiled(program, node);
  at::Tensor weights;
  if (!is_collecting()) {
    weights = packed_for(node, program, {parts.conv.weight, parts.conv.bias}, [&] { return pack_weights(parts, l); });
  }
  const TensorType& x = parts.x;
  const TensorType& out = parts.out;
  int64_t down = ceil_div(out.shape[2], l.tile_h), across = ceil_div(out.shape[3], l.tile_w);
  int64_t tiles = out.shape[0] * down * across;
  int64_t at_once = std::max<int64_t>(1, limits.processors * l.resident / l.slices);
  // A block goes on to tiles past the last by the size of the grid.
  expect(tiles + at_once < (int64_t{1} << 31), "too many tiles");
  Arguments arguments;
  arguments.add(weights.defined() ? weights.data_ptr() : nullptr);
  for (int64_t number :
       {x.shape[2], x.shape[3], parts.image[0], parts.image[1], out.shape[2], out.shape[3], down, across, tiles,
        x.strides[0], x.strides[2], x.strides[3], x.strides[1], out.strides[0], out.strides[2], out.strides[3]}) {
    arguments.add(static_cast<int32_t>(number));
  }
  Shape shape{.blocks = std::min(tiles, at_once),
              .blocks_y = l.slices,
              .threads = static_cast<unsigned>(32 * l.warps),
              .shared_bytes = static_cast<unsigned>(l.shared_bytes)};
  return make_own_kernel(node, program, shape, std::move(arguments), parts.packed, {weights});
}

}  // namespace

void offer_stems(const Node& node, size_t most, Offers& offers, const std::set<std::string>* wanted) {
  if (!block_of(node) && !is_lone_stem(node)) return;
  StemParts parts = take_apart(node);
  DeviceLimits limits = limits_of(node);
  constexpr int kTensorCores = 8;
  expect(limits.major >= kTensorCores, "the GPU is older than sm_80");
  std::vector<StemLayout> layouts = StemSearch(parts, limits, wanted).ranked();
  expect(!layouts.empty(), wanted ? kNoneWanted : "no tile fits into shared memory");
  if (wanted) most = layouts.size();
  size_t begin = 0;
  if (most == 1) {
    begin = choose_untimed(
        node, layouts.size(), [&](size_t i) { return program_of(node, parts, layouts[i]); },
        [](size_t) { return int64_t{1}; });
  }
  for (size_t i = begin; i < std::min(layouts.size(), begin + most); ++i) {
    constexpr double kCyclesPerMicrosecond = 1755;
    offers.add(
        layouts[i].text(),
        [&node, parts, limits, layout = layouts[i]] { return make_stem(node, parts, layout, limits); },
        layouts[i].cycles / kCyclesPerMicrosecond);
  }
}

void propose_stem(const Node& node, const KernelContext& context, Offers& offers) {
  constexpr size_t kOffers = 8;
  // Others are ahead for some sizes; a block has no others.
  const bool chosen = context.tune || context.wanted || block_of(node);
  expect(chosen || !is_lone_stem(node), "kernels are not timed");
  offer_stems(node, context.tune ? kOffers : 1, offers, context.wanted);
}

}  // namespace torchweld::cuda
