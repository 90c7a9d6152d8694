// Blocks for tests of CUDA kernels: built from single nodes and grouped by the passes.
#pragma once

#include <string>
#include <vector>

#include "tests/cuda/running.h"

namespace torchweld::cuda_tests {

/// An inverted residual, or part of one.
struct ResidualSpec {
  std::string name = "";
  int64_t batch = 1;
  int64_t height = 14;
  int64_t width = 14;
  int64_t in = 16;
  int64_t hidden = 32;
  int64_t out = 16;
  int64_t window = 3;
  int64_t stride = 1;
  std::string activation = "relu6";  ///< After the first two convolutions.
  bool expands = true;
  bool projects = true;
  bool adds_input = false;
  bool biased = true;
  int64_t dilation = 1;
  std::string last_activation = "";
  int64_t squeezed = 0;  ///< Numbers between the products of a squeeze-excitation before the projection; 0 for none.
  std::string gate = "sigmoid";
};

/// A mean over positions, two 1x1 convolutions and the gating, or (`squeezed` 0) a mean and a linear.
struct PooledSpec {
  std::string name = "";
  int64_t batch = 1;
  int64_t height = 14;
  int64_t width = 14;
  int64_t channels = 32;
  int64_t squeezed = 8;
  std::string activation = "relu";
  std::string gate = "sigmoid";
  bool multiplies = true;
  int64_t classes = 0;
  bool casts = false;  ///< To f32 at the end.
};

/// A tensor scaled by one number per channel, and a 1x1 convolution.
struct ScaledSpec {
  std::string name = "";
  int64_t batch = 1;
  int64_t height = 14;
  int64_t width = 14;
  int64_t in = 96;
  int64_t out = 24;
  bool adds = false;
};

/// Convolutions of one tensor, or (`window` 0) linear layers of one, with the activation behind each.
struct SiblingsSpec {
  std::string name = "";
  int64_t batch = 1;
  int64_t height = 14;
  int64_t width = 14;
  int64_t in = 64;
  std::vector<int64_t> outs = {};
  int64_t window = 1;
  int64_t stride = 1;
  std::string activation = "relu";
  bool all_biased = true;  ///< Else only the first.
  bool sliced = false;     ///< Results lie in slices of the channels of wider tensors.
};

/// The first convolution of a network and a max pool after it.
struct StemSpec {
  std::string name = "";
  int64_t batch = 1;
  int64_t height = 32;
  int64_t width = 32;
  int64_t in = 3;
  int64_t out = 64;
  Dims window = {7, 7};
  Dims stride = {2, 2};
  Dims padding = {3, 3};
  std::string activation = "relu";
  bool biased = true;
  bool channels_last = false;  ///< The picture's layout.
  int64_t cropped = 0;         ///< The picture is a part of one with so many more columns and rows.
  Dims pool = {3, 3};          ///< Empty for a convolution alone.
  Dims pool_stride = {2, 2};
  Dims pool_padding = {1, 1};
  Dims pool_dilation = {1, 1};
  bool ceil_mode = false;
  std::string last_activation = "";
};

/// The graph of a block after the passes. Constants lie in host memory unless `constants_on_device`.
Case make_block(const ResidualSpec& spec, c10::ScalarType dtype, bool constants_on_device);
Case make_block(const PooledSpec& spec, c10::ScalarType dtype, bool constants_on_device);
Case make_block(const ScaledSpec& spec, c10::ScalarType dtype, bool constants_on_device);
Case make_block(const SiblingsSpec& spec, c10::ScalarType dtype, bool constants_on_device);
Case make_block(const StemSpec& spec, c10::ScalarType dtype, bool constants_on_device);

/// Blocks of odd and even sizes with all kinds of parts.
std::vector<Case> block_cases(c10::ScalarType dtype, bool constants_on_device);
/// The same for stems with their pools.
std::vector<Case> stem_cases(c10::ScalarType dtype, bool constants_on_device);
/// Some of more channels, as warpgroups take them in one piece.
std::vector<Case> wide_stem_cases(c10::ScalarType dtype, bool constants_on_device);
/// The different blocks of a network at 224 x 224, batch 1, each with how often it occurs: "MobileNetV2",
/// "MobileNetV3-L" or "EfficientNet-B0".
std::vector<std::pair<Case, int>> blocks_of_network(const std::string& network);
/// Stems of networks with their pools, at 224 x 224, batch 1 and 32.
std::vector<Case> stems_of_networks(c10::ScalarType dtype, bool constants_on_device);

/// The tactics that take blocks.
std::vector<NamedTactic> block_tactics();

}  // namespace torchweld::cuda_tests
