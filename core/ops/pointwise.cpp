#include "core/ops/pointwise.h"

#include <ATen/ops/scalar_tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/import_args.h"
#include "core/ops/constant.h"
#include "core/ops/layout.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

constexpr std::array kDtypes{c10::kFloat, c10::kDouble, c10::kHalf, c10::kBFloat16, c10::kLong,
                             c10::kInt,   c10::kShort,  c10::kChar, c10::kByte,     c10::kBool};

bool number_dtype(c10::ScalarType dtype) { return dtype == c10::kDouble || dtype == c10::kLong || dtype == c10::kBool; }

TensorType infer_pointwise(const Pointwise& a, Types in) {
  const PointwiseFn* fn = find_pointwise(a.fn);
  check(fn != nullptr, [&] { return "no pointwise function is called " + a.fn; });
  expect(in.size() == static_cast<size_t>(fn->arity),
         [&] { return a.fn + ": takes " + std::to_string(fn->arity) + " operands, not " + std::to_string(in.size()); });
  c10::ScalarType dtype = operand_dtype(in);
  check_pointwise_dtype(*fn, dtype);
  expect(!fn->floating_only || c10::isFloatingType(dtype), [&] { return a.fn + ": operands must be floating point"; });
  bool is_where = a.fn == "where";
  expect(!is_where || in[0].dtype == c10::kBool, "where: the condition must be bool");
  Dims shape;
  c10::Device device = in[0].device;
  for (size_t i = 0; i < in.size(); ++i) {
    expect(in[i].dtype == dtype || is_immediate(in[i], dtype) || (is_where && i == 0), [&] {
      return a.fn + ": operands must have one dtype, not " + dtype_name(dtype) + " and " + dtype_name(in[i].dtype);
    });
    shape = broadcast_shapes(shape, in[i].shape);
    if (!in[i].device.is_cpu()) device = in[i].device;
  }
  Dims strides = result_strides(shape, in);
  return {fn->result == PointwiseFn::Result::kBool ? c10::kBool : dtype, std::move(shape), std::move(strides), device};
}

/// Runs the row's ATen line with immediates marked as wrapped numbers, which is lost when a graph is saved.
at::Tensor run_pointwise(const Pointwise& a, Tensors in) {
  const PointwiseFn* fn = find_pointwise(a.fn);
  std::vector<at::Tensor> operands(in.begin(), in.end());
  std::vector<TensorType> types;
  for (const at::Tensor& tensor : in) types.push_back(type_of(tensor));
  c10::ScalarType dtype = operand_dtype(types);
  for (size_t i = 0; i < operands.size(); ++i) {
    if (!is_immediate(types[i], dtype) || !operands[i].is_cpu() || (i == 0 && a.fn == "where")) continue;
    operands[i] = at::scalar_tensor(operands[i].item(), types[i].dtype);
    operands[i].unsafeGetTensorImpl()->set_wrapped_number(true);
  }
  return fn->aten(operands).to(fn->result == PointwiseFn::Result::kBool ? c10::kBool : dtype);
}

TensorType infer_cast(const Cast& a, Types in) {
  expect(in.size() == 1, "cast: takes one operand");
  for (c10::ScalarType dtype : {a.dtype, in[0].dtype}) {
    expect(std::find(kDtypes.begin(), kDtypes.end(), dtype) != kDtypes.end(),
           [&] { return "cast: elements of " + dtype_name(dtype) + " are not supported"; });
  }
  return {a.dtype, in[0].shape, result_strides(in[0].shape, in), in[0].device};
}

}  // namespace

void check_pointwise_dtype(const PointwiseFn& fn, c10::ScalarType dtype) {
  using Refuses = PointwiseFn::Refuses;
  std::string name = fn.name;
  bool is_integer = c10::isIntegralType(dtype, true);
  expect(std::find(kDtypes.begin(), kDtypes.end(), dtype) != kDtypes.end(),
         [&] { return name + ": elements of " + dtype_name(dtype) + " are not supported"; });
  expect(fn.refuses != Refuses::kIntegers || !is_integer, [&] { return name + ": operands must be floating point"; });
  expect(fn.refuses != Refuses::kFloats || is_integer, [&] { return name + ": operands must be integers or bool"; });
  expect(fn.refuses != Refuses::kBools || dtype != c10::kBool,
         [&] { return name + ": bool operands are not supported"; });
}

const PointwiseFn* find_pointwise(const std::string& name) {
  static const std::unordered_map<std::string, const PointwiseFn*> by_name = [] {
    std::unordered_map<std::string, const PointwiseFn*> rows;
    for (const PointwiseFn& row : pointwise_table()) rows[row.name] = &row;
    return rows;
  }();
  auto found = by_name.find(name);
  return found == by_name.end() ? nullptr : found->second;
}

bool is_immediate(const TensorType& operand, c10::ScalarType dtype) {
  return operand.rank() == 0 && operand.dtype != dtype && number_dtype(operand.dtype);
}

c10::ScalarType operand_dtype(Types in) {
  // b8 operands beside others are conditions; 0-d operands of the dtypes of immediates are immediates beside others,
  // and among themselves stand in the order f64, i64, b8.
  auto rank = [](const TensorType& type) {
    if (type.dtype == c10::kBool) return 0;
    if (type.rank() > 0 || !number_dtype(type.dtype)) return 3;
    return type.dtype == c10::kDouble ? 2 : 1;
  };
  const TensorType* best = &in[0];
  for (const TensorType& type : in) {
    if (rank(type) > rank(*best)) best = &type;
  }
  return best->dtype;
}

Dims result_strides(const Dims& shape, Types in) {
  for (const TensorType& type : in) {
    if (type.shape != shape) continue;
    if (is_dense(type)) return type.strides;
    bool repeats = false;
    for (size_t i = 0; i < shape.size(); ++i) repeats |= shape[i] > 1 && type.strides[i] == 0;
    if (!repeats) return dense_strides_like(shape, type.strides);
  }
  return contiguous_strides(shape);
}

void define_pointwise(OpSet& ops) {
  auto op = ops.add<Pointwise>("pointwise");
  op.infer(infer_pointwise).aten(run_pointwise);
  define_pointwise_imports(op);
  auto cast = ops.add<Cast>("cast");
  cast.infer(infer_cast).aten([](const Cast& a, Tensors in) { return in[0].to(a.dtype); });
  define_cast_imports(cast);
}

}  // namespace torchweld
