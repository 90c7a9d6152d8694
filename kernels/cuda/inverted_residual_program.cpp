#include "kernels/cuda/inverted_residual_program.h"

#include <algorithm>

#include "core/error.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/pointwise.h"
#include "kernels/cuda/packed_bytes.h"
#include "kernels/cuda/pooled_parts.h"

namespace torchweld::cuda {
namespace {

bool is_depthwise(const BlockPart& part) {
  return part.weight.size(1) == 1 && part.weight.size(0) == part.anchor().as<Conv>()->groups && part.weight.size(0) > 1;
}

void expect_position_conv(const BlockPart& part) {
  const Conv& conv = *part.anchor().as<Conv>();
  bool plain = conv.groups == 1 && conv.stride == Dims{1, 1} && conv.padding == Dims{0, 0};
  expect(plain && part.weight.size(2) == 1 && part.weight.size(3) == 1, "a convolution beside it is not a plain 1x1");
}

/// A pointwise node that multiplies, or the like, each channel of a tensor [N,C,H,W] by one of [N,C,1,1].
void take_scale(const Node& node, const Node& inner, ResidualParts& parts) {
  parts.scale = body_of(inner);
  const Dims& shape = inner.output()->type.shape;
  size_t tensors = 0;
  for (size_t i = 0; i < inner.inputs().size(); ++i) {
    if (parts.scale->is_literal(i)) continue;
    const Value* v = inner.input(i);
    expect(!v->producer() && v->type.rank() == 4 && shape.size() == 4, "an operand of the scaling is computed inside");
    bool is_gate = v->type.shape == Dims{shape[0], shape[1], 1, 1} && v->type.shape != shape;
    expect(is_gate || v->type.shape == shape, "the scaling is not one number per channel");
    (is_gate ? parts.gate_index : parts.x_index) = static_cast<size_t>(v->index());
    if (is_gate) parts.gate_input = i;
    ++tensors;
  }
  expect(tensors == 2 && parts.gate_index != parts.x_index, "the scaling does not have two operands");
  const TensorType& gates = node.input(parts.gate_index)->type;
  expect(gates.dtype == inner.output()->type.dtype && gates.strides[1] == 1 && gates.strides[0] % 8 == 0,
         "the factors do not lie side by side");
}

/// The parts by their roles, each reading the one before it.
ResidualParts find_roles(const Node& node) {
  ResidualParts parts;
  const Graph& body = *node.as<Fused>()->body;
  const Value* value = nullptr;
  for (const auto& inner : body.nodes()) {
    if (!value && is_pointwise(*inner)) {
      take_scale(node, *inner, parts);
      value = inner->output();
      continue;
    }
    BlockPart part = take_part(node, *inner);
    auto* conv = part.anchor().as<Conv>();
    expect(conv && !conv->transposed && part.weight.dim() == 4, "not a block of 2-d convolutions");
    expect(!value || part.x == value, "the convolutions are no chain");
    bool depthwise = is_depthwise(part) && !parts.depthwise && !parts.scale;
    if (!depthwise) expect_position_conv(part);
    auto& role = depthwise ? parts.depthwise : parts.depthwise || parts.scale ? parts.project : parts.expand;
    expect(!role, "more convolutions than expansion, depthwise and projection");
    value = inner->output();
    role = std::move(part);
  }
  bool known = parts.scale ? parts.project.has_value() : parts.depthwise.has_value();
  expect(known, "not an inverted residual");
  expect(body.outputs().size() == 1 && body.outputs()[0] == value, "a value between the convolutions is a result");
  return parts;
}

/// What is read beside x and weights: nothing but x itself after the last convolution, or, after a scaling, any tensor.
void find_added(const Node& node, ResidualParts& parts) {
  const BlockPart& last = parts.project ? *parts.project : *parts.depthwise;
  for (const auto* part : {&parts.expand, &parts.depthwise, &parts.project}) {
    if (!*part) continue;
    expect((*part)->node->output()->type.dtype == parts.x.dtype, "the parts have several dtypes");
    expect(!(*part)->added || (&**part == &last && parts.project), "pointwise nodes inside read a tensor");
  }
  parts.added_index = parts.x_index;
  if (!last.added) return;
  expect(last.added->producer() == nullptr, "what is added is computed inside the block");
  parts.added_index = static_cast<size_t>(last.added->index());
  const TensorType& added = node.input(parts.added_index)->type;
  expect(parts.scale ? parts.added_index != parts.x_index : parts.added_index == parts.x_index,
         "pointwise nodes read a tensor other than the block's input");
  expect(added.shape == node.output()->type.shape && added.dtype == parts.x.dtype, "what is added has another type");
  expect_channels_last(added, "what is added");
}

/// Whether functions after a part take many more instructions than a maximum.
bool is_costly(const BlockPart& part) {
  std::string text = emit_after(part, "f", part.added != nullptr);
  return text.find("exp(") != std::string::npos || text.find("tanh(") != std::string::npos ||
         text.find("erf(") != std::string::npos || text.find("gelu(") != std::string::npos;
}

}  // namespace

ResidualParts take_residual_apart(const Node& node) {
  ResidualParts parts = find_roles(node);
  if (!parts.scale) {
    const BlockPart& first = parts.expand ? *parts.expand : *parts.depthwise;
    expect(first.x->producer() == nullptr, "the block's input is computed inside it");
    parts.x_index = static_cast<size_t>(first.x->index());
  }
  parts.x = node.input(parts.x_index)->type;
  const TensorType& out = node.output()->type;
  expect(parts.x.dtype == c10::kHalf || parts.x.dtype == c10::kBFloat16, "only f16 and bf16");
  expect_channels_last(parts.x, "the input");
  expect_channels_last(out, "the result");
  find_added(node, parts);
  parts.sizes = {.expands = parts.expand.has_value(),
                 .projects = parts.project.has_value(),
                 .adds_input = parts.project && parts.project->added,
                 .scales = parts.scale.has_value(),
                 .costly_functions = parts.depthwise && is_costly(*parts.depthwise),
                 .in = parts.x.shape[1],
                 .hidden = parts.x.shape[1],
                 .out = out.shape[1],
                 .window = {1, 1},
                 .stride = {1, 1},
                 .dilation = {1, 1},
                 .padding = {0, 0},
                 .batch = out.shape[0],
                 .image = {out.shape[2], out.shape[3]}};
  if (parts.depthwise) {
    const Conv& conv = *parts.depthwise->anchor().as<Conv>();
    const LazyTensor& window = parts.depthwise->weight;
    parts.sizes.hidden = window.size(0);
    parts.sizes.window = {window.size(2), window.size(3)};
    parts.sizes.stride = conv.stride;
    parts.sizes.dilation = conv.dilation;
    parts.sizes.padding = conv.padding;
  }
  expect(parts.sizes.hidden % 8 == 0, "the number of hidden channels is not a multiple of 8");
  bool keeps_size = parts.sizes.stride == Dims{1, 1} && out.shape == parts.x.shape;
  expect(!parts.sizes.adds_input || parts.scale || keeps_size, "the input is added to a result of another size");
  for (size_t i = 0; i < node.inputs().size(); ++i) {
    bool passed = i == parts.x_index || i == parts.added_index || (parts.scale && i == parts.gate_index);
    if (!passed) parts.packed.push_back(i);
  }
  return parts;
}

namespace {

/// Numbers of a f32 tensor; zeros when it is undefined.
struct Numbers {
  at::Tensor tensor;
  float at(int64_t i) const { return tensor.defined() ? tensor.const_data_ptr<float>()[i] : 0.f; }
};

/// Every split's weights as device code finds them in shared memory, one after the other.
at::Tensor pack_weights(const ResidualParts& parts, const ResidualLayout& layout) {
  const InvertedResidual& sizes = parts.sizes;
  PackedBytes bytes(layout.weights_bytes * layout.tiling.splits, parts.x.dtype);
  auto part = [](const std::optional<BlockPart>& p, bool weight) {
    const at::Tensor tensor = !p ? at::Tensor() : weight ? p->weight.tensor() : p->bias.tensor();
    return Numbers{tensor.defined() ? as_f32(tensor) : at::Tensor()};
  };
  Numbers expand = part(parts.expand, true), expand_bias = part(parts.expand, false);
  Numbers window = part(parts.depthwise, true), window_bias = part(parts.depthwise, false);
  Numbers project = part(parts.project, true), project_bias = part(parts.project, false);
  at::Tensor squeeze, excite;
  if (sizes.squeezed > 0)
    squeeze = as_f32(parts.excite[0].weight.tensor()), excite = as_f32(parts.excite[1].weight.tensor());
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
    for (int64_t c = 0; parts.depthwise && c < hidden; ++c) {
      for (int64_t t = 0; t < taps; ++t)
        bytes.put_f32(at + layout.depthwise_at + (t * hidden + place_of(c)) * 4, window.at((first + c) * taps + t));
      bytes.put_f32(at + layout.depthwise_bias_at + place_of(c) * 4, window_bias.at(first + c));
      if (sizes.expands) bytes.put_f32(at + layout.expand_bias_at + c * 4, expand_bias.at(first + c));
    }
    for (int64_t c = 0; sizes.projects && c < sizes.out; ++c)
      bytes.put_f32(at + layout.project_bias_at + c * 4, project_bias.at(c));
    if (sizes.squeezed == 0) continue;
    put_rows(bytes, at + layout.squeeze_at, layout.squeeze_step, squeeze, 0, sizes.squeezed, first, hidden);
    put_rows(bytes, at + layout.excite_at, layout.excite_step, excite, first, hidden, 0, sizes.squeezed);
    put_bias(bytes, at + layout.squeeze_bias_at, parts.excite[0].bias.tensor(), 0, sizes.squeezed);
    put_bias(bytes, at + layout.excite_bias_at, parts.excite[1].bias.tensor(), first, hidden);
  }
  return bytes.tensor();
}

std::string emit_config(const ResidualParts& parts, const ResidualLayout& l) {
  const InvertedResidual& s = parts.sizes;
  auto flag = [](const char* name, bool value) {
    return std::string("  static constexpr bool ") + name + (value ? " = true;\n" : " = false;\n");
  };
  std::string text = "struct Config {\n  using S = " + storage_type(parts.x.dtype) + ";\n";
  text += flag("expands", s.expands) + flag("projects", s.projects) + flag("adds_input", s.adds_input) +
          flag("scales", s.scales) + flag("pools", s.pools) + flag("excites", s.squeezed > 0) +
          flag("persistent", l.tiling.persistent);
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
  if (s.pools || s.squeezed > 0) text += emit_constants({{"pool_at", l.pool_at}, {"pool_shares", l.pool_shares}});
  if (s.squeezed > 0) {
    int64_t threads = 32 * l.tiling.warps;
    text += emit_constants({{"squeezed", s.squeezed},
                            {"squeeze_at", l.squeeze_at},
                            {"excite_at", l.excite_at},
                            {"squeeze_bias_at", l.squeeze_bias_at},
                            {"excite_bias_at", l.excite_bias_at},
                            {"squeeze_step", l.squeeze_step},
                            {"excite_step", l.excite_step},
                            {"squeeze_lanes", lanes_per_row(s.squeezed, l.hidden, threads)},
                            {"excite_lanes", lanes_per_row(l.hidden, s.squeezed, threads)}});
    text += emit_constants({{"means_at", l.means_at},
                            {"partial_at", l.partial_at},
                            {"exchanged_at", l.exchanged_at},
                            {"squeezed_at", l.squeezed_at}});
    text += emit_after(parts.excite[0], "after_squeeze", false) + emit_after(parts.excite[1], "after_excite", false);
  }
  if (parts.expand) text += emit_after(*parts.expand, "after_expand", false);
  if (parts.depthwise) text += emit_after(*parts.depthwise, "after_depthwise", false);
  if (parts.scale) text += emit_gated(*parts.scale->graph, parts.gate_input, "scale");
  if (parts.project) text += emit_after(*parts.project, "after_project", true);
  return text + "};\n";
}

std::string emit_call(const ResidualParts& parts) {
  auto pointer = [](size_t i) { return "x" + std::to_string(i) + ", "; };
  std::string x = pointer(parts.x_index);
  if (parts.sizes.pools) return "tw::pooled_depthwise<Config>(" + x + "y0, sums, p)";
  if (!parts.scale) return "tw::inverted_residual<Config>(" + x + "y0, p)";
  std::string added = pointer(parts.added_index);
  if (parts.sizes.squeezed > 0) return "tw::excited_projection<Config>(" + x + "sums, " + added + "y0, p)";
  return "tw::scaled_projection<Config>(" + x + pointer(parts.gate_index) + added + "y0, p)";
}

/// Rows of tiles, of all samples.
int64_t lines_of(const TensorType& out, const ResidualLayout& l) {
  return ceil_div(out.shape[2], l.tiling.height) * out.shape[0];
}

Arguments arguments_of(const Node& node, const ResidualParts& parts, const ResidualLayout& l, const at::Tensor& weights,
                       int64_t tiles) {
  const TensorType& out = node.output()->type;
  const TensorType& added = node.input(parts.added_index)->type;
  Arguments arguments;
  arguments.add(weights.defined() ? weights.data_ptr() : nullptr);
  auto add = [&arguments](std::initializer_list<int64_t> numbers) {
    for (int64_t number : numbers) arguments.add(static_cast<int32_t>(number));
  };
  add({parts.x.shape[2], parts.x.shape[3], out.shape[2], out.shape[3], ceil_div(out.shape[2], l.tiling.height)});
  for (const TensorType* t : {static_cast<const TensorType*>(&parts.x), &out, &added})
    add({t->strides[0], t->strides[2], t->strides[3]});
  add({parts.scale ? node.input(parts.gate_index)->type.strides[0] : 0, tiles, lines_of(out, l)});
  return arguments;
}

}  // namespace

