#include <ATen/ops/scalar_tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/import_args.h"
#include "core/ops/constant.h"
#include "core/ops/layout.h"
#include "core/ops/pointwise.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

bool is_integer(c10::ScalarType dtype) { return c10::isIntegralType(dtype, true); }

/// Refuses integers that the dtype cannot hold; LibTorch's operators disagree about them.
void check_fits(const c10::Scalar& number, c10::ScalarType dtype) {
  if (!number.isIntegral(false) || !c10::isIntegralType(dtype, false)) return;
  bool fits = true;
  auto within = [&]<class T>(T) {
    int64_t n = number.toLong();
    fits = n >= static_cast<int64_t>(std::numeric_limits<T>::min()) &&
           n <= static_cast<int64_t>(std::numeric_limits<T>::max());
  };
  if (dtype == c10::kInt) within(int32_t{});
  if (dtype == c10::kShort) within(int16_t{});
  if (dtype == c10::kChar) within(int8_t{});
  if (dtype == c10::kByte) within(uint8_t{});
  expect(fits,
         [&] { return "the number " + std::to_string(number.toLong()) + " does not fit into " + dtype_name(dtype); });
}

/// An argument as operand of a pointwise op that computes in `dtype`. Numbers and known 0-d tensors are immediates.
Value* operand(ImportArgs& a, const std::string& name, c10::ScalarType dtype) {
  const c10::IValue& raw = a.raw(name);
  if (raw.isScalar()) {
    check_fits(raw.toScalar(), dtype);
    return a.immediate(raw.toScalar());
  }
  Value* x = a.value(name);
  const at::Tensor* known = constant_of(x);
  if (!known || !is_immediate(x->type, dtype)) return a.cast(x, dtype);
  check_fits(known->item(), dtype);
  return x;
}

Value* emit(ImportArgs& a, const char* fn, std::vector<Value*> operands) {
  return a.emit(Pointwise{.fn = fn}, operands);
}

/// The dtype in which a row computes for operands that promote to `dtype`.
c10::ScalarType computed_dtype(const PointwiseFn& fn, c10::ScalarType dtype) {
  check_pointwise_dtype(fn, dtype);
  return fn.floating_only && is_integer(dtype) ? c10::get_default_dtype_as_scalartype() : dtype;
}

/// `fn` of arguments of the given names, in the dtype that they promote to.
Value* emit_promoted(ImportArgs& a, const char* fn, std::initializer_list<const char*> names) {
  c10::ScalarType dtype = computed_dtype(*find_pointwise(fn), a.promoted(names));
  std::vector<Value*> operands;
  for (const char* name : names) operands.push_back(operand(a, name, dtype));
  return emit(a, fn, operands);
}

/// An operand that is not a number must stand beside an immediate, for the immediate has no dtype of its own.
Value* float_input(ImportArgs& a, const char* fn, const std::string& name = "self") {
  Value* x = a.value(name);
  expect(x->type.is_floating(), [&] { return std::string(fn) + ": input must be floating point"; });
  return x;
}

/// `self + sign * alpha * other`, or with `reversed` the two arguments swapped.
ImportFn import_sum(double sign, bool reversed) {
  return [=](ImportArgs& a) -> std::vector<Value*> {
    c10::ScalarType dtype = a.promoted({"self", "other"});
    expect(sign > 0 || dtype != c10::kBool, "sub: bool operands are not supported");
    c10::Scalar alpha = a.scalar("alpha");
    expect(!is_integer(dtype) || alpha.isIntegral(true), "add: alpha must be an integer for integer operands");
    Value* first = operand(a, reversed ? "other" : "self", dtype);
    Value* second = operand(a, reversed ? "self" : "other", dtype);
    if (alpha.toDouble() == 1) return {emit(a, sign > 0 ? "add" : "sub", {first, second})};
    c10::Scalar factor = alpha.isIntegral(true) ? c10::Scalar(static_cast<int64_t>(sign) * alpha.toLong())
                                                : c10::Scalar(sign * alpha.toDouble());
    return {emit(a, "add_scaled", {first, second, a.immediate(factor)})};
  };
}

Value* import_div_mode(ImportArgs& a) {
  std::string mode = a.has("rounding_mode") ? a.string("rounding_mode") : "";
  expect(mode.empty() || mode == "floor" || mode == "trunc", "div: rounding_mode must be 'floor' or 'trunc'");
  return emit_promoted(a, mode.empty() ? "div" : mode == "floor" ? "floor_div" : "trunc_div", {"self", "other"});
}

