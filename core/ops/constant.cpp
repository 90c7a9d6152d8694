#include "core/ops/constant.h"

#include <ATen/ops/scalar_tensor.h>

namespace torchweld {

Constant Constant::immediate(const c10::Scalar& number, c10::Device) {
  c10::ScalarType dtype = number.isBoolean() ? c10::kBool : number.isIntegral(false) ? c10::kLong : c10::kDouble;
  at::Tensor value = at::scalar_tensor(number, dtype);
  value.unsafeGetTensorImpl()->set_wrapped_number(true);
  return {.value = value, .name = ""};
}

const at::Tensor* constant_of(const Value* value) {
  auto* constant = value->from<Constant>();
  return constant ? &constant->value.tensor() : nullptr;
}

const LazyTensor* lazy_constant_of(const Value* value) {
  auto* constant = value->from<Constant>();
  return constant ? &constant->value : nullptr;
}

std::optional<double> number_of(const Value* value) {
  const LazyTensor* constant = lazy_constant_of(value);
  if (!constant || constant->dim() != 0) return std::nullopt;
  return constant->tensor().item<double>();
}

void define_constant(OpSet& ops) {
  ops.add<Constant>("constant")
      .infer([](const Constant& a, Types) { return a.value.type(); })
      .aten([](const Constant& a, Tensors) { return a.value.tensor(); })
      .flops([](const Constant&, Types, Types) { return 0.0; });
}

}  // namespace torchweld
