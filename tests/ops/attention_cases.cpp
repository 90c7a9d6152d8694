#include "tests/ops/cases.h"

namespace torchweld::test {

const std::vector<Case>& attention_cases() {
  using enum Dtypes;
  static const std::vector<std::vector<Shape>> heads{{{2, 3, 5, 8}, {2, 3, 6, 8}, {2, 3, 6, 8}}};
  static const std::vector<std::vector<Shape>> grouped{{{2, 6, 5, 8}, {2, 2, 6, 8}, {2, 2, 6, 8}}};
  static const std::vector<std::vector<Shape>> masked{{{2, 3, 5, 8}, {2, 3, 6, 8}, {2, 3, 6, 8}, {5, 6}},
                                                      {{2, 3, 5, 8}, {2, 3, 6, 8}, {2, 3, 6, 8}, {2, 1, 1, 6}},
                                                      {{2, 3, 5, 8}, {2, 3, 6, 8}, {2, 3, 6, 8}, {2, 3, 5, 6}}};
  static const std::vector<std::vector<Shape>> encoder{{{2, 5, 8}, {24, 8}, {8, 8}, {8}}};
  static std::vector<Case> cases{
      {"attention", "torch.scaled_dot_product_attention(x, y, z)", heads, kFloating},
      {"attention_matrices", "torch.scaled_dot_product_attention(x, y, z)", {{{5, 8}, {6, 8}, {6, 8}}}},
      {"attention_rank3", "torch.scaled_dot_product_attention(x, y, z)", {{{3, 5, 8}, {3, 6, 8}, {3, 6, 8}}}},
      {"attention_rank3_mask",
       "torch.scaled_dot_product_attention(x, y, z, w)",
       {{{3, 5, 8}, {3, 6, 8}, {3, 6, 8}, {3, 5, 6}}, {{3, 5, 8}, {3, 6, 8}, {3, 6, 8}, {5, 6}}},
       kFloat,
       "nnnn"},
      {"attention_rank5",
       "torch.scaled_dot_product_attention(x, y, z)",
       {{{2, 2, 3, 5, 8}, {2, 2, 3, 6, 8}, {2, 2, 3, 6, 8}}}},
      {"attention_other_width",
       "torch.scaled_dot_product_attention(x, y, z)",
       {{{2, 3, 5, 8}, {2, 3, 6, 8}, {2, 3, 6, 4}}}},
      {"attention_scale", "torch.scaled_dot_product_attention(x, y, z, scale=0.7)", heads},
      {"attention_causal", "torch.scaled_dot_product_attention(x, y, z, is_causal=True)", heads, kFloating},
      {"attention_causal_longer",
       "torch.scaled_dot_product_attention(x, y, z, is_causal=True)",
       {{{1, 2, 7, 8}, {1, 2, 4, 8}, {1, 2, 4, 8}}}},
      {"attention_mask", "torch.scaled_dot_product_attention(x, y, z, w)", masked, kFloating, "nnnn"},
      {"attention_bool_mask", "torch.scaled_dot_product_attention(x, y, z, w)", masked, kFloating, "nnnb"},
      {"attention_repeated_mask",
       "torch.scaled_dot_product_attention(x, y, z, w.expand(2, 1, 5, 6))",
       {{{2, 3, 5, 8}, {2, 3, 6, 8}, {2, 3, 6, 8}, {6}}, {{2, 3, 5, 8}, {2, 3, 6, 8}, {2, 3, 6, 8}, {1, 1, 6}}},
       kFloating,
       "nnnb"},
      {"attention_repeated_matrix",
       "torch.scaled_dot_product_attention(x, y, z, w.expand(5, 6))",
       {{{2, 3, 5, 8}, {2, 3, 6, 8}, {2, 3, 6, 8}, {}}},
       kFloat,
       "nnnn"},
      {"attention_undecided_mask",
       "torch.scaled_dot_product_attention(x, y, z, w & torch.ones(1, 1, 5, 6, dtype=torch.bool, device=w.device))",
       {{{2, 3, 5, 8}, {2, 3, 6, 8}, {2, 3, 6, 8}, {6}}},
       kFloating,
       "nnnb"},
      {"attention_no_column",
       "torch.scaled_dot_product_attention(x, y, z, w & (torch.arange(5) > 1)[:, None].to(w.device))",
       {{{2, 3, 5, 8}, {2, 3, 6, 8}, {2, 3, 6, 8}, {5, 6}}},
       kFloating,
       "nnnb"},
      {"attention_no_column_infinite",
       "m = torch.zeros([5, 6], dtype=x.dtype, device=x.device)\n  m[1] = float(\"-inf\")\n  return "
       "torch.scaled_dot_product_attention(x, y, z, m)",
       heads},
      {"attention_causal_and_mask",
       "torch.scaled_dot_product_attention(x, y, z, w, is_causal=True)",
       {{{2, 3, 5, 8}, {2, 3, 5, 8}, {2, 3, 5, 8}, {5, 5}}},
       kSingle,
       "nnnn",
       "takes no mask"},
      {"attention_grouped", "torch.scaled_dot_product_attention(x, y, z, enable_gqa=True)", grouped, kFloating},
      {"attention_grouped_causal", "torch.scaled_dot_product_attention(x, y, z, is_causal=True, enable_gqa=True)",
       grouped},
      {"attention_one_key",
       "torch.scaled_dot_product_attention(x, y, z)",
       {{{2, 3, 5, 8}, {2, 3, 1, 8}, {2, 3, 1, 8}}}},
      {"attention_heads_apart",
       "torch.scaled_dot_product_attention(x.view(2, 5, 2, 4).transpose(1, 2), y.view(2, 6, 2, 4).transpose(1, 2), "
       "z.view(2, 6, 2, 4).transpose(1, 2)).transpose(1, 2).reshape(2, 5, 8)",
       {{{2, 5, 8}, {2, 6, 8}, {2, 6, 8}}}},
      {"attention_mixed", "torch.scaled_dot_product_attention(x, y, z)", heads, kInteger, "fff", ""},
      {"attention_integers", "torch.scaled_dot_product_attention(x, y, z)", heads, kInteger, "", "floating point"},
      {"attention_dropout",
       "torch.scaled_dot_product_attention(x, x, x, None, 0.5)",
       {{{2, 3, 5, 8}}},
       kSingle,
       "",
       "random numbers"},
      {"written_out",
       "torch.matmul(torch.softmax(torch.matmul(x, y.transpose(-1, -2)) / 2.8284271 + w, -1), z)",
       {{{2, 3, 5, 8}, {2, 3, 6, 8}, {2, 3, 6, 8}, {2, 1, 1, 6}}},
       kFloat,
       "nnnn"},
      {"written_out_masked",
       "torch.matmul(torch.softmax((torch.matmul(x, y.transpose(-1, -2)) * 0.3).masked_fill(w, float(\"-inf\")), -1), "
       "z)",
       {{{2, 3, 5, 8}, {2, 3, 6, 8}, {2, 3, 6, 8}, {2, 1, 5, 6}}},
       kFloat,
       "nnnb"},
      {"written_out_no_column",
       "torch.matmul(torch.softmax(torch.matmul(x, y.transpose(-1, -2)).masked_fill(torch.ones_like(w), "
       "float(\"-inf\")), -1), "
       "z)",
       {{{2, 3, 5, 8}, {2, 3, 6, 8}, {2, 3, 6, 8}, {2, 1, 5, 6}}},
       kFloat,
       "nnnb"},
      {"written_out_bmm",
       "torch.bmm(torch.softmax(torch.baddbmm(w, x, y.transpose(1, 2), beta=1.0, alpha=0.25), -1), z)",
       {{{6, 5, 8}, {6, 7, 8}, {6, 7, 8}, {6, 5, 7}}}},
      {"_native_multi_head_attention",
       "a, b = torch._native_multi_head_attention(x, x, x, 8, 2, y, torch.cat([w, w, w]), z, w, None, False)\n  return "
       "a",
       encoder},
      {"_native_multi_head_attention_weights",
       "a, b = torch._native_multi_head_attention(x, x, x, 8, 2, y, torch.cat([w, w, w]), z, w, None, True)\n  return "
       "a, b",
       encoder, kSingle},
      {"_native_multi_head_attention_mask",
       "a, b = torch._native_multi_head_attention(x, x, x, 8, 2, y, torch.cat([w, w, w]), z, w, "
       "(torch.arange(5) > 3).to(x.device).expand(2, 5), False, True, 1)\n  return a",
       encoder, kSingle},
      {"_transformer_encoder_layer_fwd",
       "torch._transformer_encoder_layer_fwd(x, 8, 2, y, torch.cat([w, w, w]), z, w, False, False, 0.001, w, w, w, w, "
       "z, w, "
       "z, w)",
       encoder},
      {"_transformer_encoder_layer_fwd_first",
       "torch._transformer_encoder_layer_fwd(x, 8, 2, y, torch.cat([w, w, w]), z, w, True, True, 0.001, w, w, w, w, z, "
       "w, z, "
       "w)",
       encoder},
  };
  // LibTorch's results lie as its choice of algorithm has it.
  for (Case& row : cases) row.free_layout = true;
  return cases;
}

}  // namespace torchweld::test
