// Compiled once per instruction set; TORCHWELD_ISA names the namespace.
#include "kernels/cpu/block_functions.h"

#include <cmath>
#include <type_traits>

#include "kernels/cpu/lanes.h"

namespace torchweld::cpu::TORCHWELD_ISA {
namespace {

// ---- loops ----

template <class T, class F>
BlockFunction unary(F) {
  return [](const void* a, const void*, const void*, void* out, int64_t n) {
    auto* x = static_cast<const T*>(a);
    auto* y = static_cast<T*>(out);
    int64_t i = 0;
    for (; i + Vec<T>::size() <= n; i += Vec<T>::size()) F()(Vec<T>::loadu(x + i)).store(y + i);
    if (i < n) F()(Vec<T>::loadu(x + i, n - i)).store(y + i, n - i);
  };
}

template <class T, class F>
BlockFunction binary(F) {
  return [](const void* a, const void* b, const void*, void* out, int64_t n) {
    auto* x = static_cast<const T*>(a);
    auto* y = static_cast<const T*>(b);
    auto* z = static_cast<T*>(out);
    int64_t i = 0;
    for (; i + Vec<T>::size() <= n; i += Vec<T>::size()) F()(Vec<T>::loadu(x + i), Vec<T>::loadu(y + i)).store(z + i);
    if (i < n) F()(Vec<T>::loadu(x + i, n - i), Vec<T>::loadu(y + i, n - i)).store(z + i, n - i);
  };
}

template <class T, class F>
BlockFunction ternary(F) {
  return [](const void* a, const void* b, const void* c, void* out, int64_t n) {
    auto* x = static_cast<const T*>(a);
    auto* y = static_cast<const T*>(b);
    auto* z = static_cast<const T*>(c);
    auto* r = static_cast<T*>(out);
    int64_t i = 0;
    for (; i + Vec<T>::size() <= n; i += Vec<T>::size()) {
      F()(Vec<T>::loadu(x + i), Vec<T>::loadu(y + i), Vec<T>::loadu(z + i)).store(r + i);
    }
    int64_t rest = n - i;
    if (rest > 0)
      F()(Vec<T>::loadu(x + i, rest), Vec<T>::loadu(y + i, rest), Vec<T>::loadu(z + i, rest)).store(r + i, rest);
  };
}

/// Element by element, left to the compiler to vectorise; R is the type of the result.
template <class T, class R, class F>
BlockFunction each(F) {
  return [](const void* a, const void* b, const void*, void* out, int64_t n) {
    auto* x = static_cast<const T*>(a);
    auto* y = static_cast<const T*>(b);
    auto* z = static_cast<R*>(out);
    for (int64_t i = 0; i < n; ++i) {
      if constexpr (std::is_invocable_v<F, T>) {
        z[i] = static_cast<R>(F()(x[i]));
      } else {
        z[i] = static_cast<R>(F()(x[i], y[i]));
      }
    }
  };
}

template <class T, class F>
BlockFunction each_of_three(F) {
  return [](const void* a, const void* b, const void* c, void* out, int64_t n) {
    auto* x = static_cast<const T*>(a);
    auto* y = static_cast<const T*>(b);
    auto* z = static_cast<const T*>(c);
    auto* r = static_cast<T*>(out);
    for (int64_t i = 0; i < n; ++i) r[i] = static_cast<T>(F()(x[i], y[i], z[i]));
  };
}

template <class T>
void select(const void* a, const void* b, const void* c, void* out, int64_t n) {
  auto* condition = static_cast<const uint8_t*>(a);
  auto* x = static_cast<const T*>(b);
  auto* y = static_cast<const T*>(c);
  auto* z = static_cast<T*>(out);
  for (int64_t i = 0; i < n; ++i) z[i] = condition[i] ? x[i] : y[i];
}

// ---- tables of functions ----

template <class T>
BlockFunction find_comparison(const std::string& fn) {
  if (fn == "eq") return each<T, uint8_t>([](T a, T b) { return a == b; });
  if (fn == "ne") return each<T, uint8_t>([](T a, T b) { return a != b; });
  if (fn == "lt") return each<T, uint8_t>([](T a, T b) { return a < b; });
  if (fn == "le") return each<T, uint8_t>([](T a, T b) { return a <= b; });
  if (fn == "gt") return each<T, uint8_t>([](T a, T b) { return a > b; });
  if (fn == "ge") return each<T, uint8_t>([](T a, T b) { return a >= b; });
  if (fn == "logical_not") return each<T, uint8_t>([](T a) { return a == T(0); });
  if (fn == "logical_and") return each<T, uint8_t>([](T a, T b) { return a != T(0) && b != T(0); });
  if (fn == "logical_or") return each<T, uint8_t>([](T a, T b) { return a != T(0) || b != T(0); });
  if (fn == "logical_xor") return each<T, uint8_t>([](T a, T b) { return (a != T(0)) != (b != T(0)); });
  if (fn == "where") return select<T>;
  if constexpr (std::is_floating_point_v<T>) {
    if (fn == "isnan") return each<T, uint8_t>([](T a) { return a != a; });
    if (fn == "isinf") return each<T, uint8_t>([](T a) { return std::abs(a) == std::numeric_limits<T>::infinity(); });
    if (fn == "isfinite") return each<T, uint8_t>([](T a) { return std::abs(a) < std::numeric_limits<T>::infinity(); });
  } else {
    if (fn == "isnan" || fn == "isinf") return each<T, uint8_t>([](T) { return false; });
    if (fn == "isfinite") return each<T, uint8_t>([](T) { return true; });
  }
  return nullptr;
}

template <class T>
BlockFunction find_bitwise(const std::string& fn) {
  if (fn == "bitwise_and") return each<T, T>([](T a, T b) { return a & b; });
  if (fn == "bitwise_or") return each<T, T>([](T a, T b) { return a | b; });
  if (fn == "bitwise_xor") return each<T, T>([](T a, T b) { return a ^ b; });
  return nullptr;
}

BlockFunction find_of_bools(const std::string& fn) {
  if (fn == "bitwise_not") return each<uint8_t, uint8_t>([](uint8_t a) { return a == 0; });
  if (fn == "maximum" || fn == "add" || fn == "fmax")
    return each<uint8_t, uint8_t>([](uint8_t a, uint8_t b) { return a | b; });
  if (fn == "minimum" || fn == "mul" || fn == "fmin")
    return each<uint8_t, uint8_t>([](uint8_t a, uint8_t b) { return a & b; });
  if (BlockFunction found = find_bitwise<uint8_t>(fn)) return found;
  return find_comparison<uint8_t>(fn);
}

template <class T>
BlockFunction find_of_integers(const std::string& fn) {
  // Sums wrap around; computed unsigned, where that is defined.
  using U = std::make_unsigned_t<T>;
  if (fn == "relu") return each<T, T>([](T a) { return a < T(0) ? T(0) : a; });
  if (fn == "neg") return each<T, T>([](T a) { return U(0) - U(a); });
  if (fn == "abs") return each<T, T>([](T a) { return a < T(0) ? U(0) - U(a) : U(a); });
  if (fn == "sign") return each<T, T>([](T a) { return (T(0) < a) - (a < T(0)); });
  if (fn == "square") return each<T, T>([](T a) { return uint64_t(a) * uint64_t(a); });
  if (fn == "ceil" || fn == "floor" || fn == "round" || fn == "trunc") return each<T, T>([](T a) { return a; });
  if (fn == "bitwise_not") return each<T, T>([](T a) { return ~a; });
  if (fn == "add") return each<T, T>([](T a, T b) { return U(a) + U(b); });
  if (fn == "sub") return each<T, T>([](T a, T b) { return U(a) - U(b); });
  if (fn == "mul") return each<T, T>([](T a, T b) { return uint64_t(a) * uint64_t(b); });
  if (fn == "maximum" || fn == "fmax") return each<T, T>([](T a, T b) { return a > b ? a : b; });
  if (fn == "minimum" || fn == "fmin") return each<T, T>([](T a, T b) { return a < b ? a : b; });
  if (fn == "clamp") {
    return each_of_three<T>([](T a, T b, T c) {
      T low = a > b ? a : b;
      return low < c ? low : c;
    });
  }
  if (fn == "threshold") return each_of_three<T>([](T a, T b, T c) { return a <= b ? c : a; });
  if (fn == "add_scaled" || fn == "addcmul") {
    return each_of_three<T>([](T a, T b, T c) { return uint64_t(a) + uint64_t(b) * uint64_t(c); });
  }
  if (BlockFunction found = find_bitwise<T>(fn)) return found;
  return find_comparison<T>(fn);
}

template <class T>
Vec<T> logistic(Vec<T> a) {
  return Vec<T>(1) / (Vec<T>(1) + a.neg().exp());
}

template <class T>
Vec<T> clamp6(Vec<T> a) {
  return at::vec::minimum(at::vec::maximum(a + Vec<T>(3), Vec<T>(0)), Vec<T>(6));
}

template <class T>
BlockFunction find_plain_unary(const std::string& fn) {
  using V = Vec<T>;
  if (fn == "relu") return unary<T>([](V a) { return at::vec::clamp_min(a, V(0)); });
  if (fn == "neg") return unary<T>([](V a) { return a.neg(); });
  if (fn == "abs") return unary<T>([](V a) { return a.abs(); });
  if (fn == "sign") return each<T, T>([](T a) { return (T(0) < a) - (a < T(0)); });
  if (fn == "square") return unary<T>([](V a) { return a * a; });
  if (fn == "ceil") return unary<T>([](V a) { return a.ceil(); });
  if (fn == "floor") return unary<T>([](V a) { return a.floor(); });
  if (fn == "round") return unary<T>([](V a) { return a.round(); });
  if (fn == "trunc") return unary<T>([](V a) { return a.trunc(); });
  if (fn == "frac") return unary<T>([](V a) { return a - a.trunc(); });
  if (fn == "reciprocal") return unary<T>([](V a) { return V(1) / a; });
  if (fn == "sqrt") return unary<T>([](V a) { return a.sqrt(); });
  if (fn == "rsqrt") return unary<T>([](V a) { return V(1) / a.sqrt(); });
  if (fn == "hardswish") return unary<T>([](V a) { return a * clamp6<T>(a) / V(6); });
  if (fn == "hardsigmoid") return unary<T>([](V a) { return clamp6<T>(a) / V(6); });
  return nullptr;
}

template <class T>
BlockFunction find_transcendental(const std::string& fn) {
  using V = Vec<T>;
  if (fn == "exp") return unary<T>([](V a) { return a.exp(); });
  if (fn == "exp2") return unary<T>([](V a) { return a.exp2(); });
  if (fn == "expm1") return unary<T>([](V a) { return a.expm1(); });
  if (fn == "log") return unary<T>([](V a) { return a.log(); });
  if (fn == "log2") return unary<T>([](V a) { return a.log2(); });
  if (fn == "log10") return unary<T>([](V a) { return a.log10(); });
  if (fn == "log1p") return unary<T>([](V a) { return a.log1p(); });
  if (fn == "sin") return unary<T>([](V a) { return a.sin(); });
  if (fn == "cos") return unary<T>([](V a) { return a.cos(); });
  if (fn == "tan") return unary<T>([](V a) { return a.tan(); });
  if (fn == "asin") return unary<T>([](V a) { return a.asin(); });
  if (fn == "acos") return unary<T>([](V a) { return a.acos(); });
  if (fn == "atan") return unary<T>([](V a) { return a.atan(); });
  if (fn == "sinh") return unary<T>([](V a) { return a.sinh(); });
  if (fn == "cosh") return unary<T>([](V a) { return a.cosh(); });
  if (fn == "tanh") return unary<T>([](V a) { return a.tanh(); });
  if (fn == "asinh") return each<T, T>([](T a) { return std::asinh(a); });
  if (fn == "acosh") return each<T, T>([](T a) { return std::acosh(a); });
  if (fn == "atanh") return each<T, T>([](T a) { return std::atanh(a); });
  // LibTorch's own vector form is off by 4e-7 near 0, more than eager.
  if (fn == "erf") return each<T, T>([](T a) { return std::erf(a); });
  if (fn == "erfc") return unary<T>([](V a) { return a.erfc(); });
  return nullptr;
}

template <class T>
BlockFunction find_activation(const std::string& fn) {
  using V = Vec<T>;
  if (fn == "sigmoid") return unary<T>([](V a) { return logistic<T>(a); });
  if (fn == "log_sigmoid") {
    return unary<T>([](V a) { return at::vec::minimum(a, V(0)) - a.abs().neg().exp().log1p(); });
  }
  if (fn == "silu") return unary<T>([](V a) { return a / (V(1) + a.neg().exp()); });
  if (fn == "mish") return unary<T>([](V a) { return a * a.exp().log1p().tanh(); });
  if (fn == "gelu")
    return unary<T>([](V a) { return V(T(0.5)) * a * (V(1) + (a * V(T(0.70710678118654752440))).erf()); });
  if (fn == "gelu_tanh") {
    return unary<T>([](V a) {
      V inner = V(T(0.79788456080286535588)) * (a + V(T(0.044715)) * a * a * a);
      return V(T(0.5)) * a * (V(1) + inner.tanh());
    });
  }
  if (fn == "glu") return binary<T>([](V a, V b) { return a / (V(1) + b.neg().exp()); });
  if (fn == "leaky_relu") return each<T, T>([](T a, T b) { return a > T(0) ? a : a * b; });
  if (fn == "celu") return each<T, T>([](T a, T b) { return a > T(0) ? a : b * std::expm1(a / b); });
  if (fn == "hardshrink") return each<T, T>([](T a, T b) { return a >= -b && a <= b ? T(0) : a; });
  if (fn == "softshrink") return each<T, T>([](T a, T b) { return a > b ? a - b : (a < -b ? a + b : a * T(0)); });
  if (fn == "elu") return each_of_three<T>([](T a, T b, T c) { return a > T(0) ? a * c : b * std::expm1(a); });
  if (fn == "softplus") {
    return each_of_three<T>([](T a, T b, T c) { return a * b > c ? a : std::log1p(std::exp(a * b)) / b; });
  }
  if (fn == "threshold") return each_of_three<T>([](T a, T b, T c) { return a <= b ? c : a; });
  return nullptr;
}

template <class T>
T remainder_of(T a, T b) {
  T rest = std::fmod(a, b);
  return rest != T(0) && (b < T(0)) != (rest < T(0)) ? rest + b : rest;
}

/// Rounds to minus infinity as at::div(rounding_mode="floor") does: from the exact remainder.
template <class T>
T floor_divide(T a, T b) {
  if (b == T(0)) return a / b;
  T rest = std::fmod(a, b);
  T quotient = (a - rest) / b;
  if (rest != T(0) && (b < T(0)) != (rest < T(0))) quotient -= T(1);
  if (quotient == T(0)) return std::copysign(T(0), a / b);
  T floor = std::floor(quotient);
  return quotient - floor > T(0.5) ? floor + T(1) : floor;
}

template <class T>
BlockFunction find_arithmetic(const std::string& fn) {
  using V = Vec<T>;
  if (fn == "add") return binary<T>([](V a, V b) { return a + b; });
  if (fn == "sub") return binary<T>([](V a, V b) { return a - b; });
  if (fn == "mul") return binary<T>([](V a, V b) { return a * b; });
  if (fn == "div") return binary<T>([](V a, V b) { return a / b; });
  if (fn == "maximum") return binary<T>([](V a, V b) { return at::vec::maximum(a, b); });
  if (fn == "minimum") return binary<T>([](V a, V b) { return at::vec::minimum(a, b); });
  if (fn == "fmax") return each<T, T>([](T a, T b) { return std::fmax(a, b); });
  if (fn == "fmin") return each<T, T>([](T a, T b) { return std::fmin(a, b); });
  if (fn == "pow") return binary<T>([](V a, V b) { return a.pow(b); });
  if (fn == "atan2") return binary<T>([](V a, V b) { return a.atan2(b); });
  if (fn == "fmod") return each<T, T>([](T a, T b) { return std::fmod(a, b); });
  if (fn == "remainder") return each<T, T>([](T a, T b) { return remainder_of(a, b); });
  if (fn == "trunc_div") return binary<T>([](V a, V b) { return (a / b).trunc(); });
  if (fn == "floor_div") return each<T, T>([](T a, T b) { return floor_divide(a, b); });
  if (fn == "clamp") return ternary<T>([](V a, V b, V c) { return at::vec::minimum(at::vec::maximum(a, b), c); });
  if (fn == "add_scaled" || fn == "addcmul") return ternary<T>([](V a, V b, V c) { return a + b * c; });
  if (fn == "addcdiv") return ternary<T>([](V a, V b, V c) { return a + b / c; });
  if (fn == "lerp") {
    return each_of_three<T>(
        [](T a, T b, T c) { return std::abs(c) < T(0.5) ? a + c * (b - a) : b - (b - a) * (T(1) - c); });
  }
  return nullptr;
}

template <class T>
BlockFunction find_of_floats(const std::string& fn) {
  for (auto find :
       {find_plain_unary<T>, find_transcendental<T>, find_activation<T>, find_arithmetic<T>, find_comparison<T>}) {
    if (BlockFunction found = find(fn)) return found;
  }
  return nullptr;
}

BlockFunction find_function(const std::string& fn, c10::ScalarType dtype) {
  switch (dtype) {
    case c10::kFloat:
      return find_of_floats<float>(fn);
    case c10::kDouble:
      return find_of_floats<double>(fn);
    case c10::kLong:
      return find_of_integers<int64_t>(fn);
    case c10::kInt:
      return find_of_integers<int32_t>(fn);
    case c10::kShort:
      return find_of_integers<int16_t>(fn);
    case c10::kChar:
      return find_of_integers<int8_t>(fn);
    case c10::kByte:
      return find_of_integers<uint8_t>(fn);
    case c10::kBool:
      return find_of_bools(fn);
    default:
      return nullptr;
  }
}

// ---- casts ----

/// Tag of a bool, which lies in memory as one byte.
struct Bool {
  uint8_t value;
};

template <class From, class To>
void cast_block(const void* a, const void*, const void*, void* out, int64_t n) {
  auto* x = static_cast<const From*>(a);
  auto* y = static_cast<To*>(out);
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (std::is_same_v<From, Bool> && std::is_same_v<To, Bool>) {
      y[i] = x[i];
    } else if constexpr (std::is_same_v<From, Bool>) {
      y[i] = static_cast<To>(static_cast<float>(x[i].value != 0));
    } else if constexpr (std::is_same_v<To, Bool>) {
      y[i].value = x[i] != From(0);
    } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To> && sizeof(To) < 4) {
      y[i] = static_cast<To>(static_cast<int64_t>(x[i]));
    } else {
      y[i] = static_cast<To>(x[i]);
    }
  }
}

