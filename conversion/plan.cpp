#include "conversion/plan.h"

#include <algorithm>
#include <mutex>

#include "core/sweeper.h"

namespace torchweld {

WeightMark::WeightMark(at::Tensor weight)
    : weight_(std::move(weight)),
      storage_(weight_.unsafeGetTensorImpl()->unsafe_storage().getWeakStorageImpl()),
      memory_(weight_.has_storage() ? weight_.storage().data() : nullptr),
      counts_writes_(!weight_.is_inference()) {
  const c10::TensorImpl& now = *weight_.unsafeGetTensorImpl();
  if (counts_writes_) version_ = now.version_counter().current_version();
  numel_ = now.numel();
  is_strided_ = weight_.layout() == c10::kStrided;
  if (!is_strided_) return;
  offset_ = now.storage_offset();
  first_stride_ = first_stride_of(now);
  shape_ = weight_.sizes().vec();
  strides_ = weight_.strides().vec();
}

namespace {

using WeakTensor = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;

/// A state of a tensor that has been given a number. Weak references keep addresses from being used again.
struct KnownWeight {
  WeakTensor tensor;
  c10::weak_intrusive_ptr<c10::StorageImpl> storage;
  const void* memory;
  uint32_t version;
  TensorType type;
  int64_t offset;
  uint64_t number;
};

struct KnownWeights {
  std::mutex mutex;
  std::unordered_map<const c10::TensorImpl*, KnownWeight> last;  // states that were
  uint64_t next = 0;
  Sweeper sweeper;
};

}  // namespace

std::string WeightMark::origin() const {
  if (!counts_writes_ || !is_strided_ || !weight_.has_storage() || !is_current()) return "";
  static KnownWeights& known = *new KnownWeights;  // never destroyed: plans may be made until the process ends
  const c10::TensorImpl* impl = weight_.unsafeGetTensorImpl();
  TensorType type = type_of(weight_);
  if (type.shape != shape_ || type.strides != strides_) return "";
  std::lock_guard lock(known.mutex);
  known.sweeper.sweep(known.last, [](const KnownWeight& weight) { return weight.tensor.expired(); });
  auto found = known.last.find(impl);
  bool same = found != known.last.end() && found->second.storage == storage_ && found->second.memory == memory_ &&
              found->second.version == version_ && found->second.type == type && found->second.offset == offset_;
  if (!same) {
    KnownWeight now{WeakTensor(weight_.getIntrusivePtr()), storage_, memory_, version_, type, offset_, known.next++};
    found = known.last.insert_or_assign(impl, std::move(now)).first;
  }
  return "weight " + std::to_string(found->second.number);
}

bool Plan::is_current() const {
  // Short loops, without a way out: so the processor has the counters of many weights on their way from its cache.
  bool current = true;
  for (const WeightMark& weight : weights) current &= weight.is_unwritten();
  for (const WeightMark& weight : weights) current &= weight.is_in_place();
  return current;
}

}  // namespace torchweld
