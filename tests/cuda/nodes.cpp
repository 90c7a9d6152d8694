#include "tests/cuda/nodes.h"

#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "core/error.h"
#include "core/ops/attention.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/index.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/ops/pointwise.h"
#include "core/ops/pool.h"
#include "core/ops/reduce.h"
#include "core/ops/resize.h"
#include "core/ops/shape.h"
#include "core/ops/softmax.h"

namespace torchweld::cuda_tests {
namespace {

/// Builds one case after the other.
class Maker {
 public:
  Maker(c10::ScalarType dtype, c10::Device device, bool constants_on_device)
      : dtype_(dtype), device_(device), constants_on_device_(constants_on_device) {}

  c10::ScalarType dtype() const { return dtype_; }
  TensorType type(Dims shape, bool channels_last = false) const {
    Dims strides = channels_last ? channels_last_strides(shape) : contiguous_strides(shape);
    return {dtype_, std::move(shape), std::move(strides), device_};
  }
  Value* weight(Graph& graph, const Dims& shape) const {
    double scale = 1.0 / std::sqrt(std::max<double>(
                             1, static_cast<double>(contiguous_type(dtype_, shape, device_).numel()) / shape[0]));
    at::Tensor value = at::mul(at::randn(shape), scale).to(dtype_);
    Value* constant = graph.add(Constant{constants_on_device_ ? value.to(device_) : value, "w"}, {});
    constant->type.device = device_;
    return constant;
  }
  Value* number(Graph& graph, double value) const { return graph.add(Constant::immediate(value, device_), {}); }

  /// One node on inputs of these types.
  void single(const std::string& name, Attrs attrs, const std::vector<TensorType>& types,
              bool channels_last_result = false) {
    auto graph = std::make_unique<Graph>();
    std::vector<Value*> inputs;
    for (const TensorType& t : types) inputs.push_back(graph->add_input(t));
    finish(name, std::move(graph), std::move(attrs), inputs, channels_last_result);
  }

  /// One node with constant weights after its first input.
  void weighted(const std::string& name, Attrs attrs, const TensorType& x, const std::vector<Dims>& weights,
                bool channels_last = false) {
    auto graph = std::make_unique<Graph>();
    std::vector<Value*> inputs = {graph->add_input(x)};
    for (const Dims& shape : weights) inputs.push_back(weight(*graph, shape));
    finish(name, std::move(graph), std::move(attrs), inputs, channels_last);
  }

  using Build =
      std::function<Value*(Graph& body, Value* result, Graph& outer, const std::function<Value*(TensorType)>& operand)>;
  /// A fused node: the anchor, then what `build` adds to its result; `operand` makes one more input of the fused node.
  void fused(const std::string& name, const Attrs& anchor, const TensorType& x, const std::vector<Dims>& weights,
             bool channels_last, const Build& build) {
    auto graph = std::make_unique<Graph>();
    auto body = std::make_shared<Graph>();
    std::vector<Value*> inputs = {graph->add_input(x)};
    std::vector<Value*> inner = {body->add_input(x)};
    for (const Dims& shape : weights) {
      inputs.push_back(weight(*graph, shape));
      inner.push_back(body->add_input(inputs.back()->type));
    }
    Value* result = body->add(anchor, inner);
    if (channels_last) result->type.strides = channels_last_strides(result->type.shape);
    auto operand = [&](const TensorType& t) {
      inputs.push_back(graph->add_input(t));
      return body->add_input(t);
    };
    Value* last = build(*body, result, *graph, operand);
    last->type.strides = result->type.strides;
    body->add_output(last);
    finish(name, std::move(graph), Fused{body}, inputs, channels_last);
  }

  /// Every case's result becomes a slice of memory with `more` channels (a concatenation's, say).
  void widen_results(int64_t more) {
    for (Case& c : cases_) {
      Value* result = c.node().output();
      Dims shape = result->type.shape;
      shape[1] += more;
      result->type.strides = channels_last_strides(shape);
      if (auto* fused = c.node().as<Fused>()) fused->body->outputs()[0]->type.strides = result->type.strides;
      c.name += " slice" + std::to_string(more);
    }
  }

