#include "tests/ops/cases.h"

namespace torchweld::test {

const std::vector<Case>& norm_cases() {
  using enum Dtypes;
  static const std::vector<std::vector<Shape>> with_channels{{{2, 6, 4, 5}, {6}, {6}}, {{3, 6, 7}, {6}, {6}}};
  static const std::vector<Case> cases{
      {"batch_norm",
       "torch.batch_norm(x, y, z, z, w, False, 0.1, 0.00001, True)",
       {{{2, 6, 4, 5}, {6}, {6}, {6}},
        {{3, 6}, {6}, {6}, {6}},
        {{3, 6, 7}, {6}, {6}, {6}},
        {{1, 6, 2, 3, 4}, {6}, {6}, {6}}},
       kFloating,
       "nnnp"},
      {"batch_norm_no_weight", "torch.batch_norm(x, None, None, y, z, False, 0.1, 0.001, True)", with_channels, kFloat,
       "nnp"},
      {"batch_norm_f32_weights",
       "torch.batch_norm(x, y, z, z, w, False, 0.1, 0.00001, True)",
       {{{2, 6, 4, 5}, {6}, {6}, {6}}},
       kFloat,
       "nfff"},
      {"batch_norm_training", "torch.batch_norm(x, None, None, y, z, True, 0.1, 0.001, True)", with_channels, kSingle,
       "nnp", "training mode"},
      {"batch_norm_no_statistics", "torch.batch_norm(x, y, z, None, None, False, 0.1, 0.001, True)", with_channels,
       kSingle, "", "from the batch"},
      {"instance_norm", "torch.instance_norm(x, y, z, None, None, True, 0.1, 0.00001, True)", with_channels, kFloat, "",
       "", true},
      {"instance_norm_plain",
       "torch.instance_norm(x, None, None, None, None, True, 0.1, 0.00001, True)",
       {{{2, 6, 4, 5}}},
       kFloat,
       "",
       "",
       true},
      {"instance_norm_statistics", "torch.instance_norm(x, None, None, y, z, False, 0.1, 0.00001, True)", with_channels,
       kFloat, "nnp", "", true},
      {"instance_norm_updates", "torch.instance_norm(x, None, None, y, z, True, 0.1, 0.00001, True)", with_channels,
       kSingle, "nnp", "updates its running statistics"},
      {"layer_norm", "torch.layer_norm(x, [8], y, z)", {{{2, 5, 8}, {8}, {8}}, {{3, 8}, {8}, {8}}, {{0, 8}, {8}, {8}}}},
      {"layer_norm_plain", "torch.layer_norm(x, [8])", {{{2, 5, 8}}}},
      {"layer_norm_weight", "torch.layer_norm(x, [8], y)", {{{2, 5, 8}, {8}}}},
      {"layer_norm_bias", "torch.layer_norm(x, [8], None, y)", {{{2, 5, 8}, {8}}}},
      {"layer_norm_two", "torch.layer_norm(x, [5, 8], y, z, 0.001)", {{{2, 5, 8}, {5, 8}, {5, 8}}}},
      {"layer_norm_offset", "torch.layer_norm(x + 50, [64])", {{{3, 64}}}, kSingle},
      {"layer_norm_wrong", "torch.layer_norm(x, [7])", {{{3, 8}}}, kSingle, "", "must be the last sizes"},
      {"group_norm", "torch.group_norm(x, 3, y, z)", with_channels},
      {"group_norm_plain", "torch.group_norm(x, 2)", {{{2, 6, 4, 5}}, {{3, 6}}}},
      {"group_norm_one", "torch.group_norm(x, 1, y, z, 0.001)", with_channels},
      {"rms_norm", "torch.rms_norm(x, [6], y, 0.001)", {{{4, 6}, {6}}, {{2, 3, 6}, {6}}}, kFloating},
      {"rms_norm_plain", "torch.rms_norm(x, [3, 6])", {{{4, 3, 6}}}, kFloating},
      {"native_layer_norm",
       "a, b, c = torch.native_layer_norm(x, [6], y, y, 0.001)\n  return a",
       {{{4, 6}, {6}}},
       kSingle},
      {"native_group_norm",
       "a, b, c = torch.native_group_norm(x.contiguous(), y, y, 2, 6, 20, 3, 0.001)\n  return a",
       {{{2, 6, 4, 5}, {6}}},
       kSingle},
  };
  return cases;
}

const std::vector<Case>& softmax_cases() {
  using enum Dtypes;
  static const std::vector<std::vector<Shape>> one{{{2, 5, 3, 4}}, {{3, 70}}, {{0, 3}}};
  static const std::vector<Case> cases{
      {"softmax", "torch.softmax(x * 5, -1)", one, kFloating},
      {"softmax_axis", "torch.softmax(x, 1)", one},
      {"softmax_first", "torch.softmax(x, 0)", {{{2, 5, 3, 4}}, {{}}}},
      {"softmax_special", "torch.softmax(x, -1)", one, kFloat, "s"},
      {"softmax_dtype", "torch.softmax(x, -1, dtype=torch.float32)", one, kNumber},
      {"softmax_integer", "torch.softmax(x, -1)", one, kInteger},
      {"_softmax", "torch._softmax(x, 1, False)", one},
      {"special_softmax", "torch.special_softmax(x, 1)", one},
      {"log_softmax", "torch.log_softmax(x * 50, -1)", one, kFloating},
      {"log_softmax_axis", "torch.log_softmax(x, 1)", one},
      {"log_softmax_dtype", "torch.log_softmax(x, -1, dtype=torch.float32)", one},
      {"_log_softmax", "torch._log_softmax(x, 1, False)", one},
      {"special_log_softmax", "torch.special_log_softmax(x, 1)", one},
  };
  return cases;
}

}  // namespace torchweld::test
