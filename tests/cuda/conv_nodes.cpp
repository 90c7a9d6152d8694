#include "tests/cuda/conv_nodes.h"

#include <ATen/ops/mul.h>
#include <ATen/ops/randn.h>

#include <cmath>

#include "conversion/passes/join_shortcut.h"
#include "conversion/passes/passes.h"
#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"

namespace torchweld::cuda_tests {
namespace {

using After = ConvSpec::After;

Value* add_weight(Graph& graph, const Dims& shape, c10::ScalarType dtype, c10::Device device, bool on_device) {
  int64_t per_output = 1;
  for (size_t d = 1; d < shape.size(); ++d) per_output *= shape[d];
  at::Tensor value = at::mul(at::randn(shape), 1.0 / std::sqrt(static_cast<double>(per_output))).to(dtype);
  Value* constant = graph.add(Constant{on_device ? value.to(device) : value, "w"}, {});
  constant->type.device = device;
  return constant;
}

/// Channels innermost, pixels `apart` elements from one another.
Dims pixel_strides(const Dims& shape, int64_t apart) {
  Dims strides(shape.size(), 1);
  int64_t step = apart ? apart : shape[1];
  for (size_t d = shape.size(); d-- > 2;) {
    strides[d] = step;
    step *= shape[d];
  }
  strides[0] = step;
  return strides;
}

/// Fills the body after the anchor's result and gives the values that the node returns.
std::vector<Value*> add_after(After after, Graph& body, Value* result, c10::Device device,
                              const std::function<Value*(TensorType)>& operand) {
  auto number = [&](double value) { return body.add(Constant::immediate(value, device), {}); };
  const TensorType type = result->type;
  switch (after) {
    case After::kNothing:
      return {result};
    case After::kRelu:
      return {body.add(Pointwise{"relu"}, {result})};
    case After::kRelu6:
      return {body.add(Pointwise{"clamp"}, {result, number(0), number(6)})};
    case After::kGelu:
      return {body.add(Pointwise{"gelu"}, {result})};
    case After::kResidualRelu:
      return {body.add(Pointwise{"relu"}, {body.add(Pointwise{"add"}, {result, operand(type)})})};
    case After::kTwoResults: {
      Value* sum = body.add(Pointwise{"add"}, {result, operand(type)});
      return {sum, body.add(Pointwise{"silu"}, {sum})};
    }
    case After::kScales: {
      Dims channel(type.shape.size(), 1);
      channel[1] = type.shape[1];
      Dims pixel = type.shape;
      pixel[1] = 1;
      Value* scaled = body.add(Pointwise{"mul"}, {result, operand(with_shape(type, channel))});
      return {body.add(Pointwise{"mul"}, {scaled, operand(with_shape(type, pixel))})};
    }
  }
  return {};
}

Case product_case(const std::string& name, const Attrs& anchor, const TensorType& x, const std::vector<Dims>& weights,
                  After after, const std::function<Dims(const Dims&)>& result_strides, bool on_device) {
  auto graph = std::make_unique<Graph>();
  auto body = std::make_shared<Graph>();
  std::vector<Value*> outer = {graph->add_input(x)};
  std::vector<Value*> inner = {body->add_input(x)};
  for (const Dims& shape : weights) {
    outer.push_back(add_weight(*graph, shape, x.dtype, x.device, on_device));
    inner.push_back(body->add_input(outer.back()->type));
  }
  Value* result = body->add(anchor, inner);
  result->type.strides = result_strides(result->type.shape);
  auto operand = [&](const TensorType& type) {
    outer.push_back(graph->add_input(type));
    return body->add_input(type);
  };
  std::vector<Value*> results = add_after(after, *body, result, x.device, operand);
  Node* node = nullptr;
  if (after == After::kNothing) {
    node = graph->add_node(anchor, outer);
  } else {
    for (Value* value : results) {
      value->type.strides = result->type.strides;
      body->add_output(value);
    }
    node = graph->add_node(Fused{body}, outer);
  }
  for (const auto& value : node->outputs()) {
    value->type.device = x.device;
    value->type.strides = result->type.strides;
    graph->add_output(value.get());
  }
  return {name + "/" + dtype_name(x.dtype), std::move(graph)};
}

Case linear_case(const char* name, const TensorType& x, int64_t outputs, After after, bool constants_on_device) {
  return product_case(name, Linear{}, x, {{outputs, x.shape.back()}, {outputs}}, after, contiguous_strides,
                      constants_on_device);
}

}  // namespace

Case conv_case(const ConvSpec& spec, c10::ScalarType dtype, c10::Device device, bool constants_on_device) {
  TensorType x{dtype, spec.x,
               spec.x_is_nchw ? contiguous_strides(spec.x) : pixel_strides(spec.x, spec.x_channels_apart), device};
  Conv conv{.stride = spec.stride,
            .padding = spec.padding,
            .dilation = spec.dilation,
            .groups = spec.groups,
            .output_padding = Dims(spec.window.size(), 0)};
  Dims weight = {spec.outputs, spec.x[1] / spec.groups};
  weight.insert(weight.end(), spec.window.begin(), spec.window.end());
  auto strides = [&](const Dims& shape) { return pixel_strides(shape, spec.result_channels_apart); };
  return product_case(spec.name, conv, x, {weight, {spec.outputs}}, spec.after, strides, constants_on_device);
}

std::vector<Case> odd_products(c10::ScalarType dtype, c10::Device device, bool constants_on_device) {
  const ConvSpec specs[] = {
      {.name = "odd_channels", .x = {2, 13, 9, 11}, .outputs = 21, .window = {3, 3}, .padding = {1, 1}},
      {.name = "stride2",
       .x = {3, 24, 15, 13},
       .outputs = 40,
       .window = {3, 3},
       .stride = {2, 2},
       .padding = {1, 1},
       .after = After::kRelu},
      {.name = "dilated",
       .x = {1, 64, 17, 19},
       .outputs = 48,
       .window = {3, 3},
       .padding = {2, 2},
       .dilation = {2, 2},
       .after = After::kResidualRelu},
      {.name = "wide_padding", .x = {2, 32, 5, 6}, .outputs = 16, .window = {3, 3}, .padding = {4, 3}},
      {.name = "window5", .x = {2, 32, 12, 12}, .outputs = 64, .window = {5, 5}, .padding = {2, 2}},
      {.name = "row_window", .x = {1, 48, 17, 17}, .outputs = 40, .window = {1, 7}, .padding = {0, 3}},
      {.name = "column_window", .x = {1, 48, 17, 17}, .outputs = 40, .window = {7, 1}, .padding = {3, 0}},
      {.name = "uneven_strides",
       .x = {2, 16, 20, 31},
       .outputs = 24,
       .window = {3, 2},
       .stride = {1, 3},
       .padding = {0, 1},
       .dilation = {3, 1}},
      {.name = "pointwise_stride2", .x = {2, 64, 9, 9}, .outputs = 96, .stride = {2, 2}},
      {.name = "pointwise_of_three", .x = {2, 3, 9, 11}, .outputs = 16},
      {.name = "pointwise_padded", .x = {2, 16, 5, 5}, .outputs = 32, .padding = {1, 1}},
      {.name = "stem",
       .x = {2, 3, 45, 45},
       .outputs = 64,
       .window = {7, 7},
       .stride = {2, 2},
       .padding = {3, 3},
       .after = After::kRelu},
      {.name = "stem_nchw",
       .x = {1, 3, 45, 45},
       .outputs = 32,
       .window = {3, 3},
       .stride = {2, 2},
       .padding = {1, 1},
       .after = After::kRelu6,
       .x_is_nchw = true},
      {.name = "stem_nchw_even",
       .x = {2, 3, 29, 46},
       .outputs = 32,
       .window = {3, 3},
       .stride = {2, 2},
       .padding = {1, 1},
       .after = After::kRelu,
       .x_is_nchw = true},
      {.name = "stem_nchw_one",
       .x = {3, 1, 20, 26},
       .outputs = 16,
       .window = {7, 5},
       .padding = {0, 3},
       .x_is_nchw = true},
      {.name = "stem_nchw_two",
       .x = {3, 2, 30, 29},
       .outputs = 24,
       .window = {5, 5},
       .padding = {2, 2},
       .after = After::kRelu,
       .x_is_nchw = true},
      {.name = "stem_nchw_four", .x = {2, 4, 33, 40}, .outputs = 16, .window = {3, 3}, .x_is_nchw = true},
      {.name = "stem_of_slice", .x = {2, 3, 20, 21}, .outputs = 32, .window = {3, 3}, .x_channels_apart = 5},
      {.name = "one_channel", .x = {1, 1, 28, 28}, .outputs = 8, .window = {5, 5}},
      {.name = "two_results", .x = {2, 40, 7, 7}, .outputs = 72, .after = After::kTwoResults},
      {.name = "scales", .x = {2, 96, 7, 7}, .outputs = 32, .after = After::kScales},
      {.name = "into_slice",
       .x = {2, 64, 14, 14},
       .outputs = 16,
       .window = {3, 3},
       .padding = {1, 1},
       .after = After::kRelu,
       .result_channels_apart = 48},
      {.name = "from_slice",
       .x = {2, 64, 7, 7},
       .outputs = 32,
       .window = {3, 3},
       .padding = {1, 1},
       .x_channels_apart = 80},
      {.name = "from_odd_slice", .x = {2, 24, 7, 7}, .outputs = 32, .x_channels_apart = 27},
      {.name = "deep",
       .x = {1, 512, 7, 7},
       .outputs = 64,
       .window = {3, 3},
       .padding = {1, 1},
       .after = After::kResidualRelu},
      {.name = "deep_batch", .x = {5, 256, 7, 7}, .outputs = 72, .window = {3, 3}, .padding = {1, 1}},
      {.name = "deep_pointwise", .x = {1, 2048, 7, 7}, .outputs = 40, .after = After::kRelu},
      {.name = "one_pixel", .x = {1, 960, 1, 1}, .outputs = 1280, .after = After::kRelu6},
      {.name = "deep_of_14", .x = {1, 128, 14, 14}, .outputs = 136, .window = {3, 3}, .padding = {1, 1}},
      {.name = "wide_image", .x = {1, 16, 40, 200}, .outputs = 96, .window = {3, 3}, .padding = {1, 1}},
      {.name = "in_turns", .x = {7, 256, 7, 9}, .outputs = 520, .window = {3, 3}, .padding = {1, 1}},
      {.name = "sequence",
       .x = {3, 40, 50},
       .outputs = 56,
       .window = {5},
       .stride = {2},
       .padding = {2},
       .dilation = {1},
       .after = After::kRelu},
  };
  std::vector<Case> list;
  for (const ConvSpec& spec : specs) list.push_back(conv_case(spec, dtype, device, constants_on_device));
  auto linear = [&](const char* name, Dims shape, int64_t outputs, After after, Dims strides = {}) {
    list.push_back(linear_case(name, {dtype, shape, strides.empty() ? contiguous_strides(shape) : strides, device},
                               outputs, after, constants_on_device));
  };
  linear("linear_tokens", {197, 768}, 96, After::kRelu);
  linear("linear_of_vit", {197, 768}, 328, After::kResidualRelu);
  linear("linear_split_of_vit", {197, 1536}, 392, After::kTwoResults);
  linear("linear_few_rows", {9, 1024}, 200, After::kResidualRelu);
  linear("linear_odd", {2, 9, 45}, 33, After::kResidualRelu);
  linear("linear_sliced", {2, 9, 64}, 1000, After::kTwoResults, {2000, 200, 1});
  linear("linear_deep", {4, 3072}, 64, After::kNothing);
  linear("linear_encoder", {128, 768}, 256, After::kResidualRelu);
  linear("linear_long_k", {130, 3072}, 200, After::kTwoResults);
  linear("linear_uneven_k", {70, 200}, 96, After::kNothing);
  linear("linear_in_turns", {300, 712}, 600, After::kResidualRelu);
  linear("linear_split_in_turns", {131, 1536}, 776, After::kRelu);
  return list;
}

std::vector<Case> large_products(c10::ScalarType dtype, c10::Device device, bool constants_on_device) {
  const ConvSpec specs[] = {
      {.name = "large_pointwise", .x = {9, 136, 61, 67}, .outputs = 264, .after = After::kResidualRelu},
      {.name = "large_deep", .x = {6, 520, 61, 67}, .outputs = 200, .after = After::kRelu},
      {.name = "large_shallow", .x = {3, 72, 111, 113}, .outputs = 200, .after = After::kRelu},
      {.name = "large_window",
       .x = {7, 200, 45, 47},
       .outputs = 184,
       .window = {3, 3},
       .padding = {1, 1},
       .after = After::kTwoResults},
      {.name = "large_stride2",
       .x = {5, 128, 75, 73},
       .outputs = 328,
       .window = {3, 3},
       .stride = {2, 2},
       .padding = {1, 1}},
      {.name = "large_narrow", .x = {8, 128, 75, 73}, .outputs = 60, .window = {3, 3}, .after = After::kRelu6},
      {.name = "large_into_slice",
       .x = {6, 264, 40, 41},
       .outputs = 88,
       .window = {3, 3},
       .padding = {1, 1},
       .after = After::kRelu,
       .result_channels_apart = 400},
      {.name = "large_groups",
       .x = {7, 240, 45, 47},
       .outputs = 368,
       .window = {3, 3},
       .padding = {1, 1},
       .groups = 2,
       .after = After::kRelu},
      {.name = "large_ring_groups",
       .x = {9, 72, 41, 43},
       .outputs = 72,
       .window = {3, 3},
       .padding = {1, 1},
       .groups = 3,
       .after = After::kRelu},
      {.name = "large_narrow_groups",
       .x = {8, 64, 75, 73},
       .outputs = 64,
       .window = {3, 3},
       .padding = {1, 1},
       .groups = 8,
       .after = After::kResidualRelu},
      // Clusters have tiles together; of the last tile some blocks have no rows.
      {.name = "large_deep_pointwise", .x = {2, 1024, 31, 31}, .outputs = 520, .after = After::kResidualRelu},
      {.name = "large_deep_window",
       .x = {3, 384, 25, 23},
       .outputs = 264,
       .window = {3, 3},
       .padding = {1, 1},
       .after = After::kTwoResults},
  };
  std::vector<Case> list;
  for (const ConvSpec& spec : specs) list.push_back(conv_case(spec, dtype, device, constants_on_device));
  auto type = [&](const Dims& shape) { return TensorType{dtype, shape, contiguous_strides(shape), device}; };
  list.push_back(linear_case("large_linear", type({37, 111, 520}), 776, After::kGelu, constants_on_device));
  list.push_back(linear_case("large_linear_long_k", type({5001, 2056}), 1000, After::kNothing, constants_on_device));
  return list;
}

std::vector<Case> dilated_products(c10::ScalarType dtype, c10::Device device, bool constants_on_device) {
  const ConvSpec specs[] = {
      {.name = "dilated_odd",
       .x = {2, 200, 23, 37},
       .outputs = 136,
       .window = {3, 3},
       .padding = {9, 11},
       .dilation = {9, 11},
       .after = After::kResidualRelu},
      {.name = "dilated_past_image",
       .x = {3, 256, 9, 13},
       .outputs = 96,
       .window = {3, 3},
       .padding = {16, 16},
       .dilation = {16, 16},
       .after = After::kRelu},
      {.name = "dilated_stride",
       .x = {5, 144, 31, 29},
       .outputs = 72,
       .window = {3, 3},
       .stride = {2, 2},
       .padding = {12, 10},
       .dilation = {12, 10},
       .after = After::kTwoResults},
      {.name = "dilated_deep",
       .x = {1, 1024, 33, 30},
       .outputs = 256,
       .window = {3, 3},
       .padding = {12, 12},
       .dilation = {12, 12},
       .after = After::kResidualRelu},
      {.name = "dilated_into_slice",
       .x = {9, 320, 28, 25},
       .outputs = 264,
       .window = {3, 3},
       .padding = {12, 14},
       .dilation = {12, 14},
       .after = After::kRelu,
       .x_channels_apart = 328,
       .result_channels_apart = 520},
      {.name = "dilated_odd_channels",
       .x = {6, 173, 24, 25},
       .outputs = 41,
       .window = {3, 3},
       .padding = {20, 20},
       .dilation = {20, 20}},
      // Taps lie on both sides of the image.
      {.name = "dilated_round_image",
       .x = {2, 192, 5, 7},
       .outputs = 64,
       .window = {3, 3},
       .padding = {24, 25},
       .dilation = {12, 9},
       .after = After::kRelu},
      {.name = "dilated_round_images",
       .x = {14, 256, 9, 10},
       .outputs = 136,
       .window = {3, 3},
       .padding = {36, 36},
       .dilation = {18, 18}},
      // Clusters have tiles together.
      {.name = "dilated_clusters",
       .x = {1, 1024, 45, 45},
       .outputs = 264,
       .window = {3, 3},
       .padding = {18, 18},
       .dilation = {18, 18},
       .after = After::kResidualRelu,
       .result_channels_apart = 520},
      {.name = "dilated_window5",
       .x = {3, 136, 16, 17},
       .outputs = 104,
       .window = {5, 5},
       .padding = {8, 8},
       .dilation = {4, 4},
       .after = After::kRelu},
      {.name = "dilated_row_window",
       .x = {4, 768, 11, 19},
       .outputs = 160,
       .window = {1, 7},
       .padding = {0, 15},
       .dilation = {1, 5},
       .after = After::kScales},
      {.name = "dilated_sequence",
       .x = {3, 512, 140},
       .outputs = 320,
       .window = {5},
       .stride = {1},
       .padding = {80},
       .dilation = {40},
       .after = After::kRelu},
  };
  std::vector<Case> list;
  for (const ConvSpec& spec : specs) list.push_back(conv_case(spec, dtype, device, constants_on_device));
  return list;
}

std::vector<Case> encoder_products(c10::ScalarType dtype, c10::Device device, int64_t rows) {
  std::vector<Case> list;
  auto linear = [&](const char* name, int64_t channels, int64_t outputs, After after) {
    TensorType x{dtype, {rows, channels}, {channels, 1}, device};
    list.push_back(linear_case(name, x, outputs, after, true));
  };
  linear("queries_keys_values", 768, 2304, After::kNothing);
  linear("projection", 768, 768, After::kNothing);
  linear("intermediate", 768, 3072, After::kGelu);
  linear("output", 3072, 768, After::kNothing);
  return list;
}

std::vector<Case> joined_shortcuts(c10::ScalarType dtype, c10::Device device, bool constants_on_device) {
  struct Spec {
    const char* name;
    int64_t images, height, width, main_channels, shortcut_channels, outputs, stride;
    bool bias = true, relu = true, swapped = false;
  };
  const Spec specs[] = {{"first_stage", 1, 28, 28, 64, 64, 256, 1},
                        {"second_stage", 1, 14, 14, 128, 256, 512, 2},
                        {"last_stage", 1, 7, 7, 512, 1024, 2048, 2},
                        {"batch", 3, 9, 7, 64, 32, 96, 2},
                        {"odd", 2, 5, 3, 24, 8, 40, 3, false},
                        {"few", 1, 3, 3, 8, 56, 16, 2, true, false},
                        {"swapped", 2, 6, 5, 128, 64, 72, 2, true, true, true}};
  std::vector<Case> list;
  for (const Spec& spec : specs) {
    auto graph = std::make_unique<Graph>();
    auto input = [&](int64_t channels, int64_t stride) {
      // The last pixels of strided rows and columns are read by nobody.
      Dims shape = {spec.images, channels, spec.height * stride, spec.width * stride};
      Dims strides = pixel_strides(shape, 0);
      return graph->add_input({dtype, shape, strides, device});
    };
    auto convolve = [&](Value* x, int64_t channels, int64_t stride) {
      Conv conv{
          .stride = {stride, stride}, .padding = {0, 0}, .dilation = {1, 1}, .groups = 1, .output_padding = {0, 0}};
      std::vector<Value*> inputs = {
          x, add_weight(*graph, {spec.outputs, channels, 1, 1}, dtype, device, constants_on_device)};
      if (spec.bias) inputs.push_back(add_weight(*graph, {spec.outputs}, dtype, device, constants_on_device));
      Value* result = graph->add(conv, inputs);
      result->type.strides = pixel_strides(result->type.shape, 0);
      return result;
    };
    // The first of two convolutions is the one that the addition joins.
    Value* h = input(spec.main_channels, 1);
    Value* x = input(spec.shortcut_channels, spec.stride);
    Value* one = spec.swapped ? convolve(x, spec.shortcut_channels, spec.stride) : convolve(h, spec.main_channels, 1);
    Value* other = spec.swapped ? convolve(h, spec.main_channels, 1) : convolve(x, spec.shortcut_channels, spec.stride);
    Value* y = graph->add(Pointwise{"add"}, {one, other});
    y->type.strides = one->type.strides;
    if (spec.relu) {
      y = graph->add(Pointwise{"relu"}, {y});
      y->type.strides = one->type.strides;
    }
    graph->add_output(y);
    fuse(*graph, {});
    graph->sweep();
    Group group = joined_shortcut(*graph, graph->nodes().back().get());
    check(group.size() == 2, std::string(spec.name) + " is no shortcut");
    fuse_group(*graph, group);
    graph->sweep();
    list.push_back({std::string("shortcut_") + spec.name + "/" + dtype_name(dtype), std::move(graph)});
  }
  return list;
}

}  // namespace torchweld::cuda_tests
