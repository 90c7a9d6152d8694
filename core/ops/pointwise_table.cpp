#include <ATen/ops/abs.h>
#include <ATen/ops/acos.h>
#include <ATen/ops/acosh.h>
#include <ATen/ops/add.h>
#include <ATen/ops/addcdiv.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/asin.h>
#include <ATen/ops/asinh.h>
#include <ATen/ops/atan.h>
#include <ATen/ops/atan2.h>
#include <ATen/ops/atanh.h>
#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/bitwise_not.h>
#include <ATen/ops/bitwise_or.h>
#include <ATen/ops/bitwise_xor.h>
#include <ATen/ops/ceil.h>
#include <ATen/ops/celu.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/cosh.h>
#include <ATen/ops/div.h>
#include <ATen/ops/elu.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/erf.h>
#include <ATen/ops/erfc.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/exp2.h>
#include <ATen/ops/expm1.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/fmax.h>
#include <ATen/ops/fmin.h>
#include <ATen/ops/fmod.h>
#include <ATen/ops/frac.h>
#include <ATen/ops/ge.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gt.h>
#include <ATen/ops/hardshrink.h>
#include <ATen/ops/hardsigmoid.h>
#include <ATen/ops/hardswish.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/isinf.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/le.h>
#include <ATen/ops/leaky_relu.h>
#include <ATen/ops/lerp.h>
#include <ATen/ops/log.h>
#include <ATen/ops/log10.h>
#include <ATen/ops/log1p.h>
#include <ATen/ops/log2.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/logical_not.h>
#include <ATen/ops/logical_or.h>
#include <ATen/ops/logical_xor.h>
#include <ATen/ops/lt.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/mish.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ne.h>
#include <ATen/ops/neg.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/remainder.h>
#include <ATen/ops/round.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sign.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/sinh.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/softshrink.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/square.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/tan.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/threshold.h>
#include <ATen/ops/trunc.h>
#include <ATen/ops/where.h>

#include "core/ops/pointwise.h"

