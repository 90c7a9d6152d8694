#include "kernels/cuda/conv.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "kernels/cuda/own_kernel.h"
#include "kernels/shared_constants.h"

namespace torchweld::cuda {
namespace {

constexpr unsigned kThreads = 128;

/// A 2-d convolution with its weights, taken apart.
struct ConvParts {
  Body body;
  Conv conv;
  TensorType x;
  size_t x_index = 0;
  LazyTensor weight;
  LazyTensor bias;  ///< Undefined when there is none.
  std::vector<size_t> packed;
  bool channels_last = false;
  int width = 1;  ///< Of a depthwise convolution: channels that a thread can move at once, as operands allow it.
  Loops loops;
};

ConvParts take_apart(const Node& node) {
  ConvParts parts;
  parts.body = body_of(node);
  const Node& anchor = *parts.body.anchor;
  parts.conv = *anchor.as<Conv>();
  expect(!parts.conv.transposed, "transposed convolution");
  expect(anchor.output()->type.rank() == 4, "only two spatial dimensions");
  parts.x_index = anchor_input(parts.body, 0);
  parts.x = node.input(parts.x_index)->type;
  expect(parts.x.is_floating(), "only floating point");
  std::vector<size_t> eaten = {anchor_input(parts.body, 1)};
  if (anchor.inputs().size() > 2) eaten.push_back(anchor_input(parts.body, 2));
  parts.packed = packed_inputs_of(node, parts.body, eaten);
  parts.weight = *lazy_constant_of(node.input(eaten[0]));
  if (eaten.size() > 1) parts.bias = *lazy_constant_of(node.input(eaten[1]));
  parts.channels_last = lies_channels_last(node.output()->type, parts.x);
  add_finish_operands(node, parts.body, parts.channels_last ? Dims{0, 2, 3, 1} : Dims{0, 1, 2, 3}, parts.loops);
  parts.loops.other_extent = parts.x.storage_bytes() / static_cast<int64_t>(c10::elementSize(parts.x.dtype));
  return parts;
}

/// Strides of x in the order N, H, W, C.
Dims strides_nhwc(const TensorType& x) { return {x.strides[0], x.strides[2], x.strides[3], x.strides[1]}; }

/// Weights in the order that device code reads, and bias in f32 (f64 for f64), on the device unless only checking code.
struct PackedConv {
  at::Tensor weight;
  at::Tensor bias;
};
PackedConv pack(const Node& node, const ConvParts& parts, at::IntArrayRef order) {
  if (is_collecting()) return {};
  c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(device_of(node)));
  PackedConv packed;
  std::string form = dtype_name(parts.x.dtype) + " " + device.str();
  packed.weight = shared_constant(
      origin_of("filters " + to_string(Dims(order.vec())) + " " + form, {parts.weight}),
      [&] { return parts.weight.tensor().to(device, parts.x.dtype).permute(order).contiguous().clone(); });
  if (!parts.bias.defined()) return packed;
  packed.bias = shared_constant(origin_of("bias_of_filters " + form, {parts.bias}), [&] {
    c10::ScalarType dtype = parts.x.dtype == c10::kDouble ? c10::kDouble : c10::kFloat;
    return parts.bias.tensor().to(device, dtype).contiguous().clone();
  });
  return packed;
}

void add_pointer(Arguments& arguments, const at::Tensor& tensor) {
  arguments.add(tensor.defined() ? tensor.data_ptr() : nullptr);
}

/// The widest read of neighbouring channels, by the input's strides as well.
int width_of(const ConvParts& parts, int64_t channels) {
  int width = static_cast<int>(16 / c10::elementSize(parts.x.dtype));
  if (parts.x.strides[1] != 1 && parts.x.shape[1] != 1) return 1;
  while (width > 1 && channels % width != 0) width /= 2;
  return width;
}

bool strides_divide(const ConvParts& parts, int width) {
  Dims in = strides_nhwc(parts.x);
  return in[0] % width == 0 && in[1] % width == 0 && in[2] % width == 0;
}

std::string numbers(std::initializer_list<int64_t> list) {
  std::string text;
  for (int64_t number : list) text += (text.empty() ? "" : ", ") + std::to_string(number);
  return text;
}

std::string entry(const Node& node, const ConvParts& parts, const std::string& call) {
  return "extern \"C\" __global__ void __launch_bounds__(128) kernel(" + emit_pointers(node, parts.packed) +
         "const __grid_constant__ Params p) {\n  " + emit_elements_object(parts.loops) + "  " + call + "(x" +
         std::to_string(parts.x_index) + ", p, elements);\n}\n";
}

/// Results that one thread computes.
struct DepthwiseTile {
  int height = 1;
  int width = 1;
  int channels = 0;  ///< At most so many; 0: as many as can be moved at once.