  std::vector<Case> take() { return std::move(cases_); }

 private:
  void finish(const std::string& name, std::unique_ptr<Graph> graph, Attrs attrs, const std::vector<Value*>& inputs,
              bool channels_last) {
    Node* node = graph->add_node(std::move(attrs), inputs);
    for (const auto& value : node->outputs()) {
      value->type.device = device_;
      if (channels_last) value->type.strides = channels_last_strides(value->type.shape);
      graph->add_output(value.get());
    }
    cases_.push_back({name + "/" + dtype_name(dtype_), std::move(graph)});
  }

  c10::ScalarType dtype_;
  c10::Device device_;
  bool constants_on_device_;
  std::vector<Case> cases_;
};

Conv conv2d(int64_t stride, int64_t padding, int64_t groups = 1, int64_t dilation = 1) {
  return {.stride = {stride, stride},
          .padding = {padding, padding},
          .dilation = {dilation, dilation},
          .groups = groups,
          .output_padding = {0, 0}};
}

void add_pointwise_cases(Maker& make) {
  for (const Dims& shape : {Dims{7}, Dims{4, 1000}, Dims{2, 24, 9, 5}, Dims{}}) {
    make.single("relu" + to_string(shape), Pointwise{"relu"}, {make.type(shape)});
  }
  make.single("mul_scale_nhwc", Pointwise{"mul"}, {make.type({2, 24, 7, 7}, true), make.type({2, 24, 1, 1}, true)},
              true);
  make.single("mul_scale_batch1", Pointwise{"mul"}, {make.type({1, 24, 7, 7}, true), make.type({1, 24, 1, 1})}, true);
  make.single("add_bias_nchw", Pointwise{"add"}, {make.type({2, 24, 7, 7}), make.type({24, 1, 1})});
  make.single("add_mixed_layout", Pointwise{"add"}, {make.type({2, 24, 9, 7}, true), make.type({2, 24, 9, 7})}, true);
  make.single("to_channels_last", Copy{channels_last_strides({2, 40, 17, 19})}, {make.type({2, 40, 17, 19})});
  make.single("image_to_channels_last", Copy{channels_last_strides({2, 3, 17, 19})}, {make.type({2, 3, 17, 19})});
  make.single("to_contiguous", Copy{contiguous_strides({2, 40, 17, 19})}, {make.type({2, 40, 17, 19}, true)});
  make.single("cast_up", Cast{c10::kDouble}, {make.type({3, 17})});
  make.single("cast_down", Cast{c10::kLong}, {make.type({3, 17})});
  TensorType sliced = make.type({4, 6, 5});
  sliced.strides = {120, 10, 2};
  make.single("strided", Pointwise{"sigmoid"}, {sliced});
}

void add_conv_cases(Maker& make) {
  auto relu6 = [&make](Graph& body, Value* v, Graph&, const auto&) {
    return body.add(Pointwise{"clamp"}, {v, make.number(body, 0), make.number(body, 6)});
  };
  auto silu = [](Graph& body, Value* v, Graph&, const auto&) { return body.add(Pointwise{"silu"}, {v}); };
  auto residual_relu = [](Graph& body, Value* v, Graph&, const auto& operand) {
    Value* sum = body.add(Pointwise{"add"}, {v, operand(v->type)});
    return body.add(Pointwise{"relu"}, {sum});
  };
  for (int64_t stride : {1, 2}) {
    for (int64_t window : {3, 5, 7}) {
      make.weighted("depthwise" + std::to_string(window) + "s" + std::to_string(stride), conv2d(stride, window / 2, 40),
                    make.type({2, 40, 15, 13}, true), {{40, 1, window, window}, {40}}, true);
    }
  }
  make.fused("depthwise_relu6", conv2d(1, 1, 24), make.type({1, 24, 14, 14}, true), {{24, 1, 3, 3}, {24}}, true, relu6);
  make.weighted("depthwise_odd_channels", conv2d(1, 2, 7, 2), make.type({1, 7, 9, 9}, true), {{7, 1, 3, 3}}, true);
  // Several chunks of channels, and rows that the tiles do not divide.
  make.weighted("depthwise_chunks", conv2d(1, 1, 192), make.type({2, 192, 17, 9}, true), {{192, 1, 3, 3}, {192}}, true);
  make.weighted("depthwise_dilated", conv2d(1, 2, 64, 2), make.type({1, 64, 13, 10}, true), {{64, 1, 3, 3}}, true);
  make.weighted("depthwise_dilated5s2", conv2d(2, 3, 64, 2), make.type({2, 64, 21, 12}, true), {{64, 1, 5, 5}}, true);
  make.weighted("depthwise_dilated36", conv2d(1, 36, 16, 36), make.type({1, 16, 40, 37}, true), {{16, 1, 3, 3}}, true);
  make.weighted("depthwise_dilated130", conv2d(1, 130, 8, 130), make.type({1, 8, 9, 133}, true), {{8, 1, 3, 3}}, true);
  for (int64_t pitch : {44, 43}) {
    TensorType sliced = make.type({2, 40, 11, 9}, true);
    sliced.strides = {11 * 9 * pitch, 1, 9 * pitch, pitch};
    make.weighted("depthwise_of_slice" + std::to_string(pitch), conv2d(1, 1, 40), sliced, {{40, 1, 3, 3}}, true);
  }
  make.weighted("grouped", conv2d(1, 1, 4), make.type({2, 32, 9, 9}, true), {{64, 8, 3, 3}, {64}}, true);
  make.weighted("grouped_nchw", conv2d(2, 1, 3), make.type({2, 9, 9, 9}), {{6, 3, 3, 3}});
  make.fused("conv_residual_relu", conv2d(1, 1), make.type({2, 16, 9, 9}, true), {{32, 16, 3, 3}, {32}}, true,
             residual_relu);
  make.fused("conv_silu", conv2d(2, 1), make.type({2, 16, 9, 9}, true), {{32, 16, 3, 3}, {32}}, true, silu);
  make.fused("conv1x1_relu", conv2d(1, 0), make.type({2, 64, 9, 9}, true), {{32, 64, 1, 1}, {32}}, true, silu);
  make.fused("conv1x1_residual", conv2d(1, 0), make.type({2, 64, 9, 9}, true), {{32, 64, 1, 1}, {32}}, true,
             residual_relu);
  make.weighted("conv_bare", conv2d(1, 1), make.type({2, 16, 9, 9}, true), {{32, 16, 3, 3}}, true);
  make.weighted("conv_stem", conv2d(2, 1), make.type({1, 3, 33, 33}, true), {{24, 3, 3, 3}, {24}}, true);
  make.fused("squeeze", conv2d(1, 0), make.type({3, 96, 1, 1}, true), {{24, 96, 1, 1}, {24}}, true, silu);
}

void add_linear_cases(Maker& make) {
  auto relu = [](Graph& body, Value* v, Graph&, const auto&) { return body.add(Pointwise{"relu"}, {v}); };
  auto gelu = [](Graph& body, Value* v, Graph&, const auto&) { return body.add(Pointwise{"gelu"}, {v}); };
  auto residual = [](Graph& body, Value* v, Graph&, const auto& operand) {
    return body.add(Pointwise{"add"}, {v, operand(v->type)});
  };
  make.weighted("linear1", Linear{}, make.type({1, 1280}), {{1000, 1280}, {1000}});
  make.weighted("linear_odd", Linear{}, make.type({5, 33}), {{17, 33}});
  make.fused("linear_relu", Linear{}, make.type({9, 64}), {{48, 64}, {48}}, false, relu);
  make.fused("linear_gelu", Linear{}, make.type({2, 50, 64}), {{96, 64}, {96}}, false, gelu);
  make.fused("linear_residual", Linear{}, make.type({2, 50, 64}), {{96, 64}, {96}}, false, residual);
  make.single("matmul", Matmul{}, {make.type({2, 3, 20, 16}), make.type({2, 3, 16, 24})});
  TensorType transposed = make.type({2, 3, 16, 24});
  transposed.strides = {1152, 384, 1, 16};
  make.single("matmul_transposed", Matmul{}, {make.type({2, 3, 20, 16}), transposed});
  make.single("matmul_broadcast", Matmul{}, {make.type({4, 20, 16}), make.type({16, 24})});
}

void add_reduce_cases(Maker& make) {
  for (const char* kind : {"sum", "mean", "prod", "amax", "amin", "any", "all", "var", "std", "logsumexp"}) {
    Reduce reduce{.kind = kind, .axes = {2, 3}, .parameter = 1};
    make.single(std::string(kind) + "_nhwc", reduce, {make.type({2, 40, 7, 7}, true)});
    make.single(std::string(kind) + "_nchw", reduce, {make.type({2, 40, 7, 7})});
    make.single(std::string(kind) + "_all", Reduce{.kind = kind, .axes = {0, 1}, .parameter = 1},
                {make.type({37, 50})});
  }
  for (const char* kind : {"argmax", "argmin"}) {
    make.single(std::string(kind) + "_rows", Reduce{.kind = kind, .axes = {1}, .keepdim = true},
                {make.type({5, 3000})});
    make.single(std::string(kind) + "_columns", Reduce{.kind = kind, .axes = {0}}, {make.type({50, 48})});
  }
  make.single("norm", Reduce{.kind = "norm", .axes = {1}, .parameter = 2}, {make.type({5, 33})});
  make.single("mean_of_middle", Reduce{.kind = "mean", .axes = {1}, .keepdim = true}, {make.type({3, 20, 64})});
  make.single("sum_scattered_axes", Reduce{.kind = "sum", .axes = {0, 2}}, {make.type({3, 20, 6})});
  make.single("adaptive_one", AdaptivePool{.kind = "avg", .output = {1, 1}}, {make.type({2, 40, 7, 7}, true)}, true);
  make.fused("mean_hardsigmoid", Reduce{.kind = "mean", .axes = {2, 3}, .keepdim = true},
             make.type({2, 40, 7, 7}, true), {}, false,
             [](Graph& body, Value* v, Graph&, const auto&) { return body.add(Pointwise{"hardsigmoid"}, {v}); });
}

void add_resize_cases(Maker& make) {
  make.single("resize_nhwc", Resize{.mode = "linear", .output = {33, 40}}, {make.type({2, 24, 9, 5}, true)}, true);
  make.single("resize_nchw", Resize{.mode = "linear", .output = {33, 40}}, {make.type({2, 21, 9, 5})});
  // One channel to a thread, of eight and of two columns.
  make.single("resize_odd", Resize{.mode = "linear", .output = {256, 248}}, {make.type({1, 21, 35, 31}, true)}, true);
  make.single("resize_odd_corners", Resize{.mode = "linear", .output = {256, 248}, .align_corners = true},
              {make.type({1, 21, 35, 31}, true)}, true);
  make.single("resize_odd_narrower", Resize{.mode = "linear", .output = {200, 96}}, {make.type({1, 21, 64, 400}, true)},
              true);
  make.single("resize_odd_nearest", Resize{.mode = "nearest", .output = {260, 250}}, {make.type({1, 11, 65, 40}, true)},
              true);
  // Four and two rows to a thread, which do not divide all of them.
  make.single("resize_rows", Resize{.mode = "linear", .output = {330, 320}}, {make.type({1, 21, 64, 48}, true)});
  make.single("resize_rows_corners", Resize{.mode = "linear", .output = {331, 320}, .align_corners = true},
              {make.type({1, 21, 17, 40})});
  make.single("resize_rows_nearest", Resize{.mode = "nearest", .output = {321, 320}},
              {make.type({1, 22, 170, 50}, true)});
  make.single("resize_rows_nearest-exact", Resize{.mode = "nearest-exact", .output = {301, 320}},
              {make.type({1, 12, 90, 60}, true)});
  make.single("resize_smaller", Resize{.mode = "linear", .output = {5, 8}}, {make.type({2, 3, 19, 31})});
  make.single("resize_corners", Resize{.mode = "linear", .output = {1, 16}, .align_corners = true},
              {make.type({2, 21, 9, 5}, true)}, true);
  make.single("resize_scaled", Resize{.mode = "linear", .output = {13, 16}, .scales = {1.5, 3.3}},
              {make.type({2, 16, 9, 5}, true)}, true);
  for (const char* mode : {"nearest", "nearest-exact"}) {
    make.single(std::string("resize_") + mode, Resize{.mode = mode, .output = {17, 12}},
                {make.type({2, 24, 9, 5}, true)}, true);
    make.single(std::string("resize_nchw_") + mode, Resize{.mode = mode, .output = {18, 24}},
                {make.type({2, 3, 9, 7})});
  }
  make.single("resize_one_dimension", Resize{.mode = "nearest", .output = {9, 12}, .scales = {1.1, 2.4}},
              {make.type({2, 24, 9, 5}, true)}, true);
  TensorType small = make.type({2, 24, 7, 5}, true);
  make.fused("resize_add", Resize{.mode = "nearest", .output = {14, 10}}, small, {}, true,
             [&make](Graph& body, Value* v, Graph&, const auto& operand) {
               return body.add(Pointwise{"add"}, {v, operand(make.type({2, 24, 14, 10}, true))});
             });
  make.fused("resize_to_nchw", Resize{.mode = "linear", .output = {14, 40}}, small, {}, false,
             [](Graph& body, Value* v, Graph&, const auto&) {
               v->type.strides = contiguous_strides(v->type.shape);
               return body.add(Pointwise{"relu"}, {v});
             });
}

void add_pool_and_row_cases(Maker& make) {
  MaxPool max{.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}, .dilation = {1, 1}};
  make.single("max_nhwc", max, {make.type({2, 24, 15, 13}, true)}, true);
  make.single("max_nchw", max, {make.type({2, 24, 15, 13})});
  max.ceil_mode = true;
  max.dilation = {2, 1};
  make.single("max_ceil", max, {make.type({2, 24, 16, 13}, true)}, true);
  AvgPool avg{.kernel = {3, 2}, .stride = {2, 2}, .padding = {1, 1}, .ceil_mode = true};
  make.single("avg", avg, {make.type({2, 24, 15, 13}, true)}, true);
  avg.count_include_pad = false;
  make.single("avg_inside", avg, {make.type({2, 24, 15, 13})});
  make.single("adaptive", AdaptivePool{.kind = "avg", .output = {6, 4}}, {make.type({2, 24, 15, 13}, true)}, true);
  make.single("adaptive_max", AdaptivePool{.kind = "max", .output = {6, 4}}, {make.type({2, 24, 15, 13})});
  if (make.dtype() != c10::kDouble) add_resize_cases(make);
  make.single("softmax", Softmax{.axis = 1}, {make.type({5, 1000})});
  make.single("softmax_long", Softmax{.axis = 1, .log = true}, {make.type({3, 5001})});
  make.single("softmax_middle", Softmax{.axis = 1}, {make.type({3, 20, 6})});
  make.weighted("layer_norm", LayerNorm{.rank = 1}, make.type({2, 49, 96}), {{96}, {96}});
  make.weighted("layer_norm_bare", LayerNorm{.rank = 2}, make.type({5, 7, 11}), {});
  make.weighted("rms_norm", RmsNorm{.rank = 1, .eps = 1e-6}, make.type({2, 49, 96}), {{96}});
  make.weighted("rms_norm_bare", RmsNorm{.rank = 2}, make.type({5, 7, 11}), {});
  make.weighted("rms_norm_long", RmsNorm{.rank = 1}, make.type({3, 9001}), {{9001}});
  make.single("concat_nhwc", Concat{.axis = 1},
              {make.type({2, 24, 7, 7}, true), make.type({2, 8, 7, 7}, true), make.type({2, 16, 7, 7}, true)}, true);
  make.single("concat_nchw", Concat{.axis = 1}, {make.type({2, 3, 7, 7}), make.type({2, 5, 7, 7})});
  make.single("concat_last", Concat{.axis = 1}, {make.type({5, 3}), make.type({5, 4}), make.type({5, 1})});
  make.single("pad", Pad{.before = {0, 0, 1, 2}, .after = {0, 0, 3, -1}, .value = 1.5},
              {make.type({2, 24, 7, 7}, true)}, true);
}

}  // namespace

