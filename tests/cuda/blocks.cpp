#include "tests/cuda/blocks.h"

#include <ATen/ops/mul.h>
#include <ATen/ops/randn.h>

#include <cmath>

#include "conversion/passes/passes.h"
#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "core/ops/pool.h"
#include "core/ops/reduce.h"
#include "core/ops/shape.h"
#include "kernels/cuda/excited_residual.h"
#include "kernels/cuda/implicit_gemm.h"
#include "kernels/cuda/inverted_residual.h"
#include "kernels/cuda/pooled_blocks.h"
#include "kernels/cuda/stem_pool.h"

namespace torchweld::cuda_tests {
namespace {

/// Adds single nodes to a graph.
class Builder {
 public:
  Builder(c10::ScalarType dtype, bool constants_on_device)
      : graph_(std::make_unique<Graph>()), dtype_(dtype), on_device_(constants_on_device) {}

  Value* input(const Dims& shape) {
    Dims strides = shape.size() == 4 ? channels_last_strides(shape) : contiguous_strides(shape);
    return graph_->add_input({dtype_, shape, strides, kDevice});
  }
  Value* weight(const Dims& shape, double scale) {
    at::Tensor value = at::mul(at::randn(shape), scale).to(dtype_);
    Value* constant = graph_->add(Constant{on_device_ ? value.to(kDevice) : value, "w"}, {});
    constant->type.device = kDevice;
    return constant;
  }
  Value* number(double value) { return graph_->add(Constant::immediate(value, kDevice), {}); }

  Value* conv(Value* x, int64_t out, int64_t window, int64_t stride, int64_t dilation, bool depthwise, bool biased) {
    int64_t padding = (window - 1) / 2 * dilation;
    Conv op{.stride = {stride, stride},
            .padding = {padding, padding},
            .dilation = {dilation, dilation},
            .groups = depthwise ? x->type.shape[1] : 1,
            .output_padding = {0, 0}};
    return conv(x, op, out, {window, window}, biased);
  }
  Value* conv(Value* x, const Conv& op, int64_t out, const Dims& window, bool biased) {
    int64_t in = x->type.shape[1] / op.groups;
    double fan_in = static_cast<double>(in * window[0] * window[1]);
    std::vector<Value*> inputs = {x, weight({out, in, window[0], window[1]}, std::sqrt(2 / fan_in))};
    if (biased) inputs.push_back(weight({out}, 0.5));
    return channels_last(graph_->add(op, inputs));
  }
  Value* max_pool(Value* x, const MaxPool& op) { return channels_last(graph_->add(op, {x})); }
  Value* activation(Value* v, const std::string& name) {
    if (name.empty()) return v;
    std::vector<Value*> inputs = {v};
    if (name == "relu6") inputs.insert(inputs.end(), {number(0), number(6)});
    return graph_->add(Pointwise{name == "relu6" ? "clamp" : name}, inputs);
  }
  Value* add(Attrs attrs, const std::vector<Value*>& inputs) { return graph_->add(std::move(attrs), inputs); }

  /// Runs the passes; all nodes must have become one.
  Case finish(const std::string& name, const std::vector<Value*>& results) {
    for (Value* result : results) graph_->add_output(result);
    PassContext context;
    context.tensor_cores = true;
    for (auto pass : {fuse, fuse_blocks}) {
      pass(*graph_, context);
      graph_->sweep();
      if (on_device_) graph_->verify();  // constants in host memory only stand for others
    }
    int nodes = 0;
    for (const auto& node : graph_->nodes()) nodes += node->as<Constant>() == nullptr;
    check(nodes == 1 && graph_->nodes().back()->as<Fused>(), name + " is not one block:\n" + graph_->text());
    return {name + "/" + dtype_name(dtype_), std::move(graph_)};
  }

 private:
  static Value* channels_last(Value* v) {
    v->type.strides = channels_last_strides(v->type.shape);
    return v;
  }