/// ceil, floor, round, trunc: integers stay as they are.
ImportFn import_rounding(const char* fn) {
  return [=](ImportArgs& a) -> std::vector<Value*> {
    Value* x = a.value("self");
    expect(x->type.dtype != c10::kBool, [&] { return std::string(fn) + ": bool operands are not supported"; });
    return {is_integer(x->type.dtype) ? x : emit(a, fn, {x})};
  };
}

Value* import_square(ImportArgs& a) {
  Value* x = a.value("self");
  return emit(a, "square", {x->type.dtype == c10::kBool ? a.cast(x, c10::kLong) : x});
}

Value* import_pow(ImportArgs& a) {
  c10::ScalarType dtype = computed_dtype(*find_pointwise("pow"), a.promoted({"self", "exponent"}));
  if (a.is_number("exponent")) {
    double exponent = a.real("exponent");
    expect(!is_integer(dtype) || exponent >= 0, "pow: integers to negative integer powers are not allowed");
    if (exponent == 2) return emit(a, "square", {operand(a, "self", dtype)});
    if (exponent == 0.5) return emit(a, "sqrt", {operand(a, "self", dtype)});
  }
  return emit(a, "pow", {operand(a, "self", dtype), operand(a, "exponent", dtype)});
}

Value* import_float_power(ImportArgs& a) {
  return emit(a, "pow", {operand(a, "self", c10::kDouble), operand(a, "exponent", c10::kDouble)});
}

Value* import_gelu(ImportArgs& a) {
  std::string approximate = a.string("approximate");
  expect(approximate == "none" || approximate == "tanh", "gelu: approximate must be 'none' or 'tanh'");
  return emit(a, approximate == "none" ? "gelu" : "gelu_tanh", {float_input(a, "gelu")});
}

Value* import_clamp(ImportArgs& a) {
  bool has_min = a.has("min");
  bool has_max = a.has("max");
  expect(has_min || has_max, "clamp: at least one of min and max must be given");
  if (has_min && has_max) return emit_promoted(a, "clamp", {"self", "min", "max"});
  return has_min ? emit_promoted(a, "maximum", {"self", "min"}) : emit_promoted(a, "minimum", {"self", "max"});
}

/// A bound of an operator whose result keeps the dtype of its input.
Value* bound(ImportArgs& a, const Value* x, const char* fn, const c10::Scalar& number) {
  if (x->type.is_floating()) return a.immediate(number);
  double value = number.toDouble();
  expect(std::floor(value) == value && std::abs(value) < 9e15,
         [&] { return std::string(fn) + ": integer input needs integer bounds"; });
  c10::Scalar whole(static_cast<int64_t>(value));
  check_fits(whole, x->type.dtype);
  return a.immediate(whole);
}

Value* emit_hardtanh(ImportArgs& a, const c10::Scalar& low, const c10::Scalar& high) {
  Value* x = a.value("self");
  expect(!(low.toDouble() > high.toDouble()), "hardtanh: min_val must not be above max_val");
  return emit(a, "clamp", {x, bound(a, x, "hardtanh", low), bound(a, x, "hardtanh", high)});
}

Value* import_threshold(ImportArgs& a) {
  Value* x = a.value("self");
  Value* limit = bound(a, x, "threshold", a.scalar("threshold"));
  return emit(a, "threshold", {x, limit, bound(a, x, "threshold", a.scalar("value"))});
}

/// An activation of one tensor and one number.
ImportFn import_with_number(const char* fn, const char* number) {
  return [=](ImportArgs& a) -> std::vector<Value*> {
    return {emit(a, fn, {float_input(a, fn), a.immediate(a.real(number))})};
  };
}

Value* import_rrelu(ImportArgs& a) {
  expect(!a.boolean("training"), "rrelu in training mode draws random numbers");
  double slope = (a.real("lower") + a.real("upper")) / 2;
  return emit(a, "leaky_relu", {float_input(a, "rrelu"), a.immediate(slope)});
}

Value* emit_elu(ImportArgs& a, double alpha, double scale) {
  return emit(a, "elu", {float_input(a, "elu"), a.immediate(alpha * scale), a.immediate(scale)});
}

Value* import_elu(ImportArgs& a) {
  expect(a.real("input_scale") == 1 && a.real("scale") != 0, "elu: input_scale must be 1 and scale not 0");
  return emit_elu(a, a.real("alpha"), a.real("scale"));
}