Program residual_program(const Node& node, const ResidualParts& parts, const ResidualLayout& l) {
  // Of a large window and many sums the compiler would spill some registers for the sake of a second block, where it is
  // not told that one (the layout's `together`) is enough.
  bool many_registers = l.group_h * l.group_w > 2 && parts.sizes.window[1] > 3;
  std::string threads = std::to_string(32 * l.tiling.warps);
  if (l.tiling.persistent || many_registers) threads += ", " + std::to_string(l.together);
  bool sums = parts.sizes.pools || parts.sizes.squeezed > 0;
  std::string name = parts.sizes.pools          ? "pooled_depthwise"
                     : parts.sizes.squeezed > 0 ? "excited_projection"
                     : parts.scale              ? "scaled_projection"
                                                : "inverted_residual";
  return {name,
          std::string("#include \"types.cuh\"\n#include \"math.cuh\"\n#include \"") +
              (sums          ? "excited_residual"
               : parts.scale ? "scaled_projection"
                             : "inverted_residual") +
              ".cuh\"\nstruct Params {\n  const void* weights;\n  int height, width, out_height, out_width, tiles_h;\n"
              "  int x[3], y[3], added[3], gates, tiles, lines;\n};\n" +
              emit_config(parts, l) + "extern \"C\" __global__ void __launch_bounds__(" + threads + ") kernel(" +
              emit_pointers(node, parts.packed) + (sums ? "float* sums, " : "") +
              "const __grid_constant__ Params p) {\n  " + emit_call(parts) + ";\n}\n",
          true};
}