  std::unique_ptr<Graph> graph_;
  c10::ScalarType dtype_;
  bool on_device_;
};

/// A stage of MobileNetV3 or EfficientNet: an inverted residual with or without squeeze-excitation inside.
struct Stage {
  int64_t size, in, hidden, out, window, stride, squeezed;
  const char* activation;
  int count;
  bool adds_input;
};

const std::vector<Stage>& stages_of(const std::string& network) {
  static const std::vector<Stage> mobile_v2{
      {112, 32, 32, 16, 3, 1, 0, "relu6", 1, false}, {112, 16, 96, 24, 3, 2, 0, "relu6", 1, false},
      {56, 24, 144, 24, 3, 1, 0, "relu6", 1, true},  {56, 24, 144, 32, 3, 2, 0, "relu6", 1, false},
      {28, 32, 192, 32, 3, 1, 0, "relu6", 2, true},  {28, 32, 192, 64, 3, 2, 0, "relu6", 1, false},
      {14, 64, 384, 64, 3, 1, 0, "relu6", 3, true},  {14, 64, 384, 96, 3, 1, 0, "relu6", 1, false},
      {14, 96, 576, 96, 3, 1, 0, "relu6", 2, true},  {14, 96, 576, 160, 3, 2, 0, "relu6", 1, false},
      {7, 160, 960, 160, 3, 1, 0, "relu6", 2, true}, {7, 160, 960, 320, 3, 1, 0, "relu6", 1, false},
  };
  static const std::vector<Stage> mobile_v3{
      {112, 16, 16, 16, 3, 1, 0, "relu", 1, true},
      {112, 16, 64, 24, 3, 2, 0, "relu", 1, false},
      {56, 24, 72, 24, 3, 1, 0, "relu", 1, true},
      {56, 24, 72, 40, 5, 2, 24, "relu", 1, false},
      {28, 40, 120, 40, 5, 1, 32, "relu", 2, true},
      {28, 40, 240, 80, 3, 2, 0, "hardswish", 1, false},
      {14, 80, 200, 80, 3, 1, 0, "hardswish", 1, true},
      {14, 80, 184, 80, 3, 1, 0, "hardswish", 2, true},
      {14, 80, 480, 112, 3, 1, 120, "hardswish", 1, false},
      {14, 112, 672, 112, 3, 1, 168, "hardswish", 1, true},
      {14, 112, 672, 160, 5, 2, 168, "hardswish", 1, false},
      {7, 160, 960, 160, 5, 1, 240, "hardswish", 2, true},
  };
  static const std::vector<Stage> efficient{
      {112, 32, 32, 16, 3, 1, 8, "silu", 1, false},   {112, 16, 96, 24, 3, 2, 4, "silu", 1, false},
      {56, 24, 144, 24, 3, 1, 6, "silu", 1, true},    {56, 24, 144, 40, 5, 2, 6, "silu", 1, false},
      {28, 40, 240, 40, 5, 1, 10, "silu", 1, true},   {28, 40, 240, 80, 3, 2, 10, "silu", 1, false},
      {14, 80, 480, 80, 3, 1, 20, "silu", 2, true},   {14, 80, 480, 112, 5, 1, 20, "silu", 1, false},
      {14, 112, 672, 112, 5, 1, 28, "silu", 2, true}, {14, 112, 672, 192, 5, 2, 28, "silu", 1, false},
      {7, 192, 1152, 192, 5, 1, 48, "silu", 3, true}, {7, 192, 1152, 320, 3, 1, 48, "silu", 1, false},
  };
  return network == "MobileNetV2" ? mobile_v2 : network == "MobileNetV3-L" ? mobile_v3 : efficient;
}

}  // namespace

Case make_block(const ResidualSpec& spec, c10::ScalarType dtype, bool constants_on_device) {
  Builder build(dtype, constants_on_device);
  Value* x = build.input({spec.batch, spec.in, spec.height, spec.width});
  Value* v = x;
  if (spec.expands) v = build.activation(build.conv(v, spec.hidden, 1, 1, 1, false, spec.biased), spec.activation);
  v = build.conv(v, v->type.shape[1], spec.window, spec.stride, spec.dilation, true, spec.biased);
  v = build.activation(v, spec.activation);
  if (spec.squeezed > 0) {
    int64_t hidden = v->type.shape[1];
    Value* gate = build.add(Reduce{.kind = "mean", .axes = {2, 3}, .keepdim = true}, {v});
    gate = build.activation(build.conv(gate, spec.squeezed, 1, 1, 1, false, spec.biased), spec.activation);
    gate = build.activation(build.conv(gate, hidden, 1, 1, 1, false, spec.biased), spec.gate);
    v = build.add(Pointwise{"mul"}, {v, gate});
  }
  if (spec.projects) v = build.conv(v, spec.out, 1, 1, 1, false, spec.biased);
  if (spec.adds_input) v = build.add(Pointwise{"add"}, {v, x});
  if (spec.projects) v = build.activation(v, spec.last_activation);
  return build.finish(spec.name, {v});
}

Case make_block(const PooledSpec& spec, c10::ScalarType dtype, bool constants_on_device) {
  Builder build(dtype, constants_on_device);
  Value* x = build.input({spec.batch, spec.channels, spec.height, spec.width});
  Value* v = build.add(Reduce{.kind = "mean", .axes = {2, 3}, .keepdim = true}, {x});
  if (spec.classes > 0) {
    v = build.add(Reshape{{spec.batch, spec.channels}}, {v});
    v = build.add(Linear{}, {v, build.weight({spec.classes, spec.channels}, 0.05), build.weight({spec.classes}, 0.5)});
    v = build.activation(v, spec.activation);
    return build.finish(spec.name, {spec.casts ? build.add(Cast{c10::kFloat}, {v}) : v});
  }
  v = build.activation(build.conv(v, spec.squeezed, 1, 1, 1, false, true), spec.activation);
  v = build.activation(build.conv(v, spec.channels, 1, 1, 1, false, true), spec.gate);
  if (spec.multiplies) v = build.add(Pointwise{"mul"}, {x, v});
  return build.finish(spec.name, {v});
}

Case make_block(const ScaledSpec& spec, c10::ScalarType dtype, bool constants_on_device) {
  Builder build(dtype, constants_on_device);
  Value* x = build.input({spec.batch, spec.in, spec.height, spec.width});
  Value* gate = build.input({spec.batch, spec.in, 1, 1});
  Value* v = build.conv(build.add(Pointwise{"mul"}, {x, gate}), spec.out, 1, 1, 1, false, true);
  if (spec.adds) v = build.add(Pointwise{"add"}, {v, build.input({spec.batch, spec.out, spec.height, spec.width})});
  return build.finish(spec.name, {v});
}

Case make_block(const SiblingsSpec& spec, c10::ScalarType dtype, bool constants_on_device) {
  Builder build(dtype, constants_on_device);
  bool linear = spec.window == 0;
  Value* x = linear ? build.input({spec.batch, spec.height, spec.in})
                    : build.input({spec.batch, spec.in, spec.height, spec.width});
  std::vector<Value*> results;
  for (int64_t out : spec.outs) {
    bool biased = spec.all_biased || results.empty();
    Value* v = nullptr;
    if (linear) {
      std::vector<Value*> inputs = {x, build.weight({out, spec.in}, std::sqrt(2 / static_cast<double>(spec.in)))};
      if (biased) inputs.push_back(build.weight({out}, 0.5));
      v = build.add(Linear{}, inputs);
    } else {
      v = build.conv(x, out, spec.window, spec.stride, 1, false, biased);
    }
    results.push_back(build.activation(v, spec.activation));
  }
  Case made = build.finish(spec.name, results);
  for (const auto& v : made.node().outputs()) {
    if (!spec.sliced) continue;
    constexpr int64_t kMore = 24;
    int64_t channels = v->type.shape[linear ? 2 : 1];
    for (int64_t& stride : v->type.strides) stride = stride == 1 ? 1 : stride / channels * (channels + kMore);
  }
  return made;
}

Case make_block(const StemSpec& spec, c10::ScalarType dtype, bool constants_on_device) {
  Builder build(dtype, constants_on_device);
  Value* v = build.input({spec.batch, spec.in, spec.height, spec.width});
  if (!spec.channels_last) v->type.strides = contiguous_strides(v->type.shape);
  Conv conv{.stride = spec.stride, .padding = spec.padding, .dilation = {1, 1}, .output_padding = {0, 0}};
  v = build.activation(build.conv(v, conv, spec.out, spec.window, spec.biased), spec.activation);
  v = build.max_pool(v, {.kernel = spec.pool,
                         .stride = spec.pool_stride,
                         .padding = spec.pool_padding,
                         .dilation = spec.pool_dilation,
                         .ceil_mode = spec.ceil_mode});
  return build.finish(spec.name, {build.activation(v, spec.last_activation)});
}

std::vector<Case> stem_cases(c10::ScalarType dtype, bool constants_on_device) {
  const std::vector<StemSpec> specs{
      {.name = "stem", .batch = 2, .height = 45, .width = 51},
      {.name = "stem_channels_last", .height = 64, .width = 48, .channels_last = true},
      {.name = "stem_many", .batch = 40, .height = 66, .width = 70, .out = 32},
      {.name = "stem_ceil",
       .batch = 2,
       .height = 38,
       .width = 41,
       .window = {3, 3},
       .padding = {0, 0},
       .pool_padding = {0, 0},
       .ceil_mode = true},
      {.name = "stem_window11",
       .batch = 2,
       .height = 75,
       .width = 91,
       .window = {11, 11},
       .stride = {4, 4},
       .padding = {2, 2},
       .pool_padding = {0, 0}},
      {.name = "stem_stride1",
       .batch = 3,
       .height = 19,
       .width = 22,
       .in = 1,
       .out = 24,
       .window = {3, 3},
       .stride = {1, 1},
       .padding = {1, 1},
       .activation = "silu",
       .biased = false,
       .pool = {2, 2},
       .pool_padding = {0, 0}},
      {.name = "stem_uneven",
       .batch = 2,
       .height = 23,
       .width = 30,
       .in = 4,
       .out = 40,
       .window = {3, 5},
       .stride = {2, 1},
       .padding = {1, 0},
       .activation = "hardswish",
       .channels_last = true,
       .pool = {2, 3},
       .pool_stride = {1, 2},
       .pool_padding = {1, 0},
       .pool_dilation = {2, 1},
       .last_activation = "relu"},
      {.name = "stem_wide", .height = 33, .width = 35, .out = 96, .activation = "gelu"},
      {.name = "stem_large_pool",
       .batch = 2,
       .height = 40,
       .width = 31,
       .in = 2,
       .out = 16,
       .window = {5, 5},
       .padding = {2, 2},
       .activation = "",
       .pool = {5, 4},
       .pool_stride = {3, 3},
       .pool_padding = {2, 2}},
      {.name = "stem_one_pixel", .batch = 5, .height = 4, .width = 3, .out = 8},
  };
  std::vector<Case> cases;
  for (const StemSpec& spec : specs) cases.push_back(make_block(spec, dtype, constants_on_device));
  return cases;
}

std::vector<Case> block_cases(c10::ScalarType dtype, bool constants_on_device) {
  const std::vector<ResidualSpec> specs{
      {.name = "whole", .height = 15, .width = 13, .in = 24, .hidden = 144, .out = 24, .adds_input = true},
      {.name = "whole_stride2", .batch = 2, .height = 15, .width = 17, .in = 16, .hidden = 96, .out = 24, .stride = 2},
      {.name = "even_stride2", .batch = 3, .height = 12, .width = 18, .in = 24, .hidden = 72, .out = 40, .stride = 2},
      {.name = "window5",
       .height = 9,
       .width = 20,
       .in = 40,
       .hidden = 120,
       .out = 40,
       .window = 5,
       .activation = "hardswish",
       .adds_input = true},
      {.name = "window5_stride2",
       .batch = 2,
       .height = 13,
       .width = 13,
       .in = 40,
       .hidden = 200,
       .out = 80,
       .window = 5,
       .stride = 2,
       .activation = "silu"},
      {.name = "deep", .batch = 2, .height = 7, .width = 7, .in = 160, .hidden = 960, .out = 160, .adds_input = true},
      {.name = "deep_wide", .height = 7, .width = 7, .in = 160, .hidden = 960, .out = 320, .biased = false},
      {.name = "dilated",
       .height = 17,
       .width = 11,
       .in = 8,
       .hidden = 56,
       .out = 8,
       .adds_input = true,
       .dilation = 2,
       .last_activation = "relu"},
      {.name = "window7",
       .height = 10,
       .width = 10,
       .in = 16,
       .hidden = 48,
       .out = 16,
       .window = 7,
       .activation = "gelu"},
      {.name = "no_expansion", .height = 21, .width = 19, .in = 32, .out = 16, .expands = false},
      {.name = "no_expansion_added",
       .batch = 2,
       .height = 21,
       .width = 19,
       .in = 24,
       .out = 24,
       .expands = false,
       .adds_input = true},
      {.name = "no_expansion_deep",
       .height = 7,
       .width = 7,
       .in = 512,
       .out = 512,
       .stride = 2,
       .activation = "relu",
       .expands = false},
      {.name = "no_projection",
       .batch = 2,
       .height = 11,
       .width = 14,
       .in = 24,
       .hidden = 88,
       .window = 5,
       .activation = "silu",
       .projects = false},
      {.name = "no_projection_deep",
       .height = 14,
       .width = 14,
       .in = 112,
       .hidden = 672,
       .window = 5,
       .stride = 2,
       .activation = "silu",
       .projects = false},
      {.name = "excited",
       .batch = 2,
       .height = 15,
       .width = 13,
       .in = 24,
       .hidden = 144,
       .out = 24,
       .activation = "silu",
       .adds_input = true,
       .squeezed = 6},
      {.name = "excited_stride2",
       .batch = 3,
       .height = 29,
       .width = 31,
       .in = 16,
       .hidden = 96,
       .out = 40,
       .window = 5,
       .stride = 2,
       .activation = "hardswish",
       .squeezed = 24,
       .gate = "hardsigmoid"},
      {.name = "excited_deep",
       .height = 7,
       .width = 7,
       .in = 192,
       .hidden = 1152,
       .out = 192,
       .window = 5,
       .activation = "silu",
       .adds_input = true,
       .squeezed = 48},
      {.name = "excited_wide",
       .height = 14,
       .width = 14,
       .in = 112,
       .hidden = 672,
       .out = 112,
       .activation = "hardswish",
       .adds_input = true,
       .squeezed = 168,
       .gate = "hardsigmoid"},
      {.name = "excited_large",
       .height = 112,
       .width = 112,
       .in = 32,
       .out = 16,
       .activation = "silu",
       .expands = false,
       .squeezed = 8},
      {.name = "excited_odd",
       .batch = 2,
       .height = 9,
       .width = 10,
       .in = 8,
       .hidden = 40,
       .out = 24,
       .activation = "relu",
       .biased = false,
       .last_activation = "relu",
       .squeezed = 3},
      {.name = "one_pixel", .batch = 5, .height = 1, .width = 1, .in = 16, .hidden = 32, .out = 16, .adds_input = true},
  };
  const std::vector<PooledSpec> pooled{
      {.name = "excite", .batch = 2, .height = 15, .width = 13, .channels = 96, .squeezed = 4},
      {.name = "excite_odd",
       .batch = 3,
       .height = 7,
       .width = 7,
       .channels = 72,
       .squeezed = 7,
       .activation = "silu",
       .gate = "hardsigmoid"},
      {.name = "excite_deep", .height = 7, .width = 7, .channels = 1152, .squeezed = 48, .activation = "silu"},
      {.name = "excite_wide", .height = 14, .width = 14, .channels = 960, .squeezed = 240, .gate = "hardsigmoid"},
      {.name = "excite_large", .height = 112, .width = 112, .channels = 32, .squeezed = 8, .activation = "silu"},
      {.name = "excite_8", .height = 9, .width = 10, .channels = 8, .squeezed = 2},
      {.name = "gate_alone", .batch = 2, .height = 9, .width = 9, .channels = 120, .squeezed = 32, .multiplies = false},
      {.name = "classifier",
       .height = 7,
       .width = 7,
       .channels = 1280,
       .activation = "",
       .classes = 1000,
       .casts = true},
      {.name = "classifier_odd",
       .batch = 3,
       .height = 5,
       .width = 6,
       .channels = 72,
       .activation = "hardswish",
       .classes = 37},
  };
  const std::vector<ScaledSpec> scaled{
      {.name = "scaled", .batch = 2, .height = 9, .width = 11, .in = 72, .out = 40},
      {.name = "scaled_added", .batch = 3, .height = 14, .width = 14, .in = 96, .out = 24, .adds = true},
      {.name = "scaled_deep", .batch = 2, .height = 7, .width = 7, .in = 1152, .out = 192, .adds = true},
      {.name = "scaled_wide", .height = 56, .width = 57, .in = 144, .out = 24, .adds = true},
  };
  const std::vector<SiblingsSpec> siblings{
      {.name = "siblings", .height = 15, .width = 13, .in = 192, .outs = {64, 48, 16}},
      {.name = "siblings_sliced", .batch = 2, .height = 9, .width = 11, .in = 72, .outs = {24, 40}, .sliced = true},
      {.name = "siblings_window3",
       .height = 17,
       .width = 17,
       .in = 64,
       .outs = {96, 8},
       .window = 3,
       .stride = 2,
       .activation = "",
       .all_biased = false},
      {.name = "siblings_deep", .batch = 2, .height = 8, .width = 8, .in = 1280, .outs = {320, 384, 448}},
      {.name = "siblings_wide", .batch = 16, .height = 24, .width = 24, .in = 64, .outs = {128, 64}, .sliced = true},
      {.name = "siblings_linear",
       .batch = 3,
       .height = 37,
       .in = 128,
       .outs = {256, 64},
       .window = 0,
       .activation = "silu"},
  };
  std::vector<Case> cases;
  for (const SiblingsSpec& spec : siblings) cases.push_back(make_block(spec, dtype, constants_on_device));
  for (const ScaledSpec& spec : scaled) cases.push_back(make_block(spec, dtype, constants_on_device));
  for (const ResidualSpec& spec : specs) cases.push_back(make_block(spec, dtype, constants_on_device));
  for (const PooledSpec& spec : pooled) cases.push_back(make_block(spec, dtype, constants_on_device));
  return cases;
}

std::vector<std::pair<Case, int>> blocks_of_network(const std::string& network) {
  std::vector<std::pair<Case, int>> blocks;
  for (const Stage& s : stages_of(network)) {
    std::string name = network + " " + std::to_string(s.size) + " " + std::to_string(s.in) + "-" +
                       std::to_string(s.hidden) + "-" + std::to_string(s.out) + " w" + std::to_string(s.window) + "s" +
                       std::to_string(s.stride);
    ResidualSpec spec{.name = name,
                      .height = s.size,
                      .width = s.size,
                      .in = s.in,
                      .hidden = s.hidden,
                      .out = s.out,
                      .window = s.window,
                      .stride = s.stride,
                      .activation = s.activation,
                      .expands = s.in != s.hidden,
                      .adds_input = s.adds_input,
                      .squeezed = s.squeezed,
                      .gate = network == "MobileNetV3-L" ? "hardsigmoid" : "sigmoid"};
    blocks.emplace_back(make_block(spec, c10::kHalf, true), s.count);
  }
  bool hard = network == "MobileNetV3-L";
  PooledSpec classifier{.name = network + " classifier",
                        .height = 7,
                        .width = 7,
                        .channels = hard ? 960 : 1280,
                        .activation = hard ? "hardswish" : "",
                        .classes = hard ? 1280 : 1000};
  blocks.emplace_back(make_block(classifier, c10::kHalf, true), 1);
  return blocks;
}

std::vector<Case> stems_of_networks(c10::ScalarType dtype, bool constants_on_device) {
  std::vector<Case> stems;
  for (int64_t batch : {1, 32}) {
    std::string text = " batch " + std::to_string(batch);
    StemSpec resnet{.name = "ResNet50" + text, .batch = batch, .height = 224, .width = 224};
    StemSpec alex{.name = "AlexNet" + text,
                  .batch = batch,
                  .height = 224,
                  .width = 224,
                  .window = {11, 11},
                  .stride = {4, 4},
                  .padding = {2, 2},
                  .pool_padding = {0, 0}};
    StemSpec squeeze{.name = "SqueezeNet 1.1" + text,
                     .batch = batch,
                     .height = 224,
                     .width = 224,
                     .window = {3, 3},
                     .padding = {0, 0},
                     .pool_padding = {0, 0},
                     .ceil_mode = true};
    StemSpec shuffle{.name = "ShuffleNetV2" + text,
                     .batch = batch,
                     .height = 224,
                     .width = 224,
                     .out = 24,
                     .window = {3, 3},
                     .padding = {1, 1}};
    for (const StemSpec& spec : {resnet, alex, squeeze, shuffle})
      stems.push_back(make_block(spec, dtype, constants_on_device));
  }
  return stems;
}

std::vector<NamedTactic> block_tactics() {
  return {{"excited_residual", cuda::propose_excited_residual},
          {"inverted_residual", cuda::propose_inverted_residual},
          {"squeeze_excite", cuda::propose_squeeze_excite},
          {"pooled_linear", cuda::propose_pooled_linear},
          {"stem_pool", cuda::propose_stem_pool},
          {"implicit_gemm", cuda::propose_implicit_gemm}};
}

}  // namespace torchweld::cuda_tests
