// Compiled once per instruction set; TORCHWELD_ISA names the namespace.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/row_functions.h"

namespace torchweld::cpu::TORCHWELD_ISA {
namespace {

/// Vectors added up in f32 before they join a total in f64.
constexpr int64_t kRun = 64;

/// Adds f(i, count) for every vector of a row of n numbers; lanes behind `count` must be 0.
template <class T, class F>
double sum_vectors(int64_t n, F f) {
  using V = Vec<T>;
  constexpr int64_t kWidth = V::size();
  double total = 0;
  for (int64_t i = 0; i < n;) {
    int64_t end = std::min(n, i + kRun * kWidth);
    V sums[4] = {V(0), V(0), V(0), V(0)};
    for (; i + 4 * kWidth <= end; i += 4 * kWidth) {
      for (int k = 0; k < 4; ++k) sums[k] = sums[k] + f(i + k * kWidth, kWidth);
    }
    for (; i < end; i += kWidth) sums[0] = sums[0] + f(i, std::min(kWidth, end - i));
    V sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    total += static_cast<double>(at::vec::vec_reduce_all<T>([](V& a, V& b) { return a + b; }, sum));
  }
  return total;
}

template <class T>
Vec<T> first_lanes(Vec<T> v, int64_t count) {
  return count == Vec<T>::size() ? v : Vec<T>::set(Vec<T>(0), v, count);
}

template <class S>
Computed<S> largest_of(const S* x, int64_t n) {
  using T = Computed<S>;
  using V = Vec<T>;
  V best(-std::numeric_limits<T>::infinity());
  int64_t i = 0;
  for (; i + V::size() <= n; i += V::size()) best = at::vec::maximum(best, load_lanes(x + i));
  if (i < n) best = V::set(best, at::vec::maximum(best, load_lanes(x + i, n - i)), n - i);
  return at::vec::vec_reduce_all<T>([](V& a, V& b) { return at::vec::maximum(a, b); }, best);
}

template <bool log, class S>
void softmax_row(const void* in, int64_t n, void* scratch, void* out) {
  using T = Computed<S>;
  using V = Vec<T>;
  auto* x = static_cast<const S*>(in);
  auto* kept = static_cast<T*>(scratch);
  auto* y = static_cast<S*>(out);
  V largest(largest_of(x, n));
  double sum = sum_vectors<T>(n, [&](int64_t i, int64_t count) {
    V rest = load_lanes(x + i, count) - largest;
    V exponential = rest.exp();
    (log ? rest : exponential).store(kept + i, count);
    return first_lanes(exponential, count);
  });
  V last(static_cast<T>(log ? std::log(sum) : sum));
  for (int64_t i = 0; i < n; i += V::size()) {
    int64_t count = std::min<int64_t>(V::size(), n - i);
    V v = V::loadu(kept + i, count);
    store_lanes<S>(log ? v - last : v / last, y + i, count);
  }
}

template <bool centered, class S>
void norm_row(const void* in, int64_t n, double eps, const void* weights, const void* biases, void* out) {
  using T = Computed<S>;
  using V = Vec<T>;
  auto* x = static_cast<const S*>(in);
  auto* weight = static_cast<const T*>(weights);
  auto* bias = static_cast<const T*>(biases);
  auto* y = static_cast<S*>(out);
  double mean = 0;
  if (centered) mean = sum_vectors<T>(n, [&](int64_t i, int64_t count) { return load_lanes(x + i, count); }) / n;
  V center(static_cast<T>(mean));
  double squares = sum_vectors<T>(n, [&](int64_t i, int64_t count) {
    V rest = load_lanes(x + i, count) - center;
    return first_lanes(rest * rest, count);
  });
  V scale(static_cast<T>(1 / std::sqrt(squares / n + eps)));
  for (int64_t i = 0; i < n; i += V::size()) {
    int64_t count = std::min<int64_t>(V::size(), n - i);
    V v = (load_lanes(x + i, count) - center) * scale;
    if (weight) v = v * V::loadu(weight + i, count);
    if (bias) v = v + V::loadu(bias + i, count);
    store_lanes<S>(v, y + i, count);
  }
}

SoftmaxRow find_softmax(bool log, c10::ScalarType dtype) {
  return with_storage(dtype, [&](auto s) -> SoftmaxRow {
    return log ? softmax_row<true, decltype(s)> : softmax_row<false, decltype(s)>;
  });
}

NormRow find_norm(bool centered, c10::ScalarType dtype) {
  return with_storage(
      dtype, [&](auto s) -> NormRow { return centered ? norm_row<true, decltype(s)> : norm_row<false, decltype(s)>; });
}

}  // namespace

RowTable row_table() { return {find_softmax, find_norm}; }

}  // namespace torchweld::cpu::TORCHWELD_ISA
