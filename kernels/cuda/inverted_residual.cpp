#include "kernels/cuda/inverted_residual.h"

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/pointwise.h"
#include "core/ops/reduce.h"
#include "kernels/cuda/block_parts.h"
#include "kernels/cuda/inverted_residual_tiling.h"
#include "kernels/cuda/own_kernel.h"
#include "kernels/cuda/packed_bytes.h"
#include "kernels/cuda/shared_constants.h"

namespace torchweld::cuda {
namespace {

/// A block taken apart.
struct BlockConvs {
  std::optional<BlockPart> expand;
  std::optional<BlockPart> depthwise;
  std::optional<BlockPart> project;
  std::optional<Body> scale;  ///< The pointwise node that scales, instead of expansion and depthwise.
  size_t gate_input = 0;      ///< Which of its inputs is the gate.
  size_t x_index = 0;
  size_t gate_index = 0;   ///< Input of the block.
  size_t added_index = 0;  ///< Input of the block that is added at the end; x_index when there is none.
  TensorType x;
  InvertedResidual sizes;
  std::vector<size_t> packed;
};

bool is_depthwise(const BlockPart& part) {
  return part.weight.size(1) == 1 && part.weight.size(0) == part.anchor().as<Conv>()->groups && part.weight.size(0) > 1;
}

void expect_position_conv(const BlockPart& part) {
  const Conv& conv = *part.anchor().as<Conv>();
  bool plain = conv.groups == 1 && conv.stride == Dims{1, 1} && conv.padding == Dims{0, 0};
  expect(plain && part.weight.size(2) == 1 && part.weight.size(3) == 1, "a convolution beside it is not a plain 1x1");
}

/// A pointwise node that multiplies, or the like, each channel of a tensor [N,C,H,W] by one of [N,C,1,1].
void take_scale(const Node& node, const Node& inner, BlockConvs& convs) {
  convs.scale = body_of(inner);
  const Dims& shape = inner.output()->type.shape;
  size_t tensors = 0;
  for (size_t i = 0; i < inner.inputs().size(); ++i) {
    if (convs.scale->is_literal(i)) continue;
    const Value* v = inner.input(i);
    expect(!v->producer() && v->type.rank() == 4 && shape.size() == 4, "an operand of the scaling is computed inside");
    bool is_gate = v->type.shape == Dims{shape[0], shape[1], 1, 1} && v->type.shape != shape;
    expect(is_gate || v->type.shape == shape, "the scaling is not one number per channel");
    (is_gate ? convs.gate_index : convs.x_index) = static_cast<size_t>(v->index());
    if (is_gate) convs.gate_input = i;
    ++tensors;
  }
  expect(tensors == 2 && convs.gate_index != convs.x_index, "the scaling does not have two operands");
  const TensorType& gates = node.input(convs.gate_index)->type;
  expect(gates.dtype == inner.output()->type.dtype && gates.strides[1] == 1 && gates.strides[0] % 8 == 0,
         "the factors do not lie side by side");
}

/// The parts by their roles, each reading the one before it.
BlockConvs find_roles(const Node& node) {
  BlockConvs convs;
  const Graph& body = *node.as<Fused>()->body;
  const Value* value = nullptr;
  for (const auto& inner : body.nodes()) {
    if (!value && is_pointwise(*inner)) {
      take_scale(node, *inner, convs);
      value = inner->output();
      continue;
    }
    BlockPart part = take_part(node, *inner);
    auto* conv = part.anchor().as<Conv>();
    expect(conv && !conv->transposed && part.weight.dim() == 4, "not a block of 2-d convolutions");
    expect(!value || part.x == value, "the convolutions are no chain");
    bool depthwise = is_depthwise(part) && !convs.depthwise && !convs.scale;
    if (!depthwise) expect_position_conv(part);
    auto& role = depthwise ? convs.depthwise : convs.depthwise || convs.scale ? convs.project : convs.expand;
    expect(!role, "more convolutions than expansion, depthwise and projection");
    value = inner->output();
    role = std::move(part);
  }
  bool known = convs.scale ? convs.project.has_value() : convs.depthwise && (convs.expand || convs.project);
  expect(known, "not an inverted residual");
  expect(body.outputs().size() == 1 && body.outputs()[0] == value, "a value between the convolutions is a result");
  return convs;
}

/// What is read beside x and weights: nothing but x itself after the last convolution, or, after a scaling, any tensor.
void find_added(const Node& node, BlockConvs& convs) {
  const BlockPart& last = convs.project ? *convs.project : *convs.depthwise;
  for (const auto* part : {&convs.expand, &convs.depthwise, &convs.project}) {
    if (!*part) continue;
    expect((*part)->node->output()->type.dtype == convs.x.dtype, "the parts have several dtypes");
    expect(!(*part)->added || (&**part == &last && convs.project), "pointwise nodes inside read a tensor");
  }
  convs.added_index = convs.x_index;
  if (!last.added) return;
  expect(last.added->producer() == nullptr, "what is added is computed inside the block");
  convs.added_index = static_cast<size_t>(last.added->index());
  const TensorType& added = node.input(convs.added_index)->type;
  expect(convs.scale ? convs.added_index != convs.x_index : convs.added_index == convs.x_index,
         "pointwise nodes read a tensor other than the block's input");
  expect(added.shape == node.output()->type.shape && added.dtype == convs.x.dtype, "what is added has another type");
  expect_channels_last(added, "what is added");
}

/// Whether functions after a part take many more instructions than a maximum.
bool is_costly(const BlockPart& part) {
  std::string text = emit_after(part, "f", part.added != nullptr);
  return text.find("exp(") != std::string::npos || text.find("tanh(") != std::string::npos ||
         text.find("erf(") != std::string::npos || text.find("gelu(") != std::string::npos;
}

BlockConvs take_apart(const Node& node) {
  BlockConvs convs = find_roles(node);
  if (!convs.scale) {
    const BlockPart& first = convs.expand ? *convs.expand : *convs.depthwise;
    expect(first.x->producer() == nullptr, "the block's input is computed inside it");
    convs.x_index = static_cast<size_t>(first.x->index());
  }
  convs.x = node.input(convs.x_index)->type;
  const TensorType& out = node.output()->type;
  expect(convs.x.dtype == c10::kHalf || convs.x.dtype == c10::kBFloat16, "only f16 and bf16");
  expect_channels_last(convs.x, "the input");
  expect_channels_last(out, "the result");
  find_added(node, convs);
  convs.sizes = {.expands = convs.expand.has_value(),
                 .projects = convs.project.has_value(),
                 .adds_input = convs.project && convs.project->added,
                 .scales = convs.scale.has_value(),
                 .costly_functions = convs.depthwise && is_costly(*convs.depthwise),
                 .in = convs.x.shape[1],
                 .hidden = convs.x.shape[1],
                 .out = out.shape[1],
                 .window = {1, 1},
                 .stride = {1, 1},
                 .dilation = {1, 1},
                 .padding = {0, 0},
                 .batch = out.shape[0],
                 .image = {out.shape[2], out.shape[3]}};
  if (convs.depthwise) {
    const Conv& conv = *convs.depthwise->anchor().as<Conv>();
    const at::Tensor& window = convs.depthwise->weight;
    convs.sizes.hidden = window.size(0);
    convs.sizes.window = {window.size(2), window.size(3)};
    convs.sizes.stride = conv.stride;
    convs.sizes.dilation = conv.dilation;
    convs.sizes.padding = conv.padding;
  }
  expect(convs.sizes.hidden % 8 == 0, "the number of hidden channels is not a multiple of 8");
  bool keeps_size = convs.sizes.stride == Dims{1, 1} && out.shape == convs.x.shape;
  expect(!convs.sizes.adds_input || convs.scale || keeps_size, "the input is added to a result of another size");
  for (size_t i = 0; i < node.inputs().size(); ++i) {
    bool passed = i == convs.x_index || i == convs.added_index || (convs.scale && i == convs.gate_index);
    if (!passed) convs.packed.push_back(i);
  }
  return convs;
}

/// Numbers of a f32 tensor; zeros when it is undefined.
struct Numbers {
  at::Tensor tensor;
  float at(int64_t i) const { return tensor.defined() ? tensor.const_data_ptr<float>()[i] : 0.f; }
};

/// Every split's weights as device code finds them in shared memory, one after the other.
at::Tensor pack_weights(const BlockConvs& convs, const ResidualLayout& layout) {
  const InvertedResidual& sizes = convs.sizes;
  PackedBytes bytes(layout.weights_bytes * layout.tiling.splits, convs.x.dtype);
  auto part = [](const std::optional<BlockPart>& p, bool weight) {
    const at::Tensor tensor = !p ? at::Tensor() : weight ? p->weight : p->bias;
    return Numbers{tensor.defined() ? as_f32(tensor) : at::Tensor()};
  };
  Numbers expand = part(convs.expand, true), expand_bias = part(convs.expand, false);
  Numbers window = part(convs.depthwise, true), window_bias = part(convs.depthwise, false);
  Numbers project = part(convs.project, true), project_bias = part(convs.project, false);
  int64_t hidden = layout.hidden, taps = sizes.window[0] * sizes.window[1], width = layout.width;
  for (int64_t split = 0; split < layout.tiling.splits; ++split) {
    int64_t at = split * layout.weights_bytes, first = split * hidden;
    for (int64_t row = 0; sizes.expands && row < round_up(hidden, 16); ++row) {
      int64_t channel = channel_of_row(row);
      if (channel >= hidden) continue;
      for (int64_t k = 0; k < sizes.in; ++k)
        bytes.put(at + layout.expand_at + (row * layout.in_step + k) * 2, expand.at((first + channel) * sizes.in + k));
    }
    for (int64_t row = 0; sizes.projects && row < round_up(sizes.out, 16); ++row) {
      int64_t channel = channel_of_row(row);
      if (channel >= sizes.out) continue;
      for (int64_t k = 0; k < hidden; ++k)
        bytes.put(at + layout.project_at + (row * layout.hidden_step + k) * 2,
                  project.at(channel * sizes.hidden + first + k));
    }
    // Groups of 4 channels, so that neighbouring threads read neighbouring 16 bytes.
    int64_t unit = std::min<int64_t>(width, 4);
    auto place_of = [&](int64_t c) { return (c % width / unit * (hidden / width) + c / width) * unit + c % unit; };
    for (int64_t c = 0; convs.depthwise && c < hidden; ++c) {
      for (int64_t t = 0; t < taps; ++t)
        bytes.put_f32(at + layout.depthwise_at + (t * hidden + place_of(c)) * 4, window.at((first + c) * taps + t));
      bytes.put_f32(at + layout.depthwise_bias_at + place_of(c) * 4, window_bias.at(first + c));
      if (sizes.expands) bytes.put_f32(at + layout.expand_bias_at + c * 4, expand_bias.at(first + c));
    }
    for (int64_t c = 0; sizes.projects && c < sizes.out; ++c)
      bytes.put_f32(at + layout.project_bias_at + c * 4, project_bias.at(c));
  }
  return bytes.tensor();
}

std::string emit_config(const BlockConvs& convs, const ResidualLayout& l) {
  const InvertedResidual& s = convs.sizes;
  auto flag = [](const char* name, bool value) {
    return std::string("  static constexpr bool ") + name + (value ? " = true;\n" : " = false;\n");
  };
  std::string text = "struct Config {\n  using S = " + storage_type(convs.x.dtype) + ";\n";
  text += flag("expands", s.expands) + flag("projects", s.projects) + flag("adds_input", s.adds_input) +
          flag("scales", s.scales);
  text += emit_constants({{"in", s.in}, {"hidden", l.hidden}, {"out", s.out}});
  text += emit_constants({{"rows", s.window[0]},
                          {"columns", s.window[1]},
                          {"stride_h", s.stride[0]},
                          {"stride_w", s.stride[1]},
                          {"dilation_h", s.dilation[0]},
                          {"dilation_w", s.dilation[1]},
                          {"pad_h", s.padding[0]},
                          {"pad_w", s.padding[1]}});
  text += emit_constants({{"tile_h", l.tiling.height},
                          {"tile_w", l.tiling.width},
                          {"splits", l.tiling.splits},
                          {"warps", l.tiling.warps},
                          {"group_h", l.group_h},
                          {"group_w", l.group_w},
                          {"width", l.width}});
  text += emit_constants({{"expand_at", l.expand_at},
                          {"project_at", l.project_at},
                          {"depthwise_at", l.depthwise_at},
                          {"expand_bias_at", l.expand_bias_at},
                          {"depthwise_bias_at", l.depthwise_bias_at},
                          {"project_bias_at", l.project_bias_at},
                          {"weights_bytes", l.weights_bytes}});
  text += emit_constants({{"weights_at", l.weights_at},
                          {"covered_at", l.covered_at},
                          {"x_at", l.x_at},
                          {"hidden_at", l.hidden_at},
                          {"result_at", l.result_at},
                          {"sums_at", l.sums_at},
                          {"in_step", l.in_step},
                          {"hidden_step", l.hidden_step},
                          {"out_step", l.out_step},
                          {"gates_at", l.gates_at},
                          {"added_at", l.added_at}});
  if (convs.expand) text += emit_after(*convs.expand, "after_expand", false);
  if (convs.depthwise) text += emit_after(*convs.depthwise, "after_depthwise", false);
  if (convs.scale) text += emit_gated(*convs.scale->graph, convs.gate_input, "scale");
  if (convs.project) text += emit_after(*convs.project, "after_project", true);
  return text + "};\n";
}

std::string emit_call(const BlockConvs& convs) {
  auto pointer = [](size_t i) { return "x" + std::to_string(i); };
  if (!convs.scale) return "tw::inverted_residual<Config>(" + pointer(convs.x_index) + ", y0, p)";
  return "tw::scaled_projection<Config>(" + pointer(convs.x_index) + ", " + pointer(convs.gate_index) + ", " +
         pointer(convs.added_index) + ", y0, p)";
}

Arguments arguments_of(const Node& node, const BlockConvs& convs, const ResidualLayout& l, const at::Tensor& weights) {
  const TensorType& out = node.output()->type;
  const TensorType& added = node.input(convs.added_index)->type;
  Arguments arguments;
  arguments.add(weights.defined() ? weights.data_ptr() : nullptr);
  auto add = [&arguments](std::initializer_list<int64_t> numbers) {
    for (int64_t number : numbers) arguments.add(static_cast<int32_t>(number));
  };
  add({convs.x.shape[2], convs.x.shape[3], out.shape[2], out.shape[3], ceil_div(out.shape[2], l.tiling.height)});
  for (const TensorType* t : {static_cast<const TensorType*>(&convs.x), &out, &added})
    add({t->strides[0], t->strides[2], t->strides[3]});
  add({convs.scale ? node.input(convs.gate_index)->type.strides[0] : 0});
  return arguments;
}

Program program_of(const Node& node, const BlockConvs& convs, const ResidualLayout& l) {
  std::string threads = std::to_string(32 * l.tiling.warps);
  return {convs.scale ? "scaled_projection" : "inverted_residual",
          "#include \"types.cuh\"\n#include \"math.cuh\"\n#include \"inverted_residual.cuh\"\n"
          "struct Params {\n  const void* weights;\n  int height, width, out_height, out_width, tiles_h;\n  int x[3], "
          "y[3], added[3], gates;\n};\n" +
              emit_config(convs, l) + "extern \"C\" __global__ void __launch_bounds__(" + threads + ") kernel(" +
              emit_pointers(node, convs.packed) + "const __grid_constant__ Params p) {\n  " + emit_call(convs) +
              ";\n}\n",
          true};
}

int64_t cluster_of(const BlockConvs& convs, const ResidualLayout& l) {
  return convs.sizes.projects ? l.tiling.splits : 1;
}

std::unique_ptr<Kernel> make_inverted_residual(const Node& node, const BlockConvs& convs, const ResidualLayout& l) {
  at::Tensor weights;
  if (!is_collecting()) {
    c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(device_of(node)));
    weights = shared_constant(pack_weights(convs, l).to(device));
  }
  const TensorType& out = node.output()->type;
  Shape shape{.blocks = ceil_div(out.shape[3], l.tiling.width) * l.tiling.splits,
              .blocks_y = ceil_div(out.shape[2], l.tiling.height) * out.shape[0],
              .threads = static_cast<unsigned>(32 * l.tiling.warps),
              .shared_bytes = static_cast<unsigned>(l.shared_bytes),
              .cluster = static_cast<unsigned>(cluster_of(convs, l))};
  return make_own_kernel(node, program_of(node, convs, l), shape, arguments_of(node, convs, l, weights), convs.packed,
                         {weights});
}

}  // namespace

