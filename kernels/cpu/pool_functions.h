// The inner loops of pooling, compiled for several instruction sets.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

namespace torchweld::cpu {

/// out[i] = the largest of taps[t][i] for t < count (NaN wins; -inf for none), or their sum over `divisor`, for i < n.
using PoolTaps = void (*)(const void* const* taps, int64_t count, int64_t n, double divisor, void* out);

/// out[o] = the largest of line[i] for i = begin[o], begin[o] + step ... under end[o], or their sum over divisor times
/// counts[o], for o < n. `line` is of the dtype that `out` is computed in (f32, f64 for f64).
using PoolLine = void (*)(const void* line, const int64_t* begin, const int64_t* end, int64_t step,
                          const int64_t* counts, double divisor, int64_t n, void* out);

/// One instruction set's functions; null for dtypes other than f32 f64 f16 bf16.
struct PoolTable {
  /// `wide`: `out` is of the dtype that numbers are computed in.
  PoolTaps (*taps)(bool largest, bool wide, c10::ScalarType dtype);
  PoolLine (*line)(bool largest, c10::ScalarType dtype);
};

}  // namespace torchweld::cpu