Value* import_celu(ImportArgs& a) {
  expect(a.real("alpha") != 0, "celu: alpha must not be 0");
  return emit(a, "celu", {float_input(a, "celu"), a.immediate(a.real("alpha"))});
}

Value* import_softplus(ImportArgs& a) {
  Value* x = float_input(a, "softplus");
  return emit(a, "softplus", {x, a.immediate(a.real("beta")), a.immediate(a.real("threshold"))});
}

Value* import_prelu(ImportArgs& a) {
  Value* x = float_input(a, "prelu");
  Value* weight = a.value("weight");
  expect(weight->type.dtype == x->type.dtype, "prelu: weight must have the dtype of the input");
  int64_t count = weight->type.numel();
  Dims shape(static_cast<size_t>(x->type.rank()), 1);
  if (count != 1) {
    expect(x->type.rank() >= 2 && x->type.shape[1] == count, "prelu: weight must have one number per channel");
    shape[1] = count;
  }
  return emit(a, "leaky_relu", {x, a.emit(Reshape{.shape = shape}, {weight})});
}

Value* import_glu(ImportArgs& a) {
  Value* x = float_input(a, "glu");
  expect(x->type.rank() > 0, "glu: input must have a dimension");
  int64_t axis = a.axis("dim", x);
  int64_t size = x->type.shape[axis];
  expect(size % 2 == 0, "glu: the size of the halved dimension must be even");
  Value* half = a.emit(Slice{.axis = axis, .start = 0, .end = size / 2}, {x});
  return emit(a, "glu", {half, a.emit(Slice{.axis = axis, .start = size / 2, .end = size}, {x})});
}

/// self + value * tensor1 * tensor2, or with / for `fn` addcdiv.
ImportFn import_addc(const char* fn) {
  return [=](ImportArgs& a) -> std::vector<Value*> {
    c10::ScalarType dtype = a.promoted({"self", "tensor1", "tensor2"});
    c10::Scalar factor = a.scalar("value");
    expect(!is_integer(dtype) || factor.isIntegral(true),
           [&] { return std::string(fn) + ": value must be an integer for integers"; });
    Value* first = operand(a, "tensor1", dtype);
    if (factor.toDouble() != 1) first = emit(a, "mul", {first, a.immediate(factor)});
    return {emit(a, fn, {operand(a, "self", dtype), first, operand(a, "tensor2", dtype)})};
  };
}

Value* import_lerp(ImportArgs& a) {
  c10::ScalarType dtype = a.promoted({"self", "end"});
  for (const char* name : {"self", "end", "weight"}) {
    bool has_dtype = a.raw(name).isTensor() && a.raw(name).toTensor().scalar_type() != dtype;
    expect(!has_dtype, "lerp: operands must have one dtype");
  }
  return emit(a, "lerp", {operand(a, "self", dtype), operand(a, "end", dtype), operand(a, "weight", dtype)});
}

/// The condition of "where"; a 0-d one gets a dimension where it can, for it is no immediate.
Value* condition_of(ImportArgs& a, const std::string& name, int64_t rank) {
  Value* condition = a.cast(a.value(name), c10::kBool);
  if (condition->type.rank() > 0 || rank == 0) return condition;
  return a.emit(Reshape{.shape = {1}}, {condition});
}

Value* import_where(ImportArgs& a) {
  c10::ScalarType dtype = a.promoted({"self", "other"});
  Value* x = operand(a, "self", dtype);
  Value* y = operand(a, "other", dtype);
  if (is_immediate(x->type, dtype) && is_immediate(y->type, dtype)) {
    at::Tensor number = at::scalar_tensor(*number_of(x), at::TensorOptions(dtype).device(a.device()));
    x = a.emit(Constant{.value = number, .name = ""}, {});
  }
  return emit(a, "where", {condition_of(a, "condition", std::max(x->type.rank(), y->type.rank())), x, y});
}

/// A number as an operator writes it into a tensor of `dtype`.
c10::Scalar number_as(const c10::Scalar& number, c10::ScalarType dtype) {
  if (dtype == c10::kBool) return number.toDouble() != 0;
  if (!c10::isIntegralType(dtype, false)) return number;
  double value = number.toDouble();
  expect(std::abs(value) < 9e18, [&] { return "the number does not fit into " + dtype_name(dtype); });
  c10::Scalar whole = number.isIntegral(true) ? c10::Scalar(number.toLong()) : c10::Scalar(static_cast<int64_t>(value));
  check_fits(whole, dtype);
  return whole;
}

