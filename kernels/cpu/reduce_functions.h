// Reductions of contiguous numbers, compiled for several instruction sets.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

namespace torchweld::cpu {

/// How a number joins a total. NaN wins in kMax and kMin. b8 takes only these two.
enum class Accumulation { kSum, kProduct, kMax, kMin, kSumOfMagnitudes, kSumOfSquares, kSumOfExponentials };

/// The total of nothing.
double initial_total(Accumulation accumulation);
/// Two totals in one.
double joined_totals(Accumulation accumulation, double a, double b);

/// `total` with x[i] for i < n, of squares and exponentials with x[i] - shift.
using RowReduction = double (*)(const void* x, int64_t n, double shift, double total);
/// The same for `n` neighbouring columns of `rows` rows that lie `row_stride` elements apart: totals[j] with x[r][j]
/// for every r.
using ColumnReduction = void (*)(const void* x, int64_t rows, int64_t row_stride, int64_t n, const double* shifts,
                                 double* totals);

/// Where the first of the largest (smallest) of n numbers stands, the first NaN if there is one. n > 0.
using RowSearch = int64_t (*)(const void* x, int64_t n);
/// The same for columns.
using ColumnSearch = void (*)(const void* x, int64_t rows, int64_t row_stride, int64_t n, int64_t* found);

/// One instruction set's functions; null for dtypes other than f32 f64 f16 bf16. Runs of numbers are accumulated in f32
/// (f64 for f64), the runs' totals in f64.
struct ReduceTable {
  RowReduction (*row)(Accumulation accumulation, c10::ScalarType dtype);
  ColumnReduction (*columns)(Accumulation accumulation, c10::ScalarType dtype);
  RowSearch (*row_search)(bool largest, c10::ScalarType dtype);
  ColumnSearch (*column_search)(bool largest, c10::ScalarType dtype);
};

}  // namespace torchweld::cpu
