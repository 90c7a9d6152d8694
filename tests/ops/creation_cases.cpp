#include "tests/ops/cases.h"

namespace torchweld::test {

// Tensors that are known at compile time, and what programs do to them before they meet computed ones.
const std::vector<Case>& creation_cases() {
  using enum Dtypes;
  static const std::vector<std::vector<Shape>> matrix{{{4, 6}}};
  static const std::vector<Case> cases{
      {"zeros_like", "torch.cat([x, torch.zeros_like(x)], 0)", matrix, kAny},
      {"zeros_like_dtype", "x + torch.zeros_like(x, dtype=torch.float64)", matrix, kNumber},
      {"ones_like", "x + torch.ones_like(x)", {{{2, 3, 4, 5}}, {{}}}, kNumber},
      {"full_like", "x * torch.full_like(x, 3)", matrix, kNumber},
      {"empty_like", "torch.empty_like(x).copy_(x)", matrix},
      {"empty_like_filled", "y = torch.empty_like(x)\n  y.fill_(2.5)\n  return x + y", matrix},
      {"new_zeros", "torch.cat([x, x.new_zeros([2, 6])], 0)", matrix, kAny},
      {"new_ones", "x * x.new_ones([6])", matrix, kNumber},
      {"new_full", "x + x.new_full([4, 1], 2)", matrix, kNumber},
      {"new_empty", "x + x.new_empty([2]).zero_()[0]", matrix},
      {"written_by_parts",
       "m = x.new_zeros([4, 6])\n  m[1:3, 2:] = 1\n  m[0] = 2\n  m = m - m.t().contiguous().view(4, 6)\n  return x + m",
       matrix},
      {"written_with_computed", "y = torch.zeros_like(x)\n  y.add_(x)\n  return y", matrix},
      {"written_with_computed_later", "y = torch.zeros_like(x)\n  z = y + 1\n  y.add_(x)\n  return y, z", matrix,
       kSingle, "", ""},
      {"zeros", "x + torch.zeros([6], dtype=x.dtype, device=x.device)", matrix},
      {"ones", "x + torch.ones([4, 1], device=x.device)", matrix, kNumber},
      {"full", "x + torch.full([6], 1.5, device=x.device)", matrix, kNumber},
      {"arange", "x + torch.arange(6, device=x.device)", matrix, kNumber},
      {"arange_start_step", "x + torch.arange(1, 13, 2, device=x.device)", matrix, kNumber},
      {"arange_of_size", "torch.arange(x.size(1), dtype=x.dtype, device=x.device) * x", matrix},
      {"linspace", "x + torch.linspace(0.0, 1.0, 6, device=x.device)", matrix},
      {"eye", "torch.matmul(x, torch.eye(6, dtype=x.dtype, device=x.device))", matrix},
      {"eye_m", "x + torch.eye(4, 6, dtype=x.dtype, device=x.device)", matrix},
      {"tensor", "x + torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], device=x.device)", matrix, kNumber},
      {"tensor_number", "x * torch.tensor(2.5, device=x.device)", matrix, kNumber},
      {"tensor_number_of_f64", "x * torch.tensor(2.5, dtype=torch.float64, device=x.device)", {{{4}}, {{}}}, kNumber},
      {"scalar_tensor", "x + torch.scalar_tensor(3, dtype=torch.float32, device=x.device)", matrix, kNumber},
      {"causal_mask",
       "torch.softmax(x.masked_fill(torch.ones([x.size(0), x.size(1)], device=x.device).triu(1) > 0, -1000.0), -1)",
       {{{5, 5}}}},
  };
  return cases;
}

}  // namespace torchweld::test
