#include "kernels/cpu/onednn.h"

#include "core/error.h"

namespace torchweld::cpu {

c10::OperatorHandle find_op(const char* name, const char* overload) {
  auto found = c10::Dispatcher::singleton().findSchema({name, overload});
  expect(found.has_value(), std::string("this LibTorch has no operator ") + name);
  return *found;
}

bool onednn_takes(c10::ScalarType dtype) {
  if (!c10::Dispatcher::singleton().findSchema({"mkldnn::_convolution_pointwise", ""})) return false;
  if (dtype == c10::kFloat) return true;
  if (dtype == c10::kBFloat16) return onednn_op<bool()>("mkldnn::_is_mkldnn_bf16_supported", "").call();
  return dtype == c10::kHalf && onednn_op<bool()>("mkldnn::_is_mkldnn_fp16_supported", "").call();
}

c10::List<std::optional<at::Scalar>> scalar_list(const std::vector<std::optional<at::Scalar>>& scalars) {
  c10::List<std::optional<at::Scalar>> list;
  for (const auto& scalar : scalars) list.push_back(scalar);
  return list;
}

}  // namespace torchweld::cpu
