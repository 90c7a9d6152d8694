// The one tolerance rule of the C++ tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace torchweld::test {

/// Distance of neighbouring numbers at 1, of those that `dtype` is multiplied in: with `allow_tf32`, f32 stands for
/// TF32.
double rounding_unit(c10::ScalarType dtype, bool allow_tf32 = false);
/// Against a run in f64, `engine` may be at most twice as far off as `eager`, plus two rounding units at the largest
/// number among inputs and result. One unit was too little: on few numbers eager is now and then exact by luck, and
/// LibTorch's own kernels for one operator (attention in f32) lie that far apart. A run in f64 is its own reference, so
/// eager's error is not seen; it counts as 4 units, because sums in another order were seen 3.9 apart. Integers and
/// bools must be the same, NaN and infinities those of eager or of the run in f64; of numbers that only eager makes NaN
/// or infinite, the distance from the run in f64 counts. Empty when it holds, else what is wrong.
std::string compare(const at::Tensor& engine, const at::Tensor& eager, const at::Tensor& reference,
                    double largest_input, bool allow_tf32 = false);
/// The largest finite magnitude in floating tensors; 0 when there is none.
double largest_number(const std::vector<at::Tensor>& tensors);

}  // namespace torchweld::test
