#include "tests/ops/cases.h"

namespace torchweld::test {

const std::vector<Case>& resize_cases() {
  using enum Dtypes;
  static const std::vector<std::vector<Shape>> line{{{2, 3, 7}}};
  static const std::vector<std::vector<Shape>> plane{{{2, 3, 5, 6}}};
  static const std::vector<std::vector<Shape>> space{{{1, 2, 3, 4, 5}}};
  static const std::vector<Case> cases{
      {"nearest1d", "torch.upsample_nearest1d(x, [11])", line},
      {"nearest1d_vec", "torch.upsample_nearest1d(x, None, [1.7])", line},
      {"nearest2d", "torch.upsample_nearest2d(x, [10, 7])", plane},
      {"nearest2d_scales", "torch.upsample_nearest2d(x, [7, 9], 1.5, 1.6)", plane},
      {"nearest2d_vec", "torch.upsample_nearest2d(x, None, [2.0, 2.0])", plane},
      {"nearest2d_vec_size", "torch.upsample_nearest2d(x, [10, 12], None)", plane},
      {"nearest2d_down", "torch.upsample_nearest2d(x, None, [0.5, 0.7])", plane},
      {"nearest3d", "torch.upsample_nearest3d(x, [6, 5, 4])", space},
      {"nearest3d_vec", "torch.upsample_nearest3d(x, None, [2.0, 1.5, 2.0])", space},
      {"nearest_exact1d", "torch._upsample_nearest_exact1d(x, [11])", line},
      {"nearest_exact1d_vec", "torch._upsample_nearest_exact1d(x, None, [1.7])", line},
      {"nearest_exact2d", "torch._upsample_nearest_exact2d(x, [10, 7])", plane},
      {"nearest_exact2d_vec", "torch._upsample_nearest_exact2d(x, None, [1.4, 2.3])", plane},
      {"nearest_exact3d", "torch._upsample_nearest_exact3d(x, [6, 5, 4])", space},
      {"nearest_exact3d_vec", "torch._upsample_nearest_exact3d(x, None, [2.0, 1.5, 2.0])", space},
      {"linear1d", "torch.upsample_linear1d(x, [11], False)", line},
      {"linear1d_vec", "torch.upsample_linear1d(x, None, True, [1.7])", line},
      {"bilinear2d", "torch.upsample_bilinear2d(x, [10, 7], False)", plane},
      {"bilinear2d_corners", "torch.upsample_bilinear2d(x, [10, 7], True)", plane},
      {"bilinear2d_vec", "torch.upsample_bilinear2d(x, None, False, [1.5, 2.4])", plane},
      {"bilinear2d_vec_size", "torch.upsample_bilinear2d(x, [3, 4], False, None)", plane},
      {"trilinear3d", "torch.upsample_trilinear3d(x, [6, 5, 4], False)", space},
      {"trilinear3d_vec", "torch.upsample_trilinear3d(x, None, True, [2.0, 1.5, 2.0])", space},
      {"bicubic2d", "torch.upsample_bicubic2d(x, [10, 7], False)", plane},
      {"bicubic2d_vec", "torch.upsample_bicubic2d(x, None, True, [1.5, 2.4])", plane},
      {"bilinear2d_aa", "torch._upsample_bilinear2d_aa(x, [3, 4], False)", plane, kSingle},
      {"bilinear2d_aa_vec", "torch._upsample_bilinear2d_aa(x, None, False, [0.6, 0.7])", plane, kSingle},
      {"bicubic2d_aa", "torch._upsample_bicubic2d_aa(x, [3, 4], False)", plane, kSingle},
      {"bicubic2d_aa_vec", "torch._upsample_bicubic2d_aa(x, None, False, [0.6, 0.7])", plane, kSingle},
      {"resize_wrong_rank", "torch.upsample_nearest2d(x, None, [2.0, 2.0])", line, kSingle, "", "wrong rank"},
      {"resize_integer", "torch.upsample_bilinear2d(x.to(torch.int32), [3, 4], False)", plane, kSingle},
  };
  return cases;
}

}  // namespace torchweld::test
