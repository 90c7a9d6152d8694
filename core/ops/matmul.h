// Matrix products.
#pragma once

#include "core/graph.h"

namespace torchweld {

/// torch.matmul for operands of rank 2 and more: [..., M, K] x [..., K, N] -> [..., M, N], leading dimensions
/// broadcast. Importers bring 1-d operands to this form with reshapes. Sums in f32 (f64 for f64).
struct Matmul {
  void fields(auto&&) {}
};

/// x [..., K] times weight [N, K] transposed, plus optionally bias [N] -> [..., N]. Sums in f32 (f64 for f64).
struct Linear {
  void fields(auto&&) {}
};

/// einsum of one or two operands as products of matrices; others run as the generic op.
void define_einsum_import(OpSet::Builder<Matmul>& op);
void define_matmul(OpSet& ops);

}  // namespace torchweld
