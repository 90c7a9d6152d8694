// Result types of operators that LibTorch cannot run on meta tensors in C++.
#pragma once

#include <ATen/core/ivalue.h>

#include <optional>
#include <string>
#include <vector>

#include "core/types.h"

namespace torchweld {

/// Types of the tensor results of a call of `op` ("aten::flip", "aten::median.dim"), as if on the meta device.
/// `arguments` are all arguments of its schema, tensors as meta tensors. Nothing when there is no row for the operator.
/// Throws Unsupported when the arguments do not fit together.
std::optional<std::vector<TensorType>> known_result_types(const std::string& op,
                                                          const std::vector<c10::IValue>& arguments);
/// The operators that have a row.
std::vector<std::string> operators_of_known_types();

}  // namespace torchweld
