// Functions of whole rows of contiguous numbers, compiled for several instruction sets.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

namespace torchweld::cpu {

/// y = softmax(x), or its logarithm, of n numbers. `scratch` holds n numbers of the dtype they are computed in (f32,
/// f64 for f64) and may be y itself where that is y's dtype.
using SoftmaxRow = void (*)(const void* x, int64_t n, void* scratch, void* y);

/// y[i] = (x[i] - center) / sqrt(mean((x - center)^2) + eps) * weight[i] + bias[i] of n numbers. The center is their
/// mean for a layer norm, 0 for an RMS norm. Weight and bias are of the dtype that x is computed in; null for none.
using NormRow = void (*)(const void* x, int64_t n, double eps, const void* weight, const void* bias, void* y);

/// One instruction set's functions; null for dtypes other than f32 f64 f16 bf16.
struct RowTable {
  SoftmaxRow (*softmax)(bool log, c10::ScalarType dtype);
  NormRow (*norm)(bool centered, c10::ScalarType dtype);
};

}  // namespace torchweld::cpu
