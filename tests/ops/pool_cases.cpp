#include "tests/ops/cases.h"

namespace torchweld::test {

const std::vector<Case>& pool_cases() {
  using enum Dtypes;
  static const std::vector<std::vector<Shape>> flat{{{2, 5, 9, 8}}, {{5, 9, 8}}};
  static const std::vector<Case> cases{
      {"max_pool2d", "torch.max_pool2d(x, 3, 2, 1)", flat, kFloating, "s"},
      {"max_pool2d_default_stride", "torch.max_pool2d(x, [2, 3])", flat},
      {"max_pool2d_ceil", "torch.max_pool2d(x, 3, 2, 0, 1, True)", flat},
      {"max_pool2d_ceil_edge", "torch.max_pool2d(x, 2, 2, 1, 1, True)", {{{1, 3, 5, 7}}}},
      {"max_pool2d_dilation", "torch.max_pool2d(x, 2, 1, 1, 2)", flat},
      {"max_pool2d_padding", "torch.max_pool2d(x, 3, 2, 2)", flat, kSingle, "", "at most half of the kernel"},
      {"max_pool2d_with_indices", "v, i = torch.max_pool2d_with_indices(x, 3, 2, 1)\n  return v, i", flat},
      {"max_pool2d_values", "v, i = torch.max_pool2d_with_indices(x, 3, 2, 1)\n  return v", flat},
      {"max_pool1d", "torch.max_pool1d(x, 3, 2, 1)", {{{2, 5, 9}}, {{5, 9}}}, kFloat, "s"},
      {"max_pool1d_with_indices", "v, i = torch.max_pool1d_with_indices(x, 3, 2, 1)\n  return v, i", {{{2, 5, 9}}}},
      {"max_pool3d", "torch.max_pool3d(x, 3, 2, 1)", {{{1, 3, 5, 6, 7}}}},
      {"max_pool3d_with_indices",
       "v, i = torch.max_pool3d_with_indices(x, 3, 2, 1)\n  return v, i",
       {{{1, 3, 5, 6, 7}}}},
      {"avg_pool2d", "torch.avg_pool2d(x, 3, 2, 1)", flat},
      {"avg_pool2d_default_stride", "torch.avg_pool2d(x, [2, 3])", flat},
      {"avg_pool2d_without_padding", "torch.avg_pool2d(x, 3, 2, 1, False, False)", flat},
      {"avg_pool2d_ceil", "torch.avg_pool2d(x, 3, 2, 1, True)", {{{2, 5, 9, 8}}, {{1, 2, 4, 6}}}},
      {"avg_pool2d_ceil_without_padding", "torch.avg_pool2d(x, 3, 2, 1, True, False)", {{{2, 5, 9, 8}}}},
      {"avg_pool2d_divisor", "torch.avg_pool2d(x, 3, 2, 1, False, True, 5)", flat},
      {"avg_pool2d_integer", "torch.avg_pool2d(x, 3)", flat, kInteger, "", "", true},
      {"avg_pool1d", "torch.avg_pool1d(x, 3, 2, 1)", {{{2, 5, 9}}, {{5, 9}}}},
      {"avg_pool3d", "torch.avg_pool3d(x, 3, 2, 1)", {{{1, 3, 5, 6, 7}}}},
      {"adaptive_avg_pool2d_1", "torch.adaptive_avg_pool2d(x, [1, 1])", flat},
      {"adaptive_avg_pool2d_even", "torch.adaptive_avg_pool2d(x, [3, 4])", flat},
      {"adaptive_avg_pool2d_uneven", "torch.adaptive_avg_pool2d(x, [7, 5])", flat},
      {"adaptive_avg_pool2d_larger", "torch.adaptive_avg_pool2d(x, [11, 3])", flat},
      {"adaptive_avg_pool1d", "torch.adaptive_avg_pool1d(x, [4])", {{{2, 5, 9}}}},
      {"adaptive_avg_pool1d_1", "torch.adaptive_avg_pool1d(x, [1])", {{{2, 5, 9}}}},
      {"adaptive_avg_pool3d", "torch.adaptive_avg_pool3d(x, [2, 3, 4])", {{{1, 3, 5, 6, 7}}}},
      {"adaptive_avg_pool3d_1", "torch.adaptive_avg_pool3d(x, [1, 1, 1])", {{{1, 3, 5, 6, 7}}}},
      {"adaptive_max_pool1d", "v, i = torch.adaptive_max_pool1d(x, [4])\n  return v", {{{2, 5, 9}}}},
      {"adaptive_max_pool2d", "v, i = torch.adaptive_max_pool2d(x, [4, 3])\n  return v, i", flat},
      {"adaptive_max_pool3d", "v, i = torch.adaptive_max_pool3d(x, [2, 3, 4])\n  return v", {{{1, 3, 5, 6, 7}}}},
  };
  return cases;
}

}  // namespace torchweld::test
