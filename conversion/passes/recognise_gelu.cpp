#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <optional>
#include <vector>

#include "conversion/passes/passes.h"
#include "conversion/passes/restride.h"
#include "core/ops/constant.h"
#include "core/ops/pointwise.h"

namespace torchweld {
namespace {

/// Coefficients of x^0 to x^3.
using Cubic = std::array<double, 4>;

std::optional<Cubic> product(const Cubic& a, const Cubic& b) {
  Cubic out{};
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t j = 0; j < b.size(); ++j) {
      if (a[i] == 0 || b[j] == 0) continue;
      if (i + j >= out.size()) return std::nullopt;
      out[i + j] += a[i] * b[j];
    }
  }
  return out;
}

Cubic scaled(Cubic a, double factor) {
  for (double& c : a) c *= factor;
  return a;
}

Cubic sum(Cubic a, const Cubic& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

/// `value` as a polynomial in x; nothing when it is none of at most the third degree, or takes more than `depth` steps.
std::optional<Cubic> polynomial(const Value* value, const Value* x, int depth = 8) {
  if (value == x) return Cubic{0, 1, 0, 0};
  if (auto number = number_of(value)) return Cubic{*number, 0, 0, 0};
  auto* op = value->from<Pointwise>();
  if (!op || depth == 0 || value->type.dtype != x->type.dtype) return std::nullopt;
  const Node& node = *value->producer();
  auto a = polynomial(node.input(0), x, depth - 1);
  if (!a) return std::nullopt;
  if (op->fn == "neg") return scaled(*a, -1);
  if (op->fn == "square") return product(*a, *a);
  if (node.inputs().size() != 2) return std::nullopt;
  if (op->fn == "pow") {
    auto exponent = number_of(node.input(1));
    if (exponent == 2.0) return product(*a, *a);
    if (exponent != 3.0) return std::nullopt;
    auto square = product(*a, *a);
    return square ? product(*square, *a) : std::nullopt;
  }
  auto b = polynomial(node.input(1), x, depth - 1);
  if (!b) return std::nullopt;
  if (op->fn == "add") return sum(*a, *b);
  if (op->fn == "sub") return sum(*a, scaled(*b, -1));
  if (op->fn == "mul") return product(*a, *b);
  bool by_number = op->fn == "div" && (*b)[1] == 0 && (*b)[2] == 0 && (*b)[3] == 0;
  return by_number ? std::optional(scaled(*a, 1 / (*b)[0])) : std::nullopt;
}

bool is_near(const Cubic& a, const Cubic& b, c10::ScalarType dtype) {
  double unit = dtype == c10::kHalf       ? 0x1p-10
                : dtype == c10::kBFloat16 ? 0x1p-7
                : dtype == c10::kFloat    ? 0x1p-23
                                          : 0x1p-50;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::abs(a[i] - b[i]) > unit * std::abs(b[i])) return false;
  }
  return true;
}

/// The factors of a value: numbers as one, and what else is multiplied, as long as these are no more than two.
struct Factors {
  double number = 1;
  std::vector<Value*> values;

  void take(Value* value, const TensorType& of) {
    if (values.size() > 2) return;
    if (auto n = number_of(value)) {
      number *= *n;
      return;
    }
    auto* op = value->from<Pointwise>();
    const Node* node = value->producer();
    bool fits = op && value->type.dtype == of.dtype && node->inputs().size() == 2;
    if (fits && op->fn == "mul") {
      take(node->input(0), of);
      take(node->input(1), of);
    } else if (auto n = fits && op->fn == "div" ? number_of(node->input(1)) : std::nullopt) {
      number /= *n;
      take(node->input(0), of);
    } else {
      values.push_back(value);
    }
  }
};

/// The function of x, "gelu" or "gelu_tanh", that 0.5 x times this value is; empty when it is none: one plus the error
/// function of x / sqrt(2), or plus the hyperbolic tangent of sqrt(2 / pi) (x + 0.044715 x^3).
std::string gelu_by(const Value* value, const Value* x) {
  auto* plus = value->from<Pointwise>();
  if (!plus || plus->fn != "add") return "";
  for (size_t side : {0, 1}) {
    const Value* curve = value->producer()->input(side);
    auto* op = curve->from<Pointwise>();
    if (!op || (op->fn != "erf" && op->fn != "tanh") || number_of(value->producer()->input(1 - side)) != 1.0) continue;
    auto inner = polynomial(curve->producer()->input(0), x);
    if (!inner) continue;
    const double tanh_factor = std::sqrt(2 / std::numbers::pi);
    bool exact = op->fn == "erf";
    Cubic wanted = exact ? Cubic{0, 1 / std::numbers::sqrt2, 0, 0} : Cubic{0, tanh_factor, 0, 0.044715 * tanh_factor};
    if (is_near(*inner, wanted, x->type.dtype)) return exact ? "gelu" : "gelu_tanh";
  }
  return "";
}

}  // namespace

void recognise_gelu(Graph& graph, const PassContext&) {
  Restride strides(graph);
  strides.walk([&](Node* node) {
    auto* op = node->as<Pointwise>();
    if (!op || (op->fn != "mul" && op->fn != "div")) return;
    const TensorType& type = node->output()->type;
    Factors factors;
    factors.take(node->output(), type);
    if (factors.values.size() != 2 || factors.number != 0.5) return;
    for (size_t side : {0, 1}) {
      Value* x = factors.values[side];
      if (x->type.dtype != type.dtype || x->type.shape != type.shape) continue;
      std::string fn = gelu_by(factors.values[1 - side], x);
      if (fn.empty()) continue;
      Value* gelu = graph.add(Pointwise{.fn = fn}, {x});
      strides.add(gelu);
      graph.replace_uses(node->output(), gelu);
      return;
    }
  });
}

}  // namespace torchweld
