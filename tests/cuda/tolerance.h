// The one tolerance rule, for the tests of kernels.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace torchweld::cuda_tests {

/// Distance of neighbouring numbers at 1, of those that `dtype` is multiplied in: f32 may stand for TF32.
double rounding_unit(c10::ScalarType dtype, bool allow_tf32);
/// Against a run in f64, `ours` may be at most twice as far off as `eager`, plus one rounding unit at the largest
/// number among inputs and result. Integers, bools, NaN and infinities must be the same. Empty when it holds, else what
/// is wrong. The rule of tests/ops/harness.h, but wider in f64: eager counts as at least 4 units off (there 1), because
/// sums in another order were seen 3.9 units apart.
std::string compare(const at::Tensor& ours, const at::Tensor& eager, const at::Tensor& reference, double largest_input,
                    double unit);
/// The largest finite magnitude in floating tensors; 0 when there is none.
double largest_number(const std::vector<at::Tensor>& tensors);

}  // namespace torchweld::cuda_tests
