// Which blocks are tested, and those of networks.
#include "tests/cuda/blocks.h"

namespace torchweld::cuda_tests {
namespace {

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

}  // namespace torchweld::cuda_tests
