// Convolutions and linear layers for tests of the kernels that compute them, described in a line each.
#pragma once

#include "tests/cuda/nodes.h"

namespace torchweld::cuda_tests {

/// A channels-last convolution with constant weights and what follows it in its fused node.
struct ConvSpec {
  enum class After { kNothing, kRelu, kRelu6, kResidualRelu, kTwoResults, kScales, kGelu };

  const char* name;
  Dims x;  ///< Batch, channels, height, width.
  int64_t outputs = 0;
  Dims window = {1, 1};
  Dims stride = {1, 1};
  Dims padding = {0, 0};
  Dims dilation = {1, 1};
  int64_t groups = 1;
  After after = After::kNothing;
  bool x_is_nchw = false;
  int64_t x_channels_apart = 0;       ///< Elements between pixels of x; 0: its channels.
  int64_t result_channels_apart = 0;  ///< The same of the results: they are slices of a larger tensor.
};
Case conv_case(const ConvSpec& spec, c10::ScalarType dtype, c10::Device device, bool constants_on_device);

/// Convolutions and linear layers of odd sizes, windows, strides, paddings, layouts and fused bodies.
std::vector<Case> odd_products(c10::ScalarType dtype, c10::Device device, bool constants_on_device);

/// Convolutions with groups of few and many channels, as many results as channels or not; samples up to six, so that
/// what is not finite in one group can be seen not to reach the others.
std::vector<Case> grouped_products(c10::ScalarType dtype, c10::Device device, bool constants_on_device);

/// As many results that blocks take several tiles each; sizes are no multiples of a tile's.
std::vector<Case> large_products(c10::ScalarType dtype, c10::Device device, bool constants_on_device);

/// Convolutions of which many taps, of some results all, lie outside the image.
std::vector<Case> dilated_products(c10::ScalarType dtype, c10::Device device, bool constants_on_device);

/// Two convolutions, one of them strided, whose results are added: blocks of one product over the channels of both.
std::vector<Case> joined_shortcuts(c10::ScalarType dtype, c10::Device device, bool constants_on_device);

/// Convolutions with groups of ResNeXt50 32x4d, RegNetY 3.2 GF and 16 GF for `images` images, constants on the device.
std::vector<Case> grouped_layers(c10::ScalarType dtype, c10::Device device, int64_t images);

/// The linear layers of BERT-base for `rows` tokens, constants on the device.
std::vector<Case> encoder_products(c10::ScalarType dtype, c10::Device device, int64_t rows);

}  // namespace torchweld::cuda_tests
