#include "tests/cuda/tolerance.h"

#include <cmath>
#include <limits>
#include <span>

namespace torchweld::cuda_tests {
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

std::string compare(const at::Tensor& ours, const at::Tensor& eager, const at::Tensor& reference, double largest,
                    double unit) {
  if (ours.sizes() != eager.sizes()) return "another shape";
  at::Tensor tensors[] = {flat_doubles(ours), flat_doubles(eager), flat_doubles(reference)};
  std::span<const double> o = numbers(tensors[0]), e = numbers(tensors[1]), r = numbers(tensors[2]);
  auto describe = [&](const char* what, size_t i) {
    return std::string(what) + " at element " + std::to_string(i) + ": ours " + text(o[i]) + ", eager " + text(e[i]) +
           ", f64 " + text(r[i]);
  };
  bool exact = !eager.is_floating_point();
  double eager_error = 0;
  double error = 0;
  size_t worst = 0;
  for (size_t i = 0; i < o.size(); ++i) {
    if (exact || !std::isfinite(e[i])) {
      bool same = o[i] == e[i] || (std::isnan(o[i]) && std::isnan(e[i]));
      if (!same) return describe("different", i);
      continue;
    }
    if (!std::isfinite(o[i])) return describe("not finite", i);
    if (!std::isfinite(r[i])) continue;
    largest = std::max(largest, std::abs(r[i]));
    eager_error = std::max(eager_error, std::abs(e[i] - r[i]));
    if (std::abs(o[i] - r[i]) > error) {
      error = std::abs(o[i] - r[i]);
      worst = i;
    }
  }
  // In f64 the reference errs as much as eager does, so eager's error is not seen; sums of a few hundred products in
  // another order differ by some units.
  if (eager.scalar_type() == c10::kDouble) eager_error = std::max(eager_error, 4 * unit * largest);
  if (error <= 2 * eager_error + unit * largest) return "";
  return describe("too far off", worst) + "; largest errors: ours " + text(error) + ", eager's " + text(eager_error) +
         ", largest number " + text(largest);
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

}  // namespace torchweld::cuda_tests
