// Packed weights that plans have in common.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>

namespace torchweld {

/// A tensor with the dtype, sizes and bytes of `packed` (contiguous, never written again) that some plan of this
/// process holds already, else `packed` itself. So plans for other shapes, and other engines with the same weights,
/// share what they pack alike. Waits for the current stream. Undefined tensors and tensors in host memory are returned
/// as they are.
at::Tensor shared_constant(at::Tensor packed);

/// The same of what `pack` gives, which is not called where a call waits (see WithoutCompiler) and some plan holds what
/// it gave for this origin. `origin` names the weights' states and how they are packed (see LazyTensor::origin), the
/// device included; empty where that is not known. Plans that no call waits for look at the weights themselves, so that
/// what is written behind LibTorch's back (through `parameter.data`) does not live longer than the plan made at once.
at::Tensor shared_constant(const std::string& origin, const std::function<at::Tensor()>& pack);

}  // namespace torchweld