std::vector<Case> cases(c10::ScalarType dtype, c10::Device device, bool constants_on_device) {
  Maker make(dtype, device, constants_on_device);
  add_pointwise_cases(make);
  add_conv_cases(make);
  add_linear_cases(make);
  add_reduce_cases(make);
  add_pool_and_row_cases(make);
  return make.take();
}

std::vector<Case> sliced_results(c10::ScalarType dtype, c10::Device device, bool constants_on_device, int64_t more) {
  Maker make(dtype, device, constants_on_device);
  auto relu = [](Graph& body, Value* v, Graph&, const auto&) { return body.add(Pointwise{"relu"}, {v}); };
  make.fused("conv1x1", conv2d(1, 0), make.type({2, 64, 9, 9}, true), {{32, 64, 1, 1}, {32}}, true, relu);
  make.fused("conv3x3", conv2d(1, 1), make.type({2, 16, 9, 9}, true), {{40, 16, 3, 3}, {40}}, true, relu);
  make.fused("conv_odd", conv2d(2, 1), make.type({1, 7, 9, 9}, true), {{5, 7, 3, 3}, {5}}, true, relu);
  make.fused("conv_deep", conv2d(1, 1), make.type({1, 512, 7, 7}, true), {{64, 512, 3, 3}, {64}}, true, relu);
  make.fused("stem", conv2d(2, 1), make.type({1, 3, 33, 33}, true), {{24, 3, 3, 3}, {24}}, true, relu);
  make.weighted("depthwise", conv2d(1, 1, 40), make.type({2, 40, 15, 13}, true), {{40, 1, 3, 3}, {40}}, true);
  make.weighted("linear", Linear{}, make.type({3, 96}), {{24, 96}, {24}});
  make.weighted("layer_norm", LayerNorm{.rank = 1}, make.type({49, 96}), {{96}, {96}});
  make.single("softmax", Softmax{.axis = 1}, {make.type({5, 1000})});
  MaxPool max{.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}, .dilation = {1, 1}};
  make.single("max", max, {make.type({2, 24, 15, 13}, true)}, true);
  make.single("max_column", max, {make.type({2, 24, 15, 1}, true)}, true);
  AvgPool avg{.kernel = {3, 3}, .stride = {1, 1}, .padding = {1, 1}};
  make.single("avg", avg, {make.type({2, 24, 15, 13}, true)}, true);
  make.single("relu", Pointwise{"relu"}, {make.type({2, 24, 9, 5}, true)}, true);
  make.widen_results(more);
  return make.take();
}