void offer_inverted_residuals(const Node& node, size_t most, Offers& offers) {
  auto* fused = node.as<Fused>();
  if (!fused || !is_block(*fused) || fused->body->nodes().front()->as<Reduce>()) return;
  BlockConvs convs = take_apart(node);
  DeviceLimits limits = limits_of(node);
  constexpr int kTensorCores = 8;
  expect(limits.major >= kTensorCores, "the GPU is older than sm_80");
  std::vector<ResidualLayout> layouts = rank_layouts(convs.sizes, limits);
  expect(!layouts.empty(), "no tile fits into shared memory");
  size_t begin = 0;
  if (most == 1) {
    begin = choose_untimed(
        node, layouts.size(), [&](size_t i) { return program_of(node, convs, layouts[i]); },
        [&](size_t i) { return cluster_of(convs, layouts[i]); });
  }
  // The fastest were expected within 1.17 times the best estimate (an H100).
  constexpr double kHopeful = 1.25;
  double least = layouts.front().microseconds;
  for (const ResidualLayout& layout : layouts) least = std::min(least, layout.microseconds);
  for (size_t i = begin; i < std::min(layouts.size(), begin + most); ++i) {
    if (most > 1 && layouts[i].microseconds > kHopeful * least) continue;
    offers.add(
        layouts[i].tiling.text(),
        [&node, convs, layout = layouts[i]] { return make_inverted_residual(node, convs, layout); },
        layouts[i].microseconds);
  }
}

void propose_inverted_residual(const Node& node, const KernelContext& context, Offers& offers) {
  constexpr size_t kOffers = 10;
  offer_inverted_residuals(node, context.tune ? kOffers : 1, offers);
}

}  // namespace torchweld::cuda
