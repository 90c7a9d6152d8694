// Normalisations.
#pragma once

#include "core/graph.h"

namespace torchweld {

/// (x - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c] along dimension 1 of x, with given statistics (inference).
/// Inputs: x, weight, bias, mean, var; the last four [C] of any floating dtype.
struct BatchNorm {
  double eps = 1e-5;
  void fields(auto&& f) { f("eps", eps); }
};

/// Normalises over the last `rank` dimensions: (x - mean) / sqrt(var + eps) [* weight [+ bias]]. Inputs: x, then weight
/// and bias of those dimensions' sizes where there are any. Statistics in f32, in two passes.
struct LayerNorm {
  int64_t rank = 1;
  double eps = 1e-5;
  void fields(auto&& f) {
    f("rank", rank);
    f("eps", eps);
  }
};

/// Normalises each of `groups` groups of channels over channels and space. Inputs: x [N,C,...], then weight [C] and
/// bias [C] where there are any. Statistics in f32, in two passes.
struct GroupNorm {
  int64_t groups = 1;
  double eps = 1e-5;
  void fields(auto&& f) {
    f("groups", groups);
    f("eps", eps);
  }
};

/// x / sqrt(mean(x^2) + eps) [* weight] over the last `rank` dimensions. Inputs: x, then weight of those dimensions'
/// sizes where there is one. Without eps the smallest difference from 1 that the dtype of x (f32 for f16 and bf16) can
/// hold. Statistics in f32.
struct RmsNorm {
  int64_t rank = 1;
  std::optional<double> eps;
  void fields(auto&& f) {
    f("rank", rank);
    f("eps", eps);
  }
  double eps_for(c10::ScalarType dtype) const;
};

/// True for layer or RMS normalisation over the last dimension.
bool is_row_norm(const Node& node);

void define_norm(OpSet& ops);

}  // namespace torchweld