namespace torchweld {
namespace {

template <at::Tensor (*F)(const at::Tensor&)>
at::Tensor unary(Tensors in) {
  return F(in[0]);
}

template <at::Tensor (*F)(const at::Tensor&, const at::Tensor&)>
at::Tensor binary(Tensors in) {
  return F(in[0], in[1]);
}

bool is_number(const at::Tensor& tensor) { return tensor.dim() == 0 && tensor.is_cpu(); }

at::Tensor clamp(Tensors in) {
  if (is_number(in[1]) && is_number(in[2])) return at::clamp(in[0], in[1].item(), in[2].item());
  return at::clamp(in[0], std::optional(in[1]), std::optional(in[2]));
}

at::Tensor lerp(Tensors in) {
  return is_number(in[2]) ? at::lerp(in[0], in[1], in[2].item()) : at::lerp(in[0], in[1], in[2]);
}

at::Tensor leaky_relu(Tensors in) {
  if (is_number(in[1])) return at::leaky_relu(in[0], in[1].item());
  return at::where(at::gt(in[0], 0), in[0], at::mul(in[0], in[1]));
}

at::Tensor add_scaled(Tensors in) {
  return is_number(in[2]) ? at::add(in[0], in[1], in[2].item()) : at::addcmul(in[0], in[1], in[2]);
}

using Refuses = PointwiseFn::Refuses;
constexpr auto kBools = Refuses::kBools;
constexpr auto kIntegers = Refuses::kIntegers;
constexpr auto kFloats = Refuses::kFloats;
constexpr auto kSame = PointwiseFn::Result::kSame;
constexpr auto kBool = PointwiseFn::Result::kBool;

// The rows below name these functions of the device code, for float and double unless stated otherwise:
//   tw::exp exp2 expm1 log log2 log10 log1p sqrt rsqrt sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf
//   erfc gelu ceil floor trunc, round (halves to even), atan2(a, b)
//   for every type: tw::abs, max, min (NaN wins), fmax, fmin (the other operand wins over NaN), isnan,
//     isinf, isfinite, floor_div (rounds to minus infinity), trunc_div, remainder (sign of b), fmod (sign of a), pow
//     (of integers by repeated squaring; a negative exponent gives 0 unless a is 1 or -1)
//   for integers and bool: tw::bitwise_not (bool: logical not)
std::vector<PointwiseFn> unary_rows() {
  return {
      {"relu", 1, kSame, "tw::max(a, T(0))", unary<at::relu>, {"aten::relu"}, false, kBools},
      {"neg", 1, kSame, "-a", unary<at::neg>, {"aten::neg", "aten::negative"}, false, kBools},
      {"abs", 1, kSame, "tw::abs(a)", unary<at::abs>, {"aten::abs", "aten::absolute"}, false, kBools},
      {"sign", 1, kSame, "T((T(0) < a) - (a < T(0)))", unary<at::sign>, {"aten::sign", "aten::sgn"}},
      {"square", 1, kSame, "a * a", unary<at::square>, {}},
      {"ceil", 1, kSame, "tw::ceil(a)", unary<at::ceil>, {}, true},
      {"floor", 1, kSame, "tw::floor(a)", unary<at::floor>, {}, true},
      {"round", 1, kSame, "tw::round(a)", unary<at::round>, {}, true},
      {"trunc", 1, kSame, "tw::trunc(a)", unary<at::trunc>, {}, true},
      {"frac", 1, kSame, "a - tw::trunc(a)", unary<at::frac>, {"aten::frac"}, true, kIntegers},
      {"bitwise_not", 1, kSame, "tw::bitwise_not(a)", unary<at::bitwise_not>, {"aten::bitwise_not"}, false, kFloats},
      {"logical_not", 1, kBool, "a == T(0)", unary<at::logical_not>, {"aten::logical_not"}},
      {"isnan", 1, kBool, "tw::isnan(a)", unary<at::isnan>, {"aten::isnan"}},
      {"isinf", 1, kBool, "tw::isinf(a)", unary<at::isinf>, {"aten::isinf"}},
      {"isfinite", 1, kBool, "tw::isfinite(a)", unary<at::isfinite>, {"aten::isfinite"}},
      {"reciprocal", 1, kSame, "T(1) / a", unary<at::reciprocal>, {"aten::reciprocal"}, true},
      {"sqrt", 1, kSame, "tw::sqrt(a)", unary<at::sqrt>, {"aten::sqrt"}, true},
      {"rsqrt", 1, kSame, "tw::rsqrt(a)", unary<at::rsqrt>, {"aten::rsqrt"}, true},
      {"exp", 1, kSame, "tw::exp(a)", unary<at::exp>, {"aten::exp"}, true},
      {"exp2", 1, kSame, "tw::exp2(a)", unary<at::exp2>, {"aten::exp2"}, true},
      {"expm1", 1, kSame, "tw::expm1(a)", unary<at::expm1>, {"aten::expm1"}, true},
      {"log", 1, kSame, "tw::log(a)", unary<at::log>, {"aten::log"}, true},
      {"log2", 1, kSame, "tw::log2(a)", unary<at::log2>, {"aten::log2"}, true},
      {"log10", 1, kSame, "tw::log10(a)", unary<at::log10>, {"aten::log10"}, true},
      {"log1p", 1, kSame, "tw::log1p(a)", unary<at::log1p>, {"aten::log1p"}, true},
      {"sin", 1, kSame, "tw::sin(a)", unary<at::sin>, {"aten::sin"}, true},
      {"cos", 1, kSame, "tw::cos(a)", unary<at::cos>, {"aten::cos"}, true},
      {"tan", 1, kSame, "tw::tan(a)", unary<at::tan>, {"aten::tan"}, true},
      {"asin", 1, kSame, "tw::asin(a)", unary<at::asin>, {"aten::asin", "aten::arcsin"}, true},
      {"acos", 1, kSame, "tw::acos(a)", unary<at::acos>, {"aten::acos", "aten::arccos"}, true},
      {"atan", 1, kSame, "tw::atan(a)", unary<at::atan>, {"aten::atan", "aten::arctan"}, true},
      {"sinh", 1, kSame, "tw::sinh(a)", unary<at::sinh>, {"aten::sinh"}, true},
      {"cosh", 1, kSame, "tw::cosh(a)", unary<at::cosh>, {"aten::cosh"}, true},
      {"tanh", 1, kSame, "tw::tanh(a)", unary<at::tanh>, {"aten::tanh"}, true},
      {"asinh", 1, kSame, "tw::asinh(a)", unary<at::asinh>, {"aten::asinh", "aten::arcsinh"}, true},
      {"acosh", 1, kSame, "tw::acosh(a)", unary<at::acosh>, {"aten::acosh", "aten::arccosh"}, true},
      {"atanh", 1, kSame, "tw::atanh(a)", unary<at::atanh>, {"aten::atanh", "aten::arctanh"}, true},
      {"erf", 1, kSame, "tw::erf(a)", unary<at::erf>, {"aten::erf", "aten::special_erf"}, true},
      {"erfc", 1, kSame, "tw::erfc(a)", unary<at::erfc>, {"aten::erfc", "aten::special_erfc"}, true},
      {"sigmoid",
       1,
       kSame,
       "T(1) / (T(1) + tw::exp(-a))",
       unary<at::sigmoid>,
       {"aten::sigmoid", "aten::special_expit"},
       true},
      {"log_sigmoid",
       1,
       kSame,
       "tw::min(a, T(0)) - tw::log1p(tw::exp(-tw::abs(a)))",
       unary<at::log_sigmoid>,
       {"aten::log_sigmoid"},
       true,
       kIntegers},
      {"silu", 1, kSame, "a / (T(1) + tw::exp(-a))", unary<at::silu>, {"aten::silu"}, true, kIntegers},
      {"mish", 1, kSame, "a * tw::tanh(tw::log1p(tw::exp(a)))", unary<at::mish>, {"aten::mish"}, true, kIntegers},
      {"hardswish",
       1,
       kSame,
       "a * tw::min(tw::max(a + T(3), T(0)), T(6)) / T(6)",
       unary<at::hardswish>,
       {"aten::hardswish"},
       true,
       kIntegers},
      {"hardsigmoid",
       1,
       kSame,
       "tw::min(tw::max(a + T(3), T(0)), T(6)) / T(6)",
       unary<at::hardsigmoid>,
       {"aten::hardsigmoid"},
       true,
       kIntegers},
      {"gelu", 1, kSame, "tw::gelu(a)", [](Tensors in) { return at::gelu(in[0]); }, {}, true, kIntegers},
      {"gelu_tanh",
       1,
       kSame,
       "T(0.5) * a * (T(1) + tw::tanh(T(0.79788456080286535588) * (a + T(0.044715) * a * a * a)))",
       [](Tensors in) { return at::gelu(in[0], "tanh"); },
       {},
       true,
       kIntegers},
  };
}

std::vector<PointwiseFn> binary_rows() {
  return {
      {"add", 2, kSame, "a + b", [](Tensors in) { return at::add(in[0], in[1]); }, {}},
      {"sub", 2, kSame, "a - b", [](Tensors in) { return at::sub(in[0], in[1]); }, {}, false, kBools},
      {"mul",
       2,
       kSame,
       "a * b",
       binary<at::mul>,
       {"aten::mul.Tensor", "aten::mul.Scalar", "aten::multiply.Tensor", "aten::multiply.Scalar"}},
      {"div",
       2,
       kSame,
       "a / b",
       binary<at::div>,
       {"aten::div.Tensor", "aten::div.Scalar", "aten::divide.Tensor", "aten::divide.Scalar",
        "aten::true_divide.Tensor", "aten::true_divide.Scalar"},
       true},
      {"floor_div",
       2,
       kSame,
       "tw::floor_div(a, b)",
       [](Tensors in) { return at::div(in[0], in[1], "floor"); },
       {"aten::floor_divide", "aten::floor_divide.Scalar"},
       false,
       kBools},
      {"trunc_div",
       2,
       kSame,
       "tw::trunc_div(a, b)",
       [](Tensors in) { return at::div(in[0], in[1], "trunc"); },
       {},
       false,
       kBools},
      {"remainder",
       2,
       kSame,
       "tw::remainder(a, b)",
       binary<at::remainder>,
       {"aten::remainder.Tensor", "aten::remainder.Scalar", "aten::remainder.Scalar_Tensor"},
       false,
       kBools},
      {"fmod", 2, kSame, "tw::fmod(a, b)", binary<at::fmod>, {"aten::fmod.Tensor", "aten::fmod.Scalar"}, false, kBools},
      {"pow", 2, kSame, "tw::pow(a, b)", binary<at::pow>, {}, false, kBools},
      {"atan2", 2, kSame, "tw::atan2(a, b)", binary<at::atan2>, {"aten::atan2", "aten::arctan2"}, true},
      {"maximum", 2, kSame, "tw::max(a, b)", binary<at::maximum>, {"aten::maximum", "aten::max.other"}},
      {"minimum", 2, kSame, "tw::min(a, b)", binary<at::minimum>, {"aten::minimum", "aten::min.other"}},
      {"fmax", 2, kSame, "tw::fmax(a, b)", binary<at::fmax>, {"aten::fmax"}},
      {"fmin", 2, kSame, "tw::fmin(a, b)", binary<at::fmin>, {"aten::fmin"}},
      {"eq", 2, kBool, "a == b", binary<at::eq>, {"aten::eq.Tensor", "aten::eq.Scalar"}},
      {"ne",
       2,
       kBool,
       "a != b",
       binary<at::ne>,
       {"aten::ne.Tensor", "aten::ne.Scalar", "aten::not_equal.Tensor", "aten::not_equal.Scalar"}},
      {"lt",
       2,
       kBool,
       "a < b",
       binary<at::lt>,
       {"aten::lt.Tensor", "aten::lt.Scalar", "aten::less.Tensor", "aten::less.Scalar"}},
      {"le",
       2,
       kBool,
       "a <= b",
       binary<at::le>,
       {"aten::le.Tensor", "aten::le.Scalar", "aten::less_equal.Tensor", "aten::less_equal.Scalar"}},
      {"gt",
       2,
       kBool,
       "a > b",
       binary<at::gt>,
       {"aten::gt.Tensor", "aten::gt.Scalar", "aten::greater.Tensor", "aten::greater.Scalar"}},
      {"ge",
       2,
       kBool,
       "a >= b",
       binary<at::ge>,
       {"aten::ge.Tensor", "aten::ge.Scalar", "aten::greater_equal.Tensor", "aten::greater_equal.Scalar"}},
      {"logical_and", 2, kBool, "a != T(0) && b != T(0)", binary<at::logical_and>, {"aten::logical_and"}},
      {"logical_or", 2, kBool, "a != T(0) || b != T(0)", binary<at::logical_or>, {"aten::logical_or"}},
      {"logical_xor", 2, kBool, "(a != T(0)) != (b != T(0))", binary<at::logical_xor>, {"aten::logical_xor"}},
      {"bitwise_and",
       2,
       kSame,
       "a & b",
       binary<at::bitwise_and>,
       {"aten::bitwise_and.Tensor", "aten::bitwise_and.Scalar", "aten::bitwise_and.Scalar_Tensor",
        "aten::__and__.Tensor", "aten::__and__.Scalar"},
       false,
       kFloats},
      {"bitwise_or",
       2,
       kSame,
       "a | b",
       binary<at::bitwise_or>,
       {"aten::bitwise_or.Tensor", "aten::bitwise_or.Scalar", "aten::bitwise_or.Scalar_Tensor", "aten::__or__.Tensor",
        "aten::__or__.Scalar"},
       false,
       kFloats},
      {"bitwise_xor",
       2,
       kSame,
       "a ^ b",
       binary<at::bitwise_xor>,
       {"aten::bitwise_xor.Tensor", "aten::bitwise_xor.Scalar", "aten::bitwise_xor.Scalar_Tensor",
        "aten::__xor__.Tensor", "aten::__xor__.Scalar"},
       false,
       kFloats},
      // b is the slope: a number, or the weights of prelu.
      {"leaky_relu", 2, kSame, "a > T(0) ? a : a * b", leaky_relu, {}, true, kIntegers},
      {"celu",
       2,
       kSame,
       "a > T(0) ? a : b * tw::expm1(a / b)",
       [](Tensors in) { return at::celu(in[0], in[1].item()); },
       {},
       true,
       kIntegers},
      {"hardshrink",
       2,
       kSame,
       "a >= -b && a <= b ? T(0) : a",
       [](Tensors in) { return at::hardshrink(in[0], in[1].item()); },
       {},
       true,
       kIntegers},
      {"softshrink",
       2,
       kSame,
       "a > b ? a - b : (a < -b ? a + b : a * T(0))",
       [](Tensors in) { return at::softshrink(in[0], in[1].item()); },
       {},
       true,
       kIntegers},
      {"glu",
       2,
       kSame,
       "a / (T(1) + tw::exp(-b))",
       [](Tensors in) { return at::mul(in[0], at::sigmoid(in[1])); },
       {},
       true,
       kIntegers},
  };
}

std::vector<PointwiseFn> ternary_rows() {
  return {
      {"where", 3, kSame, "a != T(0) ? b : c", [](Tensors in) { return at::where(in[0], in[1], in[2]); }, {}},
      {"clamp", 3, kSame, "tw::min(tw::max(a, b), c)", clamp, {}, false, kBools},
      {"add_scaled", 3, kSame, "a + b * c", add_scaled, {}},
      {"addcmul", 3, kSame, "a + b * c", [](Tensors in) { return at::addcmul(in[0], in[1], in[2]); }, {}},
      {"addcdiv",
       3,
       kSame,
       "a + b / c",
       [](Tensors in) { return at::addcdiv(in[0], in[1], in[2]); },
       {},
       true,
       kIntegers},
      {"lerp", 3, kSame, "tw::abs(c) < T(0.5) ? a + c * (b - a) : b - (b - a) * (T(1) - c)", lerp, {}, true, kIntegers},
      {"threshold",
       3,
       kSame,
       "a <= b ? c : a",
       [](Tensors in) { return at::threshold(in[0], in[1].item(), in[2].item()); },
       {},
       false,
       kBools},
      // b is alpha * scale, c is scale.
      {"elu",
       3,
       kSame,
       "a > T(0) ? a * c : b * tw::expm1(a)",
       [](Tensors in) {
         double scale = in[2].item<double>();
         return at::elu(in[0], in[1].item<double>() / scale, scale);
       },
       {},
       true,
       kIntegers},
      // b is beta, c is the threshold above which the function is the identity.
      {"softplus",
       3,
       kSame,
       "a * b > c ? a : tw::log1p(tw::exp(a * b)) / b",
       [](Tensors in) { return at::softplus(in[0], in[1].item(), in[2].item()); },
       {},
       true,
       kIntegers},
  };
}

}  // namespace

const std::vector<PointwiseFn>& pointwise_table() {
  static const std::vector<PointwiseFn> table = [] {
    std::vector<PointwiseFn> rows = unary_rows();
    for (const auto& more : {binary_rows(), ternary_rows()}) rows.insert(rows.end(), more.begin(), more.end());
    return rows;
  }();
  return table;
}

}  // namespace torchweld