namespace {

/// What LibTorch takes as the operands of a function beside the first one.
enum class Operands { kTensors, kNumbers, kNothing };

/// Asks LibTorch, on the CPU. Some functions take only numbers there, and some do not know every dtype.
Operands operands_of(const PointwiseFn& fn, c10::ScalarType dtype) {
  at::Tensor tensor = at::ones({2}, at::TensorOptions(dtype));
  std::vector<at::Tensor> tensors(fn.arity, tensor);
  std::vector<at::Tensor> numbers(fn.arity, at::ones({}, at::TensorOptions(c10::kDouble)));
  numbers[0] = tensor;
  if (std::string(fn.name) == "where") tensors[0] = at::ones({2}, at::TensorOptions(c10::kBool));
  try {
    fn.aten(tensors);
    return Operands::kTensors;
  } catch (const c10::Error&) {
  }
  try {
    fn.aten(numbers);
    return Operands::kNumbers;
  } catch (const c10::Error&) {
    return Operands::kNothing;
  }
}

Case some_pointwise(c10::ScalarType dtype, c10::Device device, std::span<const PointwiseFn> functions) {
  auto graph = std::make_unique<Graph>();
  auto body = std::make_shared<Graph>();
  TensorType type = contiguous_type(dtype, {3, 17}, device);
  std::vector<Value*> outer;
  std::vector<Value*> inner;
  for (int i = 0; i < 3; ++i) {
    outer.push_back(graph->add_input(type));
    inner.push_back(body->add_input(type));
  }
  auto number = [&](double floating, int64_t integer) {
    c10::Scalar scalar = type.is_floating() ? c10::Scalar(floating) : c10::Scalar(integer);
    return body->add(Constant::immediate(scalar, device), {});
  };
  for (const PointwiseFn& fn : functions) {
    Operands takes = operands_of(fn, dtype);
    if (takes == Operands::kNothing) continue;
    std::vector<Value*> operands(inner.begin(), inner.begin() + fn.arity);
    try {
      if (std::string(fn.name) == "where") operands[0] = body->add(Pointwise{"lt"}, {inner[0], inner[1]});
      if (takes == Operands::kNumbers && fn.arity > 1) operands[1] = number(0.5, 1);
      if (takes == Operands::kNumbers && fn.arity > 2) operands[2] = number(1.5, 3);
      body->add_output(body->add(Pointwise{fn.name}, operands));
    } catch (const Unsupported&) {
      continue;
    }
  }
  Node* node = graph->add_node(Fused{body}, outer);
  for (const auto& value : node->outputs()) graph->add_output(value.get());
  return {std::string(functions.front().name) + "..." + "/" + dtype_name(dtype), std::move(graph)};
}

}  // namespace

