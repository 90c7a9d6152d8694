#include "tests/ops/cases.h"

namespace torchweld::test {

// Operators without an importer: they join as the generic op, or are refused with a reason.
const std::vector<Case>& generic_cases() {
  using enum Dtypes;
  static const std::vector<std::vector<Shape>> image{{{2, 8, 4, 6}}};
  static const std::vector<std::vector<Shape>> matrix{{{4, 6}}};
  static const std::vector<Case> cases{
      {"cumsum", "torch.cumsum(x, 1)", image},
      {"flip", "torch.flip(x, [1, 2])", image, kAny},
      {"sort", "v, i = torch.sort(x, -1)\n  return v, i", matrix},
      {"topk", "v, i = torch.topk(x, 3)\n  return v, i", matrix},
      {"index_select", "torch.index_select(x, 1, y)", {{{4, 6}, {3}}}, kAny, "ni"},
      {"gather", "torch.gather(x, 1, y)", {{{4, 6}, {4, 2}}}, kAny, "ni"},
      {"index", "x[y]", {{{4, 6}, {3}}}, kFloat, "ni"},
      {"index_bools", "x[y]", {{{4, 6}, {4}}}, kSingle, "nb", "depend on data"},
      {"embedding", "torch.embedding(x, y)", {{{4, 6}, {3}}}, kFloat, "ni"},
      {"scatter_add", "torch.scatter_add(x, 1, y, z)", {{{4, 6}, {4, 2}, {4, 2}}}, kSingle, "ni"},
      {"triu", "torch.triu(x, 1)", matrix},
      {"tril", "torch.tril(x)", matrix},
      {"nan_to_num", "torch.nan_to_num(x, 1.0)", matrix, kFloat, "s"},
      {"logit", "torch.logit(x, 0.01)", matrix, kSingle, "u"},
      {"logaddexp", "torch.logaddexp(x, y)", {{{4, 6}, {6}}}, kSingle},
      {"einsum", "torch.einsum(\"ij,jk->ik\", [x, y])", {{{4, 6}, {6, 3}}}, kSingle},
      {"meshgrid", "torch.meshgrid([x, y])", {{{4}, {3}}}, kFloat, "", "", true},
      {"hstack", "torch.hstack([x, y])", {{{4, 6}, {4, 2}}}},
      {"addbmm", "torch.addbmm(x, y, z)", {{{4, 6}, {2, 4, 3}, {2, 3, 6}}}, kSingle, "", "not known before it runs"},
      {"rms_norm", "torch.rms_norm(x, [6], y, 0.001)", {{{4, 6}, {6}}}},
      {"attention",
       "torch.scaled_dot_product_attention(x, y, z)",
       {{{2, 3, 5, 8}, {2, 3, 6, 8}, {2, 3, 6, 8}}},
       kSingle},
      {"diagonal", "torch.diagonal(x) + 1", matrix},
      {"unfold", "x.unfold(1, 3, 2)", matrix, kFloat, "", "", true},
      {"im2col", "torch.im2col(x, [2, 2], [1, 1], [0, 0], [1, 1])", image, kSingle, "", "not known before it runs"},
      {"new_zeros", "torch.cat([x, torch.zeros_like(x)], 0)", matrix},
      {"nonzero", "torch.nonzero(x)", matrix, kSingle, "", "depend on data"},
      {"masked_select", "torch.masked_select(x, y)", {{{4, 6}, {4, 6}}}, kSingle, "nb", "depend on data"},
      {"unique", "a, b, c = torch._unique2(x)\n  return a", matrix, kSingle, "", "depend on data"},
      {"bernoulli", "torch.bernoulli(x)", matrix, kSingle, "u", "random numbers"},
      {"rand_like", "torch.rand_like(x)", matrix, kSingle, "", "random numbers"},
      {"attention_dropout",
       "torch.scaled_dot_product_attention(x, x, x, None, 0.5)",
       {{{2, 3, 5, 8}}},
       kSingle,
       "",
       "random numbers"},
      {"item", "x * float(y.item())", {{{4}, {}}}, kSingle, "", "aten::item"},
  };
  return cases;
}

}  // namespace torchweld::test