  /// The thread goes down the image.
  bool is_tall() const { return height > 2; }
  std::string text() const {
    std::string size = std::to_string(height) + "x" + std::to_string(width);
    return channels > 0 ? size + " channels" + std::to_string(channels) : size;
  }
};

/// See ConvParts::width.
int depthwise_width(const ConvParts& parts) {
  Loops loops = parts.loops;
  loops.choose_width(width_of(parts, parts.x.shape[1]), false);
  while (!strides_divide(parts, loops.width)) loops.width /= 2;
  return loops.width;
}

/// Channels, in groups of `width`, that neighbouring threads share out: whole cache lines or halves of them where these
/// divide all, so that the tiles beside, which read the same, are not far.
int64_t chunk_of(const ConvParts& parts, int width) {
  int64_t channels = parts.x.shape[1];
  for (int64_t bytes : {128, 64}) {
    int64_t chunk = bytes / static_cast<int64_t>(c10::elementSize(parts.x.dtype));
    if (chunk % width == 0 && channels % chunk == 0) return chunk;
  }
  return channels;
}

std::unique_ptr<Kernel> make_depthwise(const Node& node, ConvParts parts, DepthwiseTile tile) {
  const Conv& conv = parts.conv;
  Loops& loops = parts.loops;
  loops.width = tile.channels > 0 ? std::min(parts.width, tile.channels) : parts.width;
  int64_t rows = parts.weight.size(2);
  int64_t columns = parts.weight.size(3);
  std::string window = "tw::Window<" +
                       numbers({rows, columns, conv.stride[0], conv.stride[1], conv.dilation[0], conv.dilation[1]}) +
                       ">";
  Program program{
      "depthwise",
      emit_head(loops, {"conv.cuh"}) +
          "struct Params {\n  const void* weights;\n  const void* bias;\n  I items;\n  tw::Size<I> "
          "size[5];\n  I chunk;\n  I in[4];\n"
          "  I channels;\n  I out_height;\n  I out_width;\n  int height, width, pad_h, pad_w;\n" +
          loops.parameter_members() + "};\n" + emit_elements(parts.body, loops, parts.body.anchor->output()) +
          entry(node, parts, "tw::depthwise<" + window + ", " + numbers({tile.height, tile.width, loops.width}) + ">")};
  expect_compiled(program, node);
  PackedConv packed = pack(node, parts, {2, 3, 0, 1});
  std::string type = loops.index_type();
  int64_t chunk = chunk_of(parts, loops.width);
  Dims items = {loops.sizes[0], loops.sizes[3] / chunk, ceil_div(loops.sizes[1], tile.height),
                ceil_div(loops.sizes[2], tile.width), chunk / loops.width};
  int64_t count = std::accumulate(items.begin(), items.end(), int64_t{1}, std::multiplies<>());
  Arguments arguments;
  add_pointer(arguments, packed.weight);
  add_pointer(arguments, packed.bias);
  add_index(arguments, count, type);
  for (int64_t size : items) add_size(arguments, size, type);
  add_index(arguments, chunk, type);
  for (int64_t stride : strides_nhwc(parts.x)) add_index(arguments, stride, type);
  add_index(arguments, parts.x.shape[1], type);
  add_index(arguments, loops.sizes[1], type);
  add_index(arguments, loops.sizes[2], type);
  for (int64_t number : {parts.x.shape[2], parts.x.shape[3], conv.padding[0], conv.padding[1]})
    arguments.add(static_cast<int32_t>(number));
  loops.add_arguments(arguments);
  return make_own_kernel(node, program, {.blocks = ceil_div(count, kThreads), .threads = kThreads},
                         std::move(arguments), parts.packed, {packed.weight, packed.bias});
}

std::unique_ptr<Kernel> make_direct(const Node& node, ConvParts parts) {
  const Conv& conv = parts.conv;
  Loops& loops = parts.loops;
  int64_t depth = parts.x.shape[1] / conv.groups;
  int width = width_of(parts, depth);
  Program program{
      "direct_conv",
      emit_head(loops, {"conv.cuh"}) +
          "struct Params {\n  const void* weights;\n  const void* bias;\n  I items;\n  tw::Size<I> size[4];\n"
          "  tw::Size<I> group_outputs;\n  I in[4];\n  I weight_step;\n"
          "  int group_inputs, rows, columns, height, width, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, "
          "vector_reads;\n" +
          loops.parameter_members() + "};\n" + emit_elements(parts.body, loops, parts.body.anchor->output()) +
          entry(node, parts,
                std::string("tw::direct_conv<") + (parts.channels_last ? "true" : "false") + ", " +
                    std::to_string(width) + ">")};
  expect_compiled(program, node);
  PackedConv packed = pack(node, parts, {0, 2, 3, 1});
  std::string type = loops.index_type();
  int64_t count = loops.positions();
  Arguments arguments;
  add_pointer(arguments, packed.weight);
  add_pointer(arguments, packed.bias);
  add_index(arguments, count, type);
  for (int64_t size : loops.sizes) add_size(arguments, size, type);
  add_size(arguments, parts.weight.size(0) / conv.groups, type);
  for (int64_t stride : strides_nhwc(parts.x)) add_index(arguments, stride, type);
  add_index(arguments, depth * parts.weight.size(2) * parts.weight.size(3), type);
  for (int64_t number :
       {depth, parts.weight.size(2), parts.weight.size(3), parts.x.shape[2], parts.x.shape[3], conv.stride[0],
        conv.stride[1], conv.padding[0], conv.padding[1], conv.dilation[0], conv.dilation[1]}) {
    arguments.add(static_cast<int32_t>(number));
  }
  arguments.add(static_cast<int32_t>(strides_divide(parts, width)));
  loops.add_arguments(arguments);
  return make_own_kernel(node, program, {.blocks = ceil_div(count, kThreads), .threads = kThreads},
                         std::move(arguments), parts.packed, {packed.weight, packed.bias});
}

const Conv* conv_of(const Node& node) {
  auto* fused = node.as<Fused>();
  const Node* anchor = fused ? anchor_of(*fused) : &node;
  return anchor ? anchor->as<Conv>() : nullptr;
}

bool is_depthwise(const ConvParts& parts) {
  return parts.conv.groups == parts.x.shape[1] && parts.weight.size(0) == parts.conv.groups && parts.conv.groups > 1;
}

/// Taps of a window whose registers do for several rows of all the channels that can be moved at once.
constexpr int64_t kSmallWindow = 9;
/// Taps of a window that threads can go down an image with, by some of these channels.
constexpr int64_t kLargeWindow = 49;
constexpr int64_t kFewRegisters = 50, kManyRegisters = 100;

int64_t taps_of(const ConvParts& parts) { return parts.weight.size(2) * parts.weight.size(3); }

/// Channels whose filters take at most so many registers, but no fewer than a register holds.
int channels_in(const ConvParts& parts, int64_t registers) {
  auto element = static_cast<int64_t>(c10::elementSize(parts.x.dtype));
  int channels = parts.width;
  auto needed = [&] { return taps_of(parts) * channels * std::max<int64_t>(element, 4) / 4; };  // Widened to f32.
  while (channels > 1 && channels * element > 4 && needed() > registers) channels /= 2;
  return channels;
}

/// Tiles of so many rows. Of fewer channels than can be moved at once, sums and filters let 16 warps or more share a
/// multiprocessor.
std::vector<DepthwiseTile> tall_tiles(const ConvParts& parts, int64_t rows) {
  DepthwiseTile tile{.height = static_cast<int>(rows), .width = 1, .channels = channels_in(parts, kFewRegisters)};
  int64_t dilation = parts.conv.dilation[0];
  // Rows far apart are not shared; those of wide windows take many registers themselves.
  constexpr int64_t kMostColumns = 7;
  if (!tile.is_tall() || taps_of(parts) > kLargeWindow || parts.weight.size(3) > kMostColumns || 2 * dilation > rows)
    return {};
  std::vector<DepthwiseTile> tiles;
  if (parts.loops.sizes[2] > 1 && parts.conv.dilation[1] == 1) tiles.push_back({tile.height, 2, tile.channels});
  tiles.push_back(tile);
  int more = channels_in(parts, kManyRegisters);
  if (taps_of(parts) > kSmallWindow && dilation == 1 && more > tile.channels) tiles.push_back({tile.height, 1, more});
  return tiles;
}

/// The tiles on offer for an image of this size, whatever the batch, in the order of how much a thread computes.
std::vector<DepthwiseTile> depthwise_tiles(const ConvParts& parts, const std::set<std::string>* wanted) {
  constexpr int64_t kMostRows = 8, kWindowOfTwoRows = 25;
  std::vector<DepthwiseTile> tiles;
  int64_t rows = std::max<int64_t>(parts.loops.sizes[1], 1);
  int64_t chosen = ceil_div(rows, ceil_div(rows, kMostRows));
  for (int64_t height = kMostRows; height > 0; --height) {
    if (!wanted && height != chosen) continue;
    std::vector<DepthwiseTile> tall = tall_tiles(parts, height);
    tiles.insert(tiles.end(), tall.begin(), tall.end());
  }
  if (taps_of(parts) <= kWindowOfTwoRows) {
    int channels = taps_of(parts) <= kSmallWindow ? 0 : channels_in(parts, kManyRegisters);
    tiles.push_back({2, 2, channels});
    tiles.push_back({2, 1, channels});
  }
  tiles.push_back({1, 2});
  tiles.push_back({1, 1});
  if (wanted) std::erase_if(tiles, [&](const DepthwiseTile& tile) { return !wanted->count(tile.text()); });
  return tiles;
}

}  // namespace

