// Compiled once per instruction set; TORCHWELD_ISA names the namespace.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/reduce_functions.h"

namespace torchweld::cpu::TORCHWELD_ISA {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Sum {
  /// Vectors accumulated in f32 before they join a total in f64.
  static constexpr int64_t kRun = 32;
  static constexpr double kInitial = 0;
  template <class V>
  static V map(V x, V) {
    return x;
  }
  template <class V>
  static V join(V a, V b) {
    return a + b;
  }
};

struct SumOfMagnitudes : Sum {
  template <class V>
  static V map(V x, V) {
    return x.abs();
  }
};

struct SumOfExponentials : Sum {
  template <class V>
  static V map(V x, V shift) {
    return (x - shift).exp();
  }
};

struct Product : Sum {
  static constexpr double kInitial = 1;
  template <class V>
  static V join(V a, V b) {
    return a * b;
  }
};

struct Max : Sum {
  static constexpr double kInitial = -kInfinity;
  template <class V>
  static V join(V a, V b) {
    return at::vec::maximum(a, b);
  }
  static double join(double a, double b) { return a > b || a != a ? a : b; }
};

struct Min : Sum {
  static constexpr double kInitial = kInfinity;
  template <class V>
  static V join(V a, V b) {
    return at::vec::minimum(a, b);
  }
  static double join(double a, double b) { return a < b || a != a ? a : b; }
};

template <class A, class S>
double reduce_row(const void* data, int64_t n, double shift, double total) {
  using T = Computed<S>;
  using V = Vec<T>;
  constexpr int64_t kWidth = V::size();
  constexpr int kSums = 4;
  auto* x = static_cast<const S*>(data);
  V shifts(static_cast<T>(shift));
  auto join = [](V& a, V& b) { return A::join(a, b); };
  int64_t i = 0;
  while (i < n) {
    int64_t end = std::min(n, i + kSums * kWidth * A::kRun);
    V sums[kSums];
    for (V& sum : sums) sum = V(static_cast<T>(A::kInitial));
    for (; i + kSums * kWidth <= end; i += kSums * kWidth) {
      for (int k = 0; k < kSums; ++k) sums[k] = A::join(sums[k], A::map(load_lanes(x + i + k * kWidth), shifts));
    }
    for (; i + kWidth <= end; i += kWidth) sums[1] = A::join(sums[1], A::map(load_lanes(x + i), shifts));
    if (i < end) sums[0] = V::set(sums[0], A::join(sums[0], A::map(load_lanes(x + i, end - i), shifts)), end - i);
    i = end;
    V sum = A::join(A::join(sums[0], sums[1]), A::join(sums[2], sums[3]));
    total = A::join(total, static_cast<double>(at::vec::vec_reduce_all<T>(join, sum)));
  }
  return total;
}

/// Columns j to j + count of a few vectors.
template <class A, class S, int kVectors>
void reduce_few_columns(const S* x, int64_t rows, int64_t row_stride, int64_t count, const double* shifts,
                        double* totals) {
  using T = Computed<S>;
  using V = Vec<T>;
  constexpr int64_t kWidth = V::size();
  T lanes[kVectors * kWidth];
  for (int64_t j = 0; j < kVectors * kWidth; ++j) lanes[j] = j < count ? static_cast<T>(shifts[j]) : T(0);
  V shift[kVectors];
  for (int k = 0; k < kVectors; ++k) shift[k] = V::loadu(lanes + k * kWidth);
  int64_t last = count - (kVectors - 1) * kWidth;
  for (int64_t r = 0; r < rows;) {
    int64_t end = std::min(rows, r + A::kRun);
    V sums[kVectors];
    for (V& sum : sums) sum = V(static_cast<T>(A::kInitial));
    for (; r < end; ++r) {
      const S* row = x + r * row_stride;
      for (int k = 0; k < kVectors - 1; ++k) sums[k] = A::join(sums[k], A::map(load_lanes(row + k * kWidth), shift[k]));
      const S* end_of_row = row + (kVectors - 1) * kWidth;
      sums[kVectors - 1] = A::join(sums[kVectors - 1], A::map(load_lanes(end_of_row, last), shift[kVectors - 1]));
    }
    for (int k = 0; k < kVectors; ++k) sums[k].store(lanes + k * kWidth);
    for (int64_t j = 0; j < count; ++j) totals[j] = A::join(totals[j], static_cast<double>(lanes[j]));
  }
}

template <class A, class S>
void reduce_columns(const void* data, int64_t rows, int64_t row_stride, int64_t n, const double* shifts,
                    double* totals) {
  constexpr int64_t kWidth = kLanes<S>;
  auto* x = static_cast<const S*>(data);
  int64_t j = 0;
  for (; j + 4 * kWidth <= n; j += 4 * kWidth)
    reduce_few_columns<A, S, 4>(x + j, rows, row_stride, 4 * kWidth, shifts + j, totals + j);
  for (; j < n; j += kWidth)
    reduce_few_columns<A, S, 1>(x + j, rows, row_stride, std::min(kWidth, n - j), shifts + j, totals + j);
}

/// x[0] to x[count - 1] in what they are computed in, rounded up to whole vectors.
template <class S>
void widen_lanes(const S* x, int64_t count, Computed<S>* wide) {
  for (int64_t i = 0; i < count; i += kLanes<S>) load_lanes(x + i, std::min(kLanes<S>, count - i)).store(wide + i);
}

/// Squares are all of one sign, so that errors add up, and LibTorch takes them in f64: so do we.
template <class S>
double square_row(const void* data, int64_t n, double shift, double total) {
  constexpr int64_t kBlock = 64;
  auto* x = static_cast<const S*>(data);
  double sums[kBlock] = {};
  Computed<S> wide[kBlock];
  for (int64_t i = 0; i < n; i += kBlock) {
    int64_t count = std::min(kBlock, n - i);
    widen_lanes(x + i, count, wide);
    if (count == kBlock) {
      for (int64_t k = 0; k < kBlock; ++k) sums[k] += (wide[k] - shift) * (wide[k] - shift);
    } else {
      for (int64_t k = 0; k < count; ++k) sums[k] += (wide[k] - shift) * (wide[k] - shift);
    }
  }
  for (int64_t k = 0; k < std::min(kBlock, n); ++k) total += sums[k];
  return total;
}

template <class S>
void square_columns(const void* data, int64_t rows, int64_t row_stride, int64_t n, const double* shifts,
                    double* totals) {
  constexpr int64_t kBlock = 64;
  auto* x = static_cast<const S*>(data);
  Computed<S> wide[kBlock];
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < n; j += kBlock) {
      int64_t count = std::min(kBlock, n - j);
      widen_lanes(x + r * row_stride + j, count, wide);
      for (int64_t k = 0; k < count; ++k) totals[j + k] += (wide[k] - shifts[j + k]) * (wide[k] - shifts[j + k]);
    }
  }
}

