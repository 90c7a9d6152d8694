#include "conversion/plan.h"

#include <algorithm>

namespace torchweld {

namespace {

const void* memory_of(const at::Tensor& tensor) {
  return tensor.has_storage() ? tensor.unsafeGetTensorImpl()->unsafe_storage().data() : nullptr;
}

/// Tensors made in inference mode count no writes.
uint32_t version_of(const at::Tensor& tensor) {
  return tensor.is_inference() ? 0 : tensor.unsafeGetTensorImpl()->version_counter().current_version();
}

}  // namespace

WeightMark::WeightMark(at::Tensor weight)
    : weight_(std::move(weight)), memory_(memory_of(weight_)), version_(version_of(weight_)) {}

bool WeightMark::is_current() const { return memory_of(weight_) == memory_ && version_of(weight_) == version_; }

bool Plan::is_current() const {
  return std::all_of(weights.begin(), weights.end(), [](const WeightMark& weight) { return weight.is_current(); });
}

}  // namespace torchweld
