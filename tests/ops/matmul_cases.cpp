#include "tests/ops/cases.h"

namespace torchweld::test {

const std::vector<Case>& matmul_cases() {
  using enum Dtypes;
  static const std::vector<Case> cases{
      {"linear",
       "torch.linear(x, y, z)",
       {{{5, 8}, {6, 8}, {6}}, {{2, 3, 8}, {6, 8}, {6}}, {{8}, {6, 8}, {6}}, {{0, 8}, {6, 8}, {6}}}},
      {"linear_no_bias", "torch.linear(x, y)", {{{5, 8}, {6, 8}}, {{2, 3, 4, 8}, {6, 8}}}},
      {"linear_relu", "torch.relu(torch.linear(x, y, z))", {{{5, 64}, {32, 64}, {32}}}},
      {"linear_gelu_add", "torch.gelu(torch.linear(x, y, z)) + w", {{{2, 5, 16}, {24, 16}, {24}, {2, 5, 24}}}},
      {"linear_wrong", "torch.linear(x, y)", {{{5, 7}, {6, 8}}}, kSingle, "", "does not fit weight"},
      {"matmul",
       "torch.matmul(x, y)",
       {{{5, 8}, {8, 6}},
        {{2, 5, 8}, {2, 8, 6}},
        {{2, 5, 8}, {8, 6}},
        {{5, 8}, {2, 8, 6}},
        {{3, 1, 5, 8}, {2, 8, 6}},
        {{8}, {8}},
        {{5, 8}, {8}},
        {{8}, {8, 6}},
        {{2, 5, 8}, {8}},
        {{8}, {2, 8, 6}},
        {{0, 8}, {8, 3}},
        {{3, 0}, {0, 2}}}},
      {"matmul_operator", "x @ y", {{{5, 8}, {8, 6}}}},
      {"matmul_integer", "torch.matmul(x, y)", {{{5, 8}, {8, 6}}}, kInteger},
      {"matmul_wrong", "torch.matmul(x, y)", {{{5, 8}, {7, 6}}}, kSingle, "", "inner sizes"},
      {"mm", "torch.mm(x, y)", {{{5, 8}, {8, 6}}}},
      {"bmm", "torch.bmm(x, y)", {{{2, 5, 8}, {2, 8, 6}}}},
      {"mv", "torch.mv(x, y)", {{{5, 8}, {8}}}},
      {"dot", "torch.dot(x, y)", {{{8}, {8}}}},
      {"outer", "torch.outer(x, y)", {{{4}, {5}}}, kNumber},
      {"addmm", "torch.addmm(x, y, z)", {{{6}, {5, 8}, {8, 6}}, {{5, 6}, {5, 8}, {8, 6}}, {{1, 6}, {5, 8}, {8, 6}}}},
      {"addmm_linear", "torch.addmm(x, y, torch.t(z))", {{{6}, {5, 8}, {6, 8}}}},
      {"addmm_scaled", "torch.addmm(x, y, z, beta=0.5, alpha=2.0)", {{{5, 6}, {5, 8}, {8, 6}}}},
      {"addmm_beta_zero", "torch.addmm(x, y, z, beta=0.0)", {{{5, 6}, {5, 8}, {8, 6}}}, kSingle, "s"},
      {"addmv", "torch.addmv(x, y, z)", {{{5}, {5, 8}, {8}}}},
      {"baddbmm", "torch.baddbmm(x, y, z, beta=0.5)", {{{2, 5, 6}, {2, 5, 8}, {2, 8, 6}}}},
      {"attention",
       "torch.matmul(torch.softmax(torch.matmul(x, y.transpose(-2, -1)) * 0.25, -1), z)",
       {{{2, 3, 5, 8}, {2, 3, 6, 8}, {2, 3, 6, 8}}}},
      {"einsum", "torch.einsum(\"ij,jk->ik\", [x, y])", {{{4, 6}, {6, 3}}}},
      {"einsum_heads", "torch.einsum(\"bhid,bhjd->bhij\", [x, y])", {{{2, 3, 4, 8}, {2, 3, 5, 8}}}},
      {"einsum_reordered", "torch.einsum(\"bqnc,bnchw->bqnhw\", [x, y])", {{{2, 3, 4, 5}, {2, 4, 5, 2, 3}}}},
      {"einsum_summed", "torch.einsum(\"ijk,kl->l\", [x, y])", {{{2, 3, 4}, {4, 5}}}},
      {"einsum_outer", "torch.einsum(\"i,j\", [x, y])", {{{4}, {5}}}},
      {"einsum_inner", "torch.einsum(\"ij,ij->\", [x, y])", {{{4, 5}, {4, 5}}}},
      {"einsum_one", "torch.einsum(\"ijk->ki\", [x])", {{{4, 5, 3}}}, kFloat, "", "", true},
      {"einsum_diagonal", "torch.einsum(\"ii->i\", [x])", {{{4, 4}}}, kSingle, "", "", true},
      {"einsum_ellipsis", "torch.einsum(\"...ij,...jk->...ik\", [x, y])", {{{2, 4, 5}, {2, 5, 3}}}},
      {"einsum_three", "torch.einsum(\"ij,jk,kl->il\", [x, y, z])", {{{4, 5}, {5, 3}, {3, 2}}}, kSingle},
      {"ger", "torch.ger(x, y)", {{{4}, {5}}}},
  };
  return cases;
}

}  // namespace torchweld::test
