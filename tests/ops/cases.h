// The one list of op cases: TorchScript expressions with input shapes, multiplied by dtype, layout and device.
#pragma once

#include <c10/core/ScalarType.h>

#include <string>
#include <vector>

namespace torchweld::test {

using Shape = std::vector<int64_t>;

/// Which dtypes a row runs in.
enum class Dtypes {
  kFloat,     ///< f32 f16 bf16
  kFloating,  ///< f32 f16 bf16 f64
  kInteger,   ///< i64 i32 u8
  kNumber,    ///< f32 f16 bf16 f64 i64 i32 u8
  kAny,       ///< kNumber and b8
  kSingle,    ///< f32 only
};

/// One row. The expression may hold several statements, the last of which returns.
struct Case {
  const char* name;
  /// Over the tensors x, y, z, w, as many as the first list of shapes has.
  const char* expression;
  /// Each element: the shapes of x, y, z, w for one run.
  std::vector<std::vector<Shape>> shapes;
  Dtypes dtypes = Dtypes::kFloat;
  /// What the tensors hold, a letter for each: n numbers around 0, p positive numbers, u numbers in (0.05, 0.95), s
  /// numbers with NaN, infinities and both zeros, b bools, i indices 0 or 1 (i64), j indices -2 to 1 (i64), f f32
  /// whatever the row's dtype is, h numbers around 0 without 0 itself. Letters left out are n.
  const char* content = "";
  /// The import must be refused with a message that has these words. Empty: it must not be refused.
  const char* refusal = "";
  /// LibTorch gives results other strides than the engine does (views of a generic op, some channels-last results).
  bool free_layout = false;
};

const std::vector<Case>& pointwise_cases();
const std::vector<Case>& conv_cases();
const std::vector<Case>& matmul_cases();
const std::vector<Case>& pool_cases();
const std::vector<Case>& reduce_cases();
const std::vector<Case>& norm_cases();
const std::vector<Case>& softmax_cases();
const std::vector<Case>& shape_cases();
const std::vector<Case>& resize_cases();
const std::vector<Case>& index_cases();
const std::vector<Case>& attention_cases();
const std::vector<Case>& recurrent_cases();
const std::vector<Case>& creation_cases();
const std::vector<Case>& generic_cases();

struct Family {
  const char* name;
  const std::vector<Case>& cases;
};
/// Every family.
const std::vector<Family>& families();

}  // namespace torchweld::test
