// Functions on short blocks of numbers in the first-level cache, compiled for several instruction sets.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string>

namespace torchweld::cpu {

/// out[i] = f(a[i], b[i], c[i]) for i < n; operands that f does not take are not read. `out` may be one of the
/// operands.
using BlockFunction = void (*)(const void* a, const void* b, const void* c, void* out, int64_t n);

/// The dtype in which blocks of this dtype are computed: f32 for f16 and bf16.
c10::ScalarType block_dtype(c10::ScalarType dtype);

/// Row `fn` of the pointwise table on blocks of dtype `dtype` (f32 f64 i64 i32 i16 i8 u8 b8); results of comparisons
/// and the condition of "where" are b8. Null where there is none: divisions of integers, which raise for 0, and
/// arithmetic on bools.
BlockFunction find_block_function(const std::string& fn, c10::ScalarType dtype);
/// Converts a[i] as Tensor.to does; `from` or `to` may be f16 and bf16 beside the dtypes above. Null for other dtypes.
BlockFunction find_block_cast(c10::ScalarType from, c10::ScalarType to);

/// One instruction set's functions.
struct BlockTable {
  BlockFunction (*function)(const std::string& fn, c10::ScalarType dtype);
  BlockFunction (*cast)(c10::ScalarType from, c10::ScalarType to);
};

}  // namespace torchweld::cpu
