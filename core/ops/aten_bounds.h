// The largest results of operators whose result sizes depend on data.
#pragma once

#include <ATen/core/ivalue.h>

#include <optional>
#include <string>
#include <vector>

#include "core/types.h"

namespace torchweld {

/// Types of the tensor results of a call of `op` ("aten::nonzero", "torchvision::nms"), lists laid flat, when as many
/// elements as possible come out: every element is nonzero, no box is suppressed, all values differ. `arguments` are
/// all arguments of its schema, tensors as meta tensors. Nothing for other operators. Throws Unsupported when the
/// arguments do not fit together.
std::optional<std::vector<TensorType>> largest_result_types(const std::string& op,
                                                            const std::vector<c10::IValue>& arguments);

}  // namespace torchweld