void propose_depthwise(const Node& node, const KernelContext& context, Offers& offers) {
  if (!conv_of(node)) return;
  ConvParts parts = take_apart(node);
  expect(is_depthwise(parts), "not depthwise");
  expect(parts.channels_last && (parts.x.strides[1] == 1 || parts.x.shape[1] == 1), "not channels-last");
  constexpr int64_t kLargestWindow = 121;
  expect(taps_of(parts) <= kLargestWindow, "a window of more than 121 elements");
  parts.width = depthwise_width(parts);
  std::vector<DepthwiseTile> tiles = depthwise_tiles(parts, context.wanted);
  expect(!tiles.empty(), kNoneWanted);
  // More results per thread read less, fewer fill the machine. The largest tile that leaves enough threads comes first:
  // of those that go down many rows these must fill it, since each takes long.
  constexpr int64_t kEnoughThreads = 1 << 13, kManyThreads = 1 << 16;
  auto fills = [&](const DepthwiseTile& tile) {
    int64_t results =
        static_cast<int64_t>(tile.height) * tile.width * (tile.channels > 0 ? tile.channels : parts.width);
    return parts.loops.positions() / results >= (tile.is_tall() ? kManyThreads : kEnoughThreads);
  };
  std::stable_partition(tiles.begin(), tiles.end(), fills);
  if (std::none_of(tiles.begin(), tiles.end(), fills)) std::reverse(tiles.begin(), tiles.end());
  if (!context.tune) tiles.resize(1);
  for (DepthwiseTile tile : tiles)
    offers.add(tile.text(), [&node, parts, tile] { return make_depthwise(node, parts, tile); });
}

void propose_direct_conv(const Node& node, const KernelContext& context, Offers& offers) {
  if (!conv_of(node)) return;
  ConvParts parts = take_apart(node);
  // Without timing nobody would notice that tensor cores are faster.
  constexpr int64_t kFewChannels = 16;
  int64_t depth = parts.x.shape[1] / parts.conv.groups;
  expect(context.tune || depth <= kFewChannels, "more than 16 channels per group, and kernels are not timed");
  offers.add("", [&node, parts] { return make_direct(node, parts); });
}

}  // namespace torchweld::cuda
