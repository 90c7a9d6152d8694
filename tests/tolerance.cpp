#include "tests/tolerance.h"

#include <cmath>
#include <cstdio>
#include <limits>
#include <span>

namespace torchweld::test {
namespace {

at::Tensor flat_doubles(const at::Tensor& tensor) { return tensor.to(c10::kCPU, c10::kDouble).contiguous().view({-1}); }

std::span<const double> numbers(const at::Tensor& flat) {
  return {flat.const_data_ptr<double>(), static_cast<size_t>(flat.numel())};
}

std::string text(double number) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.9g", number);
  return buffer;
}

}  // namespace

double rounding_unit(c10::ScalarType dtype, bool allow_tf32) {
  switch (dtype) {
    case c10::kHalf:
      return 0x1p-10;
    case c10::kBFloat16:
      return 0x1p-7;
    case c10::kFloat:
      return allow_tf32 ? 0x1p-10 : std::numeric_limits<float>::epsilon();
    default:
      return std::numeric_limits<double>::epsilon();
  }
}

std::string compare(const at::Tensor& engine, const at::Tensor& eager, const at::Tensor& reference, double largest,
                    bool allow_tf32) {
  if (engine.sizes() != eager.sizes()) return "another shape";
  at::Tensor tensors[] = {flat_doubles(engine), flat_doubles(eager), flat_doubles(reference)};
  std::span<const double> ours = numbers(tensors[0]), theirs = numbers(tensors[1]), exact = numbers(tensors[2]);
  auto describe = [&](const char* what, size_t i) {
    return std::string(what) + " at element " + std::to_string(i) + ": engine " + text(ours[i]) + ", eager " +
           text(theirs[i]) + ", f64 " + text(exact[i]);
  };
  auto is_same = [](double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); };
  bool is_exact = !eager.is_floating_point();
  double eager_error = 0;
  double error = 0;
  size_t worst = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    // Zeros of weights times infinities of other channels are NaN in some of LibTorch's kernels for groups.
    bool only_theirs = !std::isfinite(theirs[i]) && std::isfinite(ours[i]) && std::isfinite(exact[i]);
    if (is_exact || (!std::isfinite(theirs[i]) && !only_theirs)) {
      // An infinity that LibTorch's kernel clamped ahead of this made eager's NaN an infinity, or the other way round.
      bool right = is_same(ours[i], theirs[i]) || (!is_exact && is_same(ours[i], exact[i]));
      if (!right) return describe("different", i);
      continue;
    }
    if (!std::isfinite(exact[i])) {
      if (!std::isfinite(ours[i]) && !is_same(ours[i], exact[i])) return describe("not finite", i);
      continue;
    }
    if (!std::isfinite(ours[i])) return describe("not finite", i);
    largest = std::max(largest, std::abs(exact[i]));
    if (!only_theirs) eager_error = std::max(eager_error, std::abs(theirs[i] - exact[i]));
    if (std::abs(ours[i] - exact[i]) > error) {
      error = std::abs(ours[i] - exact[i]);
      worst = i;
    }
  }
  double unit = rounding_unit(eager.scalar_type(), allow_tf32);
  if (eager.scalar_type() == c10::kDouble) eager_error = std::max(eager_error, 4 * unit * largest);
  if (error <= 2 * eager_error + 2 * unit * largest) return "";
  return describe("too far off", worst) + "; largest errors: engine " + text(error) + ", eager " + text(eager_error) +
         "; largest number " + text(largest);
}

double largest_number(const std::vector<at::Tensor>& tensors) {
  double largest = 0;
  for (const at::Tensor& tensor : tensors) {
    if (!tensor.is_floating_point()) continue;
    at::Tensor flat = flat_doubles(tensor);
    for (double number : numbers(flat)) {
      if (std::isfinite(number)) largest = std::max(largest, std::abs(number));
    }
  }
  return largest;
}

}  // namespace torchweld::test
