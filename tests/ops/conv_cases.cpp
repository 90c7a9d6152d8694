#include "tests/ops/cases.h"

namespace torchweld::test {

const std::vector<Case>& conv_cases() {
  using enum Dtypes;
  static const std::vector<Case> cases{
      {"conv2d", "torch.conv2d(x, y, z)", {{{2, 4, 7, 6}, {8, 4, 3, 3}, {8}}, {{1, 3, 9, 9}, {5, 3, 1, 1}, {5}}}},
      {"conv2d_no_bias", "torch.conv2d(x, y)", {{{2, 4, 7, 6}, {8, 4, 3, 3}}}},
      {"conv2d_stride", "torch.conv2d(x, y, z, [2, 1], [1, 2])", {{{2, 4, 7, 6}, {8, 4, 3, 3}, {8}}}},
      {"conv2d_dilation", "torch.conv2d(x, y, None, [1, 1], [2, 2], [2, 2])", {{{1, 4, 7, 8}, {8, 4, 3, 3}}}},
      {"conv2d_groups", "torch.conv2d(x, y, z, [1, 1], [1, 1], [1, 1], 2)", {{{1, 4, 7, 6}, {6, 2, 3, 3}, {6}}}},
      {"conv2d_depthwise", "torch.conv2d(x, y, z, [2, 2], [1, 1], [1, 1], 8)", {{{2, 8, 7, 6}, {8, 1, 3, 3}, {8}}}},
      {"conv2d_depthwise_5", "torch.conv2d(x, y, z, [1, 1], [2, 2], [1, 1], 16)", {{{1, 16, 7, 6}, {16, 1, 5, 5}, {16}}}},
      {"conv2d_multiplier", "torch.conv2d(x, y, None, [1, 1], [1, 1], [1, 1], 4)", {{{1, 4, 7, 6}, {8, 1, 3, 3}}}},
      {"conv2d_unbatched", "torch.conv2d(x, y, z, 1, 1)", {{{4, 7, 6}, {8, 4, 3, 3}, {8}}}},
      {"conv2d_empty_batch", "torch.conv2d(x, y, z, 1, 1)", {{{0, 4, 7, 6}, {8, 4, 3, 3}, {8}}}, kSingle},
      {"conv2d_same", "torch.conv2d(x, y, z, 1, \"same\")", {{{1, 4, 7, 6}, {8, 4, 3, 3}, {8}}, {{1, 4, 7, 6}, {8, 4, 4, 2}, {8}}}},
      {"conv2d_valid", "torch.conv2d(x, y, z, 2, \"valid\")", {{{1, 4, 7, 6}, {8, 4, 3, 3}, {8}}}},
      {"conv2d_same_stride", "torch._convolution_mode(x, y, None, [2, 2], \"same\", [1, 1], 1)",
       {{{1, 4, 7, 6}, {8, 4, 3, 3}}}, kSingle, "", "padding 'same' needs stride 1"},
      {"conv2d_epilogue", "torch.relu(torch.conv2d(x, y, z, 1, 1) + w)",
       {{{1, 4, 7, 6}, {8, 4, 3, 3}, {8}, {1, 8, 7, 6}}}},
      {"conv2d_pointwise", "torch.silu(torch.conv2d(x, y, z))", {{{2, 16, 5, 5}, {24, 16, 1, 1}, {24}}}},
      {"conv1d", "torch.conv1d(x, y, z, 2, 1)", {{{2, 4, 9}, {8, 4, 3}, {8}}}},
      {"conv1d_same", "torch.conv1d(x, y, z, 1, \"same\")", {{{2, 4, 9}, {8, 4, 3}, {8}}}},
      {"conv3d", "torch.conv3d(x, y, z, 1, 1)", {{{1, 3, 4, 5, 6}, {4, 3, 3, 3, 3}, {4}}}, kFloat, "", "", true},
      {"conv3d_same", "torch.conv3d(x, y, z, 1, \"same\")", {{{1, 3, 4, 5, 6}, {4, 3, 3, 3, 3}, {4}}}, kFloat, "", "", true},
      {"_convolution", "torch._convolution(x, y, z, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, False, False, True, True)",
       {{{1, 4, 7, 6}, {8, 4, 3, 3}, {8}}}},
      {"_convolution_deprecated", "torch._convolution(x, y, z, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, False, False, True)",
       {{{1, 4, 7, 6}, {8, 4, 3, 3}, {8}}}},
      {"convolution", "torch.convolution(x, y, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)",
       {{{1, 4, 7, 6}, {8, 4, 3, 3}}}},
      {"convolution_mode", "torch._convolution_mode(x, y, z, [1, 1], \"same\", [1, 1], 1)", {{{1, 4, 7, 6}, {8, 4, 3, 3}, {8}}}},
      {"conv_transpose1d", "torch.conv_transpose1d(x, y, z, 2, 1, 1)", {{{2, 4, 5}, {4, 6, 3}, {6}}}},
      {"conv_transpose2d", "torch.conv_transpose2d(x, y, z, 2, 1, 1)", {{{2, 4, 5, 4}, {4, 6, 3, 3}, {6}}}},
      {"conv_transpose2d_groups", "torch.conv_transpose2d(x, y, None, 2, 0, 0, 2)", {{{1, 4, 5, 4}, {4, 3, 2, 2}}}},
      {"conv_transpose3d", "torch.conv_transpose3d(x, y, z, 2)", {{{1, 3, 3, 4, 2}, {3, 4, 2, 2, 2}, {4}}}, kFloat, "", "", true},
      {"conv_transpose_unbatched", "torch.conv_transpose2d(x, y, z, 2)", {{{4, 5, 4}, {4, 6, 3, 3}, {6}}}},
      {"conv2d_wrong_channels", "torch.conv2d(x, y)", {{{1, 3, 7, 6}, {8, 4, 3, 3}}}, kSingle, "", "needs 4 input channels"},
      {"conv2d_too_small", "torch.conv2d(x, y)", {{{1, 4, 2, 6}, {8, 4, 3, 3}}}, kSingle, "", "larger than the padded input"},
      {"conv2d_mixed", "torch.conv2d(x, y)", {{{1, 4, 7, 6}, {8, 4, 3, 3}}}, kInteger, "nf", "of one dtype"},
  };
  return cases;
}

}  // namespace torchweld::test