Value* number_or_tensor(ImportArgs& a, const std::string& name, const Value* like) {
  if (a.is_number(name)) return a.immediate(number_as(a.scalar(name), like->type.dtype));
  Value* value = a.value(name);
  expect(value->type.rank() == 0, "the value to fill in must be a number or a 0-d tensor");
  return operand(a, name, like->type.dtype);
}

Value* import_masked_fill(ImportArgs& a) {
  Value* x = a.value("self");
  expect(a.value("mask")->type.dtype == c10::kBool, "masked_fill: the mask must be bool");
  return emit(a, "where", {condition_of(a, "mask", x->type.rank()), number_or_tensor(a, "value", x), x});
}

Value* import_fill(ImportArgs& a) {
  Value* x = a.value("self");
  return emit(a, "where", {a.immediate(true), number_or_tensor(a, "value", x), x});
}

Value* import_zero(ImportArgs& a) {
  Value* x = a.value("self");
  return emit(a, "where", {a.immediate(true), a.immediate(number_as(0, x->type.dtype)), x});
}

Value* import_copy(ImportArgs& a) {
  Value* x = a.value("self");
  // A number becomes a tensor here, which lies where the result does.
  Value* y = a.cast(a.exact_value("src"), x->type.dtype);
  if (y->type.shape != x->type.shape) y = a.emit(Expand{.shape = x->type.shape}, {y});
  Dims strides = dense_strides_like(x->type.shape, x->type.strides);
  return same_layout(x->type.shape, y->type.strides, strides) ? y : a.emit(Copy{.strides = strides}, {y});
}

/// `to` in all its forms: dtype, memory format and copy as far as the overload has them. Moves between devices stay
/// in LibTorch.
Value* import_to(ImportArgs& a) {
  Value* x = a.value("self");
  if (a.has("device")) {
    c10::Device device = a.raw("device").toDevice();
    bool same =
        device.type() == x->type.device.type() && (!device.has_index() || device.index() == x->type.device.index());
    expect(same, "to: moves a tensor to another device");
  }
  expect(!a.has("layout") || a.integer("layout") == static_cast<int64_t>(c10::kStrided), "to: layout must be strided");
  std::optional<c10::ScalarType> dtype = a.dtype("dtype");
  if (a.has("other")) dtype = a.value("other")->type.dtype;
  Value* y = dtype ? a.cast(x, *dtype) : x;
  if (a.has("memory_format")) y = emit_memory_format(a, y, a.integer("memory_format"));
  bool copies = y == x && a.has("copy") && a.boolean("copy");
  return copies ? a.emit(Copy{.strides = dense_strides_like(x->type.shape, x->type.strides)}, {x}) : y;
}

Value* import_type_as(ImportArgs& a) { return a.cast(a.value("self"), a.raw("other").toTensor().scalar_type()); }

/// What LibTorch makes of `with torch.autocast(...)`: where that is enabled for the device, f32 is cast to the dtype of
/// the block ahead of products, or f16 and bf16 to f32 ahead of what needs it.
Value* import_autocast(ImportArgs& a) {
  Value* x = a.value("self");
  const bool on_cuda = x->type.device.is_cuda();
  if (!a.boolean(on_cuda ? "cuda_enabled" : "cpu_enabled")) return x;
  if (!a.has("cuda_dtype"))
    return x->type.dtype == c10::kHalf || x->type.dtype == c10::kBFloat16 ? a.cast(x, c10::kFloat) : x;
  return x->type.dtype == c10::kFloat ? a.cast(x, *a.dtype(on_cuda ? "cuda_dtype" : "cpu_dtype")) : x;
}

Value* import_dropout(ImportArgs& a) {
  expect(!a.boolean("train") || a.real("p") == 0, "dropout in training mode draws random numbers");
  return a.value("input");
}

using PointwiseBuilder = OpSet::Builder<Pointwise>;