template <class Half>
void widen_block(const void* a, const void*, const void*, void* out, int64_t n) {
  auto* x = static_cast<const Half*>(a);
  auto* y = static_cast<float*>(out);
  int64_t i = 0;
  for (; i + Vec<Half>::size() <= n; i += Vec<Half>::size()) {
    auto [low, high] = at::vec::convert_to_float<Half>(Vec<Half>::loadu(x + i));
    low.store(y + i);
    high.store(y + i + Vec<float>::size());
  }
  for (; i < n; ++i) y[i] = static_cast<float>(x[i]);
}

template <class Half>
void narrow_block(const void* a, const void*, const void*, void* out, int64_t n) {
  auto* x = static_cast<const float*>(a);
  auto* y = static_cast<Half*>(out);
  int64_t i = 0;
  for (; i + Vec<Half>::size() <= n; i += Vec<Half>::size()) {
    at::vec::convert_from_float<Half>(Vec<float>::loadu(x + i), Vec<float>::loadu(x + i + Vec<float>::size()))
        .store(y + i);
  }
  for (; i < n; ++i) y[i] = static_cast<Half>(x[i]);
}

template <class From>
BlockFunction find_cast_from(c10::ScalarType to) {
  switch (to) {
    case c10::kFloat:
      return cast_block<From, float>;
    case c10::kDouble:
      return cast_block<From, double>;
    case c10::kLong:
      return cast_block<From, int64_t>;
    case c10::kInt:
      return cast_block<From, int32_t>;
    case c10::kShort:
      return cast_block<From, int16_t>;
    case c10::kChar:
      return cast_block<From, int8_t>;
    case c10::kByte:
      return cast_block<From, uint8_t>;
    case c10::kBool:
      return cast_block<From, Bool>;
    default:
      return nullptr;
  }
}

BlockFunction find_cast(c10::ScalarType from, c10::ScalarType to) {
  if (from == c10::kFloat && to == c10::kHalf) return narrow_block<c10::Half>;
  if (from == c10::kFloat && to == c10::kBFloat16) return narrow_block<c10::BFloat16>;
  switch (from) {
    case c10::kHalf:
      return to == c10::kFloat ? widen_block<c10::Half> : nullptr;
    case c10::kBFloat16:
      return to == c10::kFloat ? widen_block<c10::BFloat16> : nullptr;
    case c10::kFloat:
      return find_cast_from<float>(to);
    case c10::kDouble:
      return find_cast_from<double>(to);
    case c10::kLong:
      return find_cast_from<int64_t>(to);
    case c10::kInt:
      return find_cast_from<int32_t>(to);
    case c10::kShort:
      return find_cast_from<int16_t>(to);
    case c10::kChar:
      return find_cast_from<int8_t>(to);
    case c10::kByte:
      return find_cast_from<uint8_t>(to);
    case c10::kBool:
      return find_cast_from<Bool>(to);
    default:
      return nullptr;
  }
}

}  // namespace

BlockTable block_table() { return {find_function, find_cast}; }

}  // namespace torchweld::cpu::TORCHWELD_ISA
