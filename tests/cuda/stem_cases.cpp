// Convolutions of pictures, with and without a max pool after them.
#include "tests/cuda/blocks.h"

namespace torchweld::cuda_tests {
namespace {

std::vector<Case> made(const std::vector<StemSpec>& specs, c10::ScalarType dtype, bool constants_on_device) {
  std::vector<Case> cases;
  for (const StemSpec& spec : specs) cases.push_back(make_block(spec, dtype, constants_on_device));
  return cases;
}

}  // namespace

std::vector<Case> stem_cases(c10::ScalarType dtype, bool constants_on_device) {
  const std::vector<StemSpec> specs{
      {.name = "stem", .batch = 2, .height = 45, .width = 51},
      {.name = "stem_channels_last", .height = 64, .width = 48, .channels_last = true},
      {.name = "stem_even", .batch = 3, .height = 38, .width = 46},
      {.name = "stem_even_window11",
       .height = 43,
       .width = 92,
       .out = 128,
       .window = {11, 11},
       .stride = {4, 4},
       .padding = {2, 2},
       .pool_padding = {0, 0}},
      {.name = "stem_even_one_channel",
       .batch = 2,
       .height = 17,
       .width = 36,
       .in = 1,
       .out = 40,
       .window = {5, 3},
       .stride = {1, 1},
       .padding = {2, 1}},
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
      {.name = "stem_cropped_even", .batch = 2, .height = 40, .width = 36, .cropped = 6},
      {.name = "stem_cropped_odd", .batch = 2, .height = 21, .width = 36, .out = 32, .cropped = 3},
      {.name = "lone",
       .batch = 3,
       .height = 38,
       .width = 46,
       .out = 32,
       .window = {3, 3},
       .padding = {1, 1},
       .activation = "relu6",
       .pool = {}},
      {.name = "lone_odd",
       .batch = 2,
       .height = 37,
       .width = 45,
       .out = 24,
       .window = {5, 5},
       .padding = {2, 2},
       .activation = "silu",
       .biased = false,
       .pool = {}},
      {.name = "lone_cropped",
       .batch = 2,
       .height = 30,
       .width = 44,
       .in = 4,
       .out = 16,
       .window = {3, 3},
       .padding = {0, 1},
       .cropped = 4,
       .pool = {}},
      {.name = "lone_narrow",
       .batch = 2,
       .height = 70,
       .width = 9,
       .in = 1,
       .out = 8,
       .activation = "relu",
       .pool = {}},
  };
  return made(specs, dtype, constants_on_device);
}

std::vector<Case> wide_stem_cases(c10::ScalarType dtype, bool constants_on_device) {
  const std::vector<StemSpec> specs{
      {.name = "wide", .batch = 2, .height = 62, .width = 70},
      {.name = "wide_odd", .batch = 2, .height = 45, .width = 51, .biased = false},
      {.name = "wide_96", .height = 66, .width = 58, .out = 96, .activation = "gelu"},
      {.name = "wide_window11",
       .batch = 2,
       .height = 75,
       .width = 92,
       .out = 128,
       .window = {11, 11},
       .stride = {4, 4},
       .padding = {2, 2},
       .biased = false,
       .pool_padding = {0, 0}},
      {.name = "wide_lone", .batch = 3, .height = 38, .width = 46, .window = {3, 3}, .padding = {1, 1}, .pool = {}},
      {.name = "wide_lone_odd",
       .batch = 2,
       .height = 37,
       .width = 45,
       .out = 80,
       .window = {5, 5},
       .padding = {2, 2},
       .activation = "hardswish",
       .pool = {}},
  };
  return made(specs, dtype, constants_on_device);
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