/// Bools lie in memory as 0 and 1.
template <bool largest>
double test_row(const void* data, int64_t n, double, double total) {
  auto* x = static_cast<const uint8_t*>(data);
  uint8_t found = largest ? 0 : 1;
  for (int64_t i = 0; i < n; ++i) found = largest ? found | x[i] : found & x[i];
  return largest ? std::max<double>(total, found) : std::min<double>(total, found);
}

template <bool largest>
void test_columns(const void* data, int64_t rows, int64_t row_stride, int64_t n, const double*, double* totals) {
  auto* x = static_cast<const uint8_t*>(data);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < n; ++j) {
      double number = x[r * row_stride + j];
      totals[j] = largest ? std::max(totals[j], number) : std::min(totals[j], number);
    }
  }
}

template <bool largest, class S>
int64_t search_row(const void* data, int64_t n) {
  using T = Computed<S>;
  auto* x = static_cast<const S*>(data);
  double best = largest ? reduce_row<Max, S>(data, n, 0, Max::kInitial) : reduce_row<Min, S>(data, n, 0, Min::kInitial);
  T wanted = static_cast<T>(best);
  bool wants_nan = wanted != wanted;
  for (int64_t i = 0; i < n; ++i) {
    T number = static_cast<T>(x[i]);
    if (wants_nan ? number != number : number == wanted) return i;
  }
  return 0;
}