ResidualLaunch residual_launch(const Node& node, const ResidualParts& parts, const ResidualLayout& l, int64_t tiles) {
  Program program = residual_program(node, parts, l);
  expect_compiled(program, node);
  at::Tensor weights;
  if (!is_collecting()) {
    std::vector<LazyTensor> numbers;
    for (const std::optional<BlockPart>& part : {parts.expand, parts.depthwise, parts.project}) {
      numbers.push_back(part ? part->weight : LazyTensor());
      numbers.push_back(part ? part->bias : LazyTensor());
    }
    for (const BlockPart& part : parts.excite) numbers.insert(numbers.end(), {part.weight, part.bias});
    weights = packed_for(node, program, numbers, [&] { return pack_weights(parts, l); });
  }
  const TensorType& out = node.output()->type;
  int64_t across = ceil_div(out.shape[3], l.tiling.width) * l.tiling.splits;
  int64_t lines = lines_of(out, l);
  Shape shape{.blocks = across,
              .blocks_y = l.tiling.persistent ? std::min(lines, std::max<int64_t>(l.resident / across, 1)) : lines,
              .threads = static_cast<unsigned>(32 * l.tiling.warps),
              .shared_bytes = static_cast<unsigned>(l.shared_bytes),
              .cluster = static_cast<unsigned>(cluster_of(parts.sizes, l))};
  return {std::move(program), shape, arguments_of(node, parts, l, weights, tiles), {weights}};
}

}  // namespace torchweld::cuda