std::vector<Case> all_pointwise(c10::ScalarType dtype, c10::Device device) {
  constexpr size_t kTogether = 8;
  std::span<const PointwiseFn> rest = pointwise_table();
  std::vector<Case> list;
  while (!rest.empty()) {
    size_t count = std::min(rest.size(), kTogether);
    Case c = some_pointwise(dtype, device, rest.first(count));
    if (!c.node().outputs().empty()) list.push_back(std::move(c));
    rest = rest.subspan(count);
  }
  return list;
}

std::vector<Case> cases_of_batch(c10::ScalarType dtype, c10::Device device, int64_t batch) {
  Maker make(dtype, device, false);
  make.single("relu_nchw", Pointwise{"relu"}, {make.type({batch, 24, 9, 5})});
  make.single("mul_scale_nhwc", Pointwise{"mul"},
              {make.type({batch, 24, 7, 7}, true), make.type({batch, 24, 1, 1}, true)}, true);
  make.single("add_bias_nchw", Pointwise{"add"}, {make.type({batch, 24, 7, 7}), make.type({24, 1, 1})});
  make.weighted("depthwise", conv2d(1, 1, 40), make.type({batch, 40, 15, 13}, true), {{40, 1, 3, 3}, {40}}, true);
  MaxPool max{.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}, .dilation = {1, 1}};
  make.single("max_nhwc", max, {make.type({batch, 24, 15, 13}, true)}, true);
  make.single("max_nchw", max, {make.type({batch, 24, 15, 13})});
  Reduce mean{.kind = "mean", .axes = {2, 3}, .keepdim = true};
  make.single("mean_nhwc", mean, {make.type({batch, 40, 7, 7}, true)}, true);
  make.single("mean_nchw", mean, {make.type({batch, 40, 7, 7})});
  make.single("softmax", Softmax{.axis = 1}, {make.type({batch, 1000})});
  make.weighted("layer_norm", LayerNorm{.rank = 1}, make.type({batch, 49, 96}), {{96}, {96}});
  make.single("lookup", Take{}, {make.type({50, 96}), contiguous_type(c10::kLong, {batch, 9}, device)});
  return make.take();
}

