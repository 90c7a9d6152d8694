// A module's weights as another thread may read them while the module is used, moved or given others.
#pragma once

#include <ATen/core/ivalue.h>

#include <memory>
#include <unordered_map>

#include "conversion/plan.h"

#ifdef TORCHWELD_WITH_CUDA
#include <ATen/cuda/CUDAEvent.h>
#endif

namespace torchweld {

/// A module by other names: its own tensors' memory in tensors that nobody else has. What the module's tensors are at
/// the call is what is marked.
class WeightsView {
 public:
  /// `module`: a module with tensors on `device`. On CUDA what the current stream has to write so far belongs to it.
  WeightsView(const c10::IValue& module, c10::Device device);
  /// The module, once its tensors have been written.
  const c10::IValue& module() const;
  const WeightMarks& marks() const { return marks_; }

 private:
  c10::IValue view_of(const c10::IValue& value);

  std::unordered_map<const c10::TensorImpl*, at::Tensor> aliases_;
  WeightMarks marks_;
  c10::IValue module_;
#ifdef TORCHWELD_WITH_CUDA
  mutable at::cuda::CUDAEvent written_;
#endif
};

}  // namespace torchweld