template <bool largest, class S>
void search_columns(const void* data, int64_t rows, int64_t row_stride, int64_t n, int64_t* found) {
  using T = Computed<S>;
  auto* x = static_cast<const S*>(data);
  constexpr int64_t kBlock = 64;
  for (int64_t j = 0; j < n; j += kBlock) {
    int64_t count = std::min(kBlock, n - j);
    T best[kBlock];
    int64_t at[kBlock] = {};
    for (int64_t c = 0; c < count; ++c) best[c] = static_cast<T>(x[j + c]);
    for (int64_t r = 1; r < rows; ++r) {
      for (int64_t c = 0; c < count; ++c) {
        T number = static_cast<T>(x[r * row_stride + j + c]);
        bool better = (largest ? number > best[c] : number < best[c]) || (number != number && best[c] == best[c]);
        // Nothing beats NaN: every comparison with it is false.
        best[c] = better ? number : best[c];
        at[c] = better ? r : at[c];
      }
    }
    std::copy_n(at, count, found + j);
  }
}

template <class F>
auto with_accumulation(Accumulation accumulation, F f) {
  switch (accumulation) {
    case Accumulation::kSum:
      return f(Sum());
    case Accumulation::kProduct:
      return f(Product());
    case Accumulation::kMax:
      return f(Max());
    case Accumulation::kMin:
      return f(Min());
    case Accumulation::kSumOfMagnitudes:
      return f(SumOfMagnitudes());
    default:
      return f(SumOfExponentials());
  }
}

RowReduction find_row(Accumulation accumulation, c10::ScalarType dtype) {
  if (dtype == c10::kBool) {
    return accumulation == Accumulation::kMax ? test_row<true>
                                              : (accumulation == Accumulation::kMin ? test_row<false> : nullptr);
  }
  if (accumulation == Accumulation::kSumOfSquares)
    return with_storage(dtype, [](auto s) -> RowReduction { return square_row<decltype(s)>; });
  return with_accumulation(accumulation, [&](auto a) {
    return with_storage(dtype, [&](auto s) -> RowReduction { return reduce_row<decltype(a), decltype(s)>; });
  });
}

ColumnReduction find_columns(Accumulation accumulation, c10::ScalarType dtype) {
  if (dtype == c10::kBool) {
    return accumulation == Accumulation::kMax ? test_columns<true>
                                              : (accumulation == Accumulation::kMin ? test_columns<false> : nullptr);
  }
  if (accumulation == Accumulation::kSumOfSquares)
    return with_storage(dtype, [](auto s) -> ColumnReduction { return square_columns<decltype(s)>; });
  return with_accumulation(accumulation, [&](auto a) {
    return with_storage(dtype, [&](auto s) -> ColumnReduction { return reduce_columns<decltype(a), decltype(s)>; });
  });
}

RowSearch find_row_search(bool largest, c10::ScalarType dtype) {
  return with_storage(dtype, [&](auto s) -> RowSearch {
    return largest ? search_row<true, decltype(s)> : search_row<false, decltype(s)>;
  });
}

ColumnSearch find_column_search(bool largest, c10::ScalarType dtype) {
  return with_storage(dtype, [&](auto s) -> ColumnSearch {
    return largest ? search_columns<true, decltype(s)> : search_columns<false, decltype(s)>;
  });
}

}  // namespace

ReduceTable reduce_table() { return {find_row, find_columns, find_row_search, find_column_search}; }

}  // namespace torchweld::cpu::TORCHWELD_ISA
