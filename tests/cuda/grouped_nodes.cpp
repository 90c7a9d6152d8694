#include <string>

#include "tests/cuda/conv_nodes.h"

namespace torchweld::cuda_tests {
namespace {

using After = ConvSpec::After;

}  // namespace

std::vector<Case> grouped_products(c10::ScalarType dtype, c10::Device device, bool constants_on_device) {
  const Dims three = {3, 3};
  const Dims one = {1, 1};
  const Dims two = {2, 2};
  const ConvSpec specs[] = {
      {.name = "32_of_4",
       .x = {6, 128, 9, 11},
       .outputs = 128,
       .window = three,
       .padding = one,
       .groups = 32,
       .after = After::kRelu},
      {.name = "8_of_4_stride2",
       .x = {2, 32, 13, 12},
       .outputs = 64,
       .window = three,
       .stride = two,
       .padding = one,
       .groups = 8},
      {.name = "8_of_4_dilated",
       .x = {6, 32, 9, 9},
       .outputs = 32,
       .window = three,
       .padding = two,
       .dilation = two,
       .groups = 8},
      {.name = "8_of_4_pointwise", .x = {6, 32, 7, 9}, .outputs = 32, .groups = 8},
      {.name = "5_of_4_odd", .x = {2, 20, 7, 9}, .outputs = 15, .window = {2, 5}, .padding = {0, 2}, .groups = 5},
      {.name = "32_of_8_stride2",
       .x = {6, 256, 11, 9},
       .outputs = 256,
       .window = three,
       .stride = two,
       .padding = one,
       .groups = 32,
       .after = After::kResidualRelu},
      {.name = "2_of_8_window5",
       .x = {2, 16, 12, 13},
       .outputs = 32,
       .window = {5, 5},
       .padding = two,
       .groups = 2,
       .after = After::kRelu6},
      {.name = "5_of_8_odd", .x = {6, 40, 7, 7}, .outputs = 35, .window = three, .padding = one, .groups = 5},
      {.name = "3_of_12", .x = {6, 36, 8, 7}, .outputs = 24, .window = three, .padding = one, .groups = 3},
      {.name = "32_of_16",
       .x = {6, 512, 7, 7},
       .outputs = 512,
       .window = three,
       .padding = one,
       .groups = 32,
       .after = After::kRelu},
      {.name = "3_of_16_row_window",
       .x = {2, 48, 9, 17},
       .outputs = 72,
       .window = {1, 7},
       .padding = {0, 3},
       .groups = 3,
       .after = After::kTwoResults},
      {.name = "8_of_24",
       .x = {6, 192, 14, 13},
       .outputs = 192,
       .window = three,
       .padding = one,
       .groups = 8,
       .after = After::kResidualRelu},
      {.name = "3_of_48", .x = {6, 144, 7, 7}, .outputs = 96, .window = three, .padding = one, .groups = 3},
      {.name = "3_of_40_dilated",
       .x = {2, 120, 17, 15},
       .outputs = 240,
       .window = three,
       .padding = two,
       .dilation = two,
       .groups = 3},
      {.name = "32_of_32",
       .x = {1, 1024, 7, 7},
       .outputs = 1024,
       .window = three,
       .padding = one,
       .groups = 32,
       .after = After::kRelu},
      {.name = "2_of_64_stride2",
       .x = {6, 128, 15, 13},
       .outputs = 128,
       .window = three,
       .stride = two,
       .padding = one,
       .groups = 2,
       .after = After::kRelu},
      {.name = "8_of_64_scales", .x = {2, 512, 5, 5}, .outputs = 256, .groups = 8, .after = After::kScales},
      {.name = "2_of_264_deep",
       .x = {2, 528, 7, 7},
       .outputs = 528,
       .window = three,
       .padding = one,
       .groups = 2,
       .after = After::kRelu},
      {.name = "2_of_512_split", .x = {1, 1024, 7, 7}, .outputs = 80, .window = three, .padding = one, .groups = 2},
      {.name = "3_of_80_pointwise", .x = {6, 240, 7, 6}, .outputs = 60, .groups = 3, .after = After::kRelu},
      {.name = "3_of_8_pointwise_padded", .x = {2, 24, 5, 5}, .outputs = 240, .padding = one, .groups = 3},
      {.name = "4_of_6", .x = {6, 24, 6, 5}, .outputs = 40, .window = three, .groups = 4},
      {.name = "2_of_2", .x = {2, 4, 9, 9}, .outputs = 16, .window = three, .padding = one, .groups = 2},
      {.name = "2_of_3", .x = {6, 6, 19, 17}, .outputs = 64, .window = {7, 7}, .stride = two, .groups = 2},
      {.name = "4_of_16_into_slice",
       .x = {2, 64, 14, 14},
       .outputs = 64,
       .window = three,
       .padding = one,
       .groups = 4,
       .after = After::kRelu,
       .result_channels_apart = 96},
      {.name = "8_of_4_from_slice",
       .x = {2, 32, 7, 7},
       .outputs = 32,
       .window = three,
       .padding = one,
       .groups = 8,
       .x_channels_apart = 44},
      {.name = "4_of_8_from_odd_slice",
       .x = {2, 32, 7, 7},
       .outputs = 32,
       .window = three,
       .padding = one,
       .groups = 4,
       .x_channels_apart = 35},
      {.name = "4_of_4_nchw",
       .x = {2, 16, 9, 10},
       .outputs = 32,
       .window = three,
       .padding = one,
       .groups = 4,
       .x_is_nchw = true},
      {.name = "4_of_16_sequence",
       .x = {3, 64, 50},
       .outputs = 96,
       .window = {5},
       .stride = {2},
       .padding = {2},
       .dilation = {1},
       .groups = 4,
       .after = After::kRelu},
  };
  std::vector<Case> list;
  for (const ConvSpec& spec : specs) {
    list.push_back(conv_case(spec, dtype, device, constants_on_device));
    list.back().name = "groups_" + list.back().name;
  }
  return list;
}

std::vector<Case> grouped_layers(c10::ScalarType dtype, c10::Device device, int64_t images) {
  struct Layer {
    int64_t size, groups, channels, stride;
  };
  const Layer layers[] = {{56, 32, 4, 1},  {56, 32, 8, 2}, {28, 32, 8, 1},  {28, 32, 16, 2}, {14, 32, 16, 1},
                          {14, 32, 32, 2}, {7, 32, 32, 1}, {14, 24, 24, 1}, {14, 11, 112, 1}};
  std::vector<Case> list;
  for (const Layer& layer : layers) {
    int64_t channels = layer.groups * layer.channels;
    std::string name = std::to_string(layer.groups) + " groups of " + std::to_string(layer.channels) + " at " +
                       std::to_string(layer.size) + (layer.stride > 1 ? " strided" : "");
    list.push_back(conv_case({.name = name.c_str(),
                              .x = {images, channels, layer.size, layer.size},
                              .outputs = channels,
                              .window = {3, 3},
                              .stride = {layer.stride, layer.stride},
                              .padding = {1, 1},
                              .groups = layer.groups,
                              .after = After::kRelu},
                             dtype, device, true));
  }
  return list;
}

}  // namespace torchweld::cuda_tests
