#include "runtime/weights_view.h"

namespace torchweld {

WeightsView::WeightsView(const c10::IValue& module, [[maybe_unused]] c10::Device device) : module_(view_of(module)) {
#ifdef TORCHWELD_WITH_CUDA
  if (device.is_cuda()) written_.record(c10::cuda::getCurrentCUDAStream(device.index()));
#endif
}

const c10::IValue& WeightsView::module() const {
#ifdef TORCHWELD_WITH_CUDA
  written_.synchronize();
#endif
  return module_;
}

c10::IValue WeightsView::view_of(const c10::IValue& value) {
  if (value.isObject() && !value.isCustomClass()) {
    auto copy = value.toObjectRef().copy();
    for (size_t i = 0; i < copy->slots().size(); ++i) copy->setSlot(i, view_of(copy->slots()[i]));
    return copy;
  }
  if (!value.isTensor() || !value.toTensor().defined()) return value;
  at::Tensor& alias = aliases_[value.toTensor().unsafeGetTensorImpl()];
  if (!alias.defined()) {
    alias = value.toTensor().variable_data();
    marks_.emplace(alias.unsafeGetTensorImpl(), WeightMark(value.toTensor()));
  }
  return alias;
}

}  // namespace torchweld