std::vector<Case> cases_for_specials(c10::ScalarType dtype, c10::Device device) {
  Maker make(dtype, device, true);
  auto relu = [](Graph& body, Value* v, Graph&, const auto&) { return body.add(Pointwise{"relu"}, {v}); };
  auto relu6 = [&make](Graph& body, Value* v, Graph&, const auto&) {
    return body.add(Pointwise{"clamp"}, {v, make.number(body, 0), make.number(body, 6)});
  };
  // Two images where an algorithm may mix neighbours (Winograd makes NaN of infinities): one finite, one all NaN.
  TensorType two = make.type({2, 16, 9, 9}, true);
  TensorType six = make.type({6, 64, 5, 5}, true);
  make.fused("conv3x3_relu", conv2d(1, 1), two, {{32, 16, 3, 3}, {32}}, true, relu);
  make.fused("conv3x3_relu6", conv2d(1, 1), two, {{32, 16, 3, 3}, {32}}, true, relu6);
  // Warps that share k evenly get chunks which x does not have.
  make.fused("conv3x3_filled_up", conv2d(1, 1), make.type({2, 80, 9, 9}, true), {{32, 80, 3, 3}, {32}}, true, relu);
  make.fused("conv1x1_relu", conv2d(1, 0), six, {{32, 64, 1, 1}, {32}}, true, relu);
  make.fused("conv1x1_relu6", conv2d(1, 0), six, {{32, 64, 1, 1}, {32}}, true, relu6);
  auto maximum = [&make](Graph& body, Value* v, Graph&, const auto&) {
    return body.add(Pointwise{"maximum"}, {v, make.number(body, 0.5)});
  };
  make.fused("conv1x1_maximum", conv2d(1, 0), six, {{32, 64, 1, 1}, {32}}, true, maximum);
  make.fused("depthwise_relu6", conv2d(1, 1, 64), six, {{64, 1, 3, 3}, {64}}, true, relu6);
  if (dtype == c10::kHalf) make.single("attention", Attention{.scale = 0.2}, {3, make.type({6, 2, 40, 32})});
  make.fused("linear_relu", Linear{}, make.type({6, 64}), {{48, 64}, {48}}, false, relu);
  MaxPool max{.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}, .dilation = {1, 1}};
  make.single("max_nhwc", max, {six}, true);
  make.single("max_nchw", max, {make.type({6, 24, 9, 9})});
  for (bool log : {false, true})
    make.single(log ? "log_softmax" : "softmax", Softmax{.axis = 1, .log = log}, {make.type({6, 1000})});
  for (const char* kind : {"sum", "mean", "prod", "amax", "amin", "any", "all", "var", "std", "logsumexp"}) {
    make.single(std::string(kind) + "_columns", Reduce{.kind = kind, .axes = {2, 3}, .parameter = 1}, {six});
    make.single(std::string(kind) + "_rows", Reduce{.kind = kind, .axes = {1}, .parameter = 1}, {make.type({6, 1500})});
  }
  for (const char* kind : {"argmax", "argmin"}) {
    make.single(std::string(kind) + "_columns", Reduce{.kind = kind, .axes = {0}}, {make.type({6, 48})});
    make.single(std::string(kind) + "_rows", Reduce{.kind = kind, .axes = {1}}, {make.type({6, 1500})});
  }
  return make.take();
}

}  // namespace torchweld::cuda_tests
