// Compiled once per instruction set; TORCHWELD_ISA names the namespace.
#include <algorithm>
#include <limits>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/pool_functions.h"

namespace torchweld::cpu::TORCHWELD_ISA {
namespace {

template <bool largest, class V>
V join(V a, V b) {
  if constexpr (largest) {
    return at::vec::maximum(a, b);
  } else {
    return a + b;
  }
}

template <bool largest, class T>
constexpr T initial() {
  return largest ? -std::numeric_limits<T>::infinity() : T(0);
}

template <bool largest, class S, class O>
void pool_taps(const void* const* taps, int64_t count, int64_t n, double divisor, void* out) {
  using T = Computed<S>;
  using V = Vec<T>;
  constexpr int kVectors = 4;
  auto* y = static_cast<O*>(out);
  V over(static_cast<T>(divisor));
  int64_t i = 0;
  for (; i + kVectors * V::size() <= n; i += kVectors * V::size()) {
    V sums[kVectors];
    for (V& sum : sums) sum = V(initial<largest, T>());
    for (int64_t t = 0; t < count; ++t) {
      const S* x = static_cast<const S*>(taps[t]) + i;
      for (int k = 0; k < kVectors; ++k) sums[k] = join<largest>(sums[k], load_lanes(x + k * V::size()));
    }
    for (int k = 0; k < kVectors; ++k) store_lanes<O>(largest ? sums[k] : sums[k] / over, y + i + k * V::size());
  }
  for (; i < n; i += V::size()) {
    int64_t lanes = std::min<int64_t>(V::size(), n - i);
    V sum(initial<largest, T>());
    for (int64_t t = 0; t < count; ++t) sum = join<largest>(sum, load_lanes(static_cast<const S*>(taps[t]) + i, lanes));
    store_lanes<O>(largest ? sum : sum / over, y + i, lanes);
  }
}

template <bool largest, class S>
void pool_line(const void* in, const int64_t* begin, const int64_t* end, int64_t step, const int64_t* counts,
               double divisor, int64_t n, void* out) {
  using T = Computed<S>;
  auto* line = static_cast<const T*>(in);
  auto* y = static_cast<S*>(out);
  for (int64_t o = 0; o < n; ++o) {
    T sum = initial<largest, T>();
    for (int64_t i = begin[o]; i < end[o]; i += step) {
      T x = line[i];
      if constexpr (largest) {
        sum = x > sum || x != x ? x : sum;
      } else {
        sum += x;
      }
    }
    y[o] = static_cast<S>(largest ? sum : sum / static_cast<T>(divisor * static_cast<double>(counts[o])));
  }
}

PoolTaps find_taps(bool largest, bool wide, c10::ScalarType dtype) {
  return with_storage(dtype, [&](auto s) -> PoolTaps {
    using S = decltype(s);
    using W = Computed<S>;
    if (wide) return largest ? pool_taps<true, S, W> : pool_taps<false, S, W>;
    return largest ? pool_taps<true, S, S> : pool_taps<false, S, S>;
  });
}

PoolLine find_line(bool largest, c10::ScalarType dtype) {
  return with_storage(dtype, [&](auto s) -> PoolLine {
    return largest ? pool_line<true, decltype(s)> : pool_line<false, decltype(s)>;
  });
}

}  // namespace

PoolTable pool_table() { return {find_taps, find_line}; }

}  // namespace torchweld::cpu::TORCHWELD_ISA