void define_arithmetic(PointwiseBuilder& op) {
  for (const char* name : {"add", "sub", "rsub", "subtract"}) {
    double sign = std::string_view(name) == "add" ? 1 : -1;
    bool reversed = std::string_view(name) == "rsub";
    for (const char* overload : {".Tensor", ".Scalar"}) {
      op.import(std::string("aten::") + name + overload, import_sum(sign, reversed));
    }
  }
  for (const char* name :
       {"aten::div.Tensor_mode", "aten::div.Scalar_mode", "aten::divide.Tensor_mode", "aten::divide.Scalar_mode"}) {
    op.import(name, import_div_mode);
  }
  // In-place forms whose overloads are named otherwise.
  op.import("aten::pow_.Tensor", import_pow);
  op.import("aten::float_power_.Tensor", import_float_power);
  op.import("aten::floor_divide_.Tensor",
            [](ImportArgs& a) { return emit_promoted(a, "floor_div", {"self", "other"}); });
  op.import("aten::ceil", import_rounding("ceil"))
      .import("aten::floor", import_rounding("floor"))
      .import("aten::round", import_rounding("round"))
      .import("aten::trunc", import_rounding("trunc"))
      .import("aten::fix", import_rounding("trunc"))
      .import("aten::square", import_square)
      .import("aten::addcmul", import_addc("addcmul"))
      .import("aten::addcdiv", import_addc("addcdiv"))
      .import("aten::lerp.Scalar", import_lerp)
      .import("aten::lerp.Tensor", import_lerp);
  for (const char* name : {".Tensor_Tensor", ".Tensor_Scalar", ".Scalar"}) {
    op.import(std::string("aten::pow") + name, import_pow);
    op.import(std::string("aten::float_power") + name, import_float_power);
  }
}

void define_activations(PointwiseBuilder& op) {
  op.import("aten::gelu", import_gelu)
      .import("aten::relu6", [](ImportArgs& a) { return emit_hardtanh(a, 0, 6); })
      .import("aten::hardtanh",
              [](ImportArgs& a) { return emit_hardtanh(a, a.scalar("min_val"), a.scalar("max_val")); })
      .import("aten::threshold", import_threshold)
      .import("aten::leaky_relu", import_with_number("leaky_relu", "negative_slope"))
      .import("aten::hardshrink", import_with_number("hardshrink", "lambd"))
      .import("aten::softshrink", import_with_number("softshrink", "lambd"))
      .import("aten::prelu", import_prelu)
      .import("aten::rrelu", import_rrelu)
      .import("aten::elu", import_elu)
      .import("aten::selu",
              [](ImportArgs& a) {
                return emit_elu(a, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946);
              })
      .import("aten::celu", import_celu)
      .import("aten::softplus", import_softplus)
      .import("aten::glu", import_glu);
  for (const char* name : {"aten::clamp", "aten::clamp.Tensor", "aten::clip", "aten::clip.Tensor"}) {
    op.import(name, import_clamp);
  }
  for (const char* name : {"aten::clamp_min", "aten::clamp_min.Tensor"}) {
    op.import(name, [](ImportArgs& a) { return emit_promoted(a, "maximum", {"self", "min"}); });
  }
  for (const char* name : {"aten::clamp_max", "aten::clamp_max.Tensor"}) {
    op.import(name, [](ImportArgs& a) { return emit_promoted(a, "minimum", {"self", "max"}); });
  }
}

void define_choices(PointwiseBuilder& op) {
  for (const char* name :
       {"aten::where.self", "aten::where.ScalarSelf", "aten::where.ScalarOther", "aten::where.Scalar"}) {
    op.import(name, import_where);
  }
  op.import("aten::masked_fill.Scalar", import_masked_fill)
      .import("aten::masked_fill.Tensor", import_masked_fill)
      .import("aten::fill.Scalar", import_fill)
      .import("aten::fill.Tensor", import_fill)
      .import("aten::zero", import_zero)
      .import("aten::copy", import_copy);
  for (const char* name :
       {"aten::dropout", "aten::feature_dropout", "aten::alpha_dropout", "aten::feature_alpha_dropout"}) {
    op.import(name, import_dropout);
  }
}

}  // namespace

void define_pointwise_imports(OpSet::Builder<Pointwise>& op) {
  for (const PointwiseFn& row : pointwise_table()) {
    for (const char* schema : row.schemas) {
      op.import(schema, [&row](ImportArgs& a) {
        return row.arity == 1 ? emit_promoted(a, row.name, {"self"}) : emit_promoted(a, row.name, {"self", "other"});
      });
    }
  }
  define_arithmetic(op);
  define_activations(op);
  define_choices(op);
}

void define_cast_imports(OpSet::Builder<Cast>& cast) {
  for (const char* overload : {"device", "dtype", "other", "dtype_layout", "prim_Device", "prim_dtype", "prim_other"}) {
    cast.import(std::string("aten::to.") + overload, import_to);
  }
  cast.import("aten::type_as", import_type_as);
  cast.import("aten::_autocast_to_reduced_precision", import_autocast);
  cast.import("aten::_autocast_to_full_precision", import_autocast);
}

}  // namespace torchweld
