// Constants: weights and the numbers of the program.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Scalar.h>

#include "core/graph.h"
#include "core/lazy_tensor.h"

namespace torchweld {

/// A tensor known at compile time. No inputs.
struct Constant {
  LazyTensor value;
  std::string name;  ///< Where it comes from, e.g. "layer1.0.conv1.weight"; empty for computed ones.

  /// A number that takes no part in type promotion, like a Python scalar: 0-d, f64, i64 or b8, and marked as wrapped
  /// number. Pointwise ops take immediates beside operands of any dtype.
  static Constant immediate(const c10::Scalar& number, c10::Device device);

  void fields(auto&& f) {
    f("value", value);
    f("name", name);
  }
};

/// The tensor of a constant value, which is computed now where nobody has read it yet; null for other values.
const at::Tensor* constant_of(const Value* value);
/// The same, left as it is.
const LazyTensor* lazy_constant_of(const Value* value);
/// The number of a 0-d constant; nothing when the value is no 0-d constant.
std::optional<double> number_of(const Value* value);

void define_constant(OpSet& ops);

}  // namespace torchweld
