// Ops that compute each output element from one element of each operand.
#pragma once

#include "core/graph.h"

namespace torchweld {

/// One row of the pointwise table. Operands broadcast; all operands have one dtype, except immediates (0-d f64, i64 or
/// b8 constants made by Constant::immediate), which take the dtype of the others, and the first operand of "where",
/// which is b8. Arithmetic on f16 and bf16 is done in f32 and rounded once at the end; inside a fused body it is not
/// rounded between nodes. Integers wrap around. An integer divided by zero is whatever the device makes of it on CUDA,
/// and an exception of LibTorch's on the CPU, so kernels for the CPU leave div, remainder and fmod of integers to ATen.
struct Pointwise {
  std::string fn;  ///< Name of the row, e.g. "relu".
  void fields(auto&& f) { f("fn", fn); }
};

/// Converts to another dtype as `Tensor.to(dtype)` does.
struct Cast {
  c10::ScalarType dtype = c10::kFloat;
  void fields(auto&& f) { f("dtype", dtype); }
};

/// A row of the table: what a pointwise function means and how it is spelled.
struct PointwiseFn {
  enum class Result { kSame, kBool };
  enum class Refuses { kNothing, kBools, kIntegers, kFloats };
  const char* name;
  int arity;
  Result result;  ///< Dtype of the result: that of the operands, or b8.
  /// C++ expression in a, b, c of compute type T (f32 for f16 and bf16, else the dtype itself) for device code. It may
  /// name T, and functions tw::f that the device code defines for the types that the row takes.
  const char* device;
  at::Tensor (*aten)(Tensors);
  /// Operators that mean just this function of their arguments `self` and `other`, in the dtype they promote to. All
  /// others (with alpha, rounding mode, bounds ...) have an importer of their own in pointwise.cpp.
  std::vector<const char*> schemas = {};
  /// Operands are floating point; integer arguments are converted to f32 first (sqrt, sigmoid, true div).
  bool floating_only = false;
  /// Dtypes for which LibTorch's operators raise; they are refused. kIntegers includes bool.
  Refuses refuses = Refuses::kNothing;
};

const std::vector<PointwiseFn>& pointwise_table();
/// Null when there is no such row.
const PointwiseFn* find_pointwise(const std::string& name);
/// True for a 0-d operand of a dtype other than `dtype` that only brings a number (see Pointwise).
bool is_immediate(const TensorType& operand, c10::ScalarType dtype);
/// The dtype in which operands of these types are computed: that of the first operand that is neither an immediate nor
/// the condition of "where".
c10::ScalarType operand_dtype(Types in);
/// Strides of a result of `shape` whose operands have these types: those of the first operand of full size without
/// repeated elements, closed up where they have gaps; row-major when there is none.
Dims result_strides(const Dims& shape, Types in);

/// Throws Unsupported when the row does not take operands of `dtype`.
void check_pointwise_dtype(const PointwiseFn& fn, c10::ScalarType dtype);

/// The importers of the family.
void define_pointwise_imports(OpSet::Builder<Pointwise>& op);
void define_cast_imports(OpSet::Builder<Cast>& cast);
void define_pointwise(OpSet& ops);

}  // namespace torchweld
