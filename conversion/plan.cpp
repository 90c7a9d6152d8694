#include "conversion/plan.h"

#include <algorithm>

namespace torchweld {

WeightMark::WeightMark(at::Tensor weight)
    : weight_(std::move(weight)),
      storage_(weight_.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl()),
      memory_(storage_ ? storage_->data() : nullptr),
      counts_writes_(!weight_.is_inference()) {
  if (counts_writes_) version_ = weight_.unsafeGetTensorImpl()->version_counter().current_version();
}

bool Plan::is_current() const {
  return std::all_of(weights.begin(), weights.end(), [](const WeightMark& weight) { return weight.is_current(); });
}

}  // namespace torchweld
