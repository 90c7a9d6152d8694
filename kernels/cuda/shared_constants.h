// Packed weights that plans have in common.
#pragma once

#include <ATen/core/Tensor.h>

namespace torchweld::cuda {

/// A tensor with the dtype, sizes and bytes of `packed` (contiguous, never written again) that some plan of this
/// process holds already, else `packed` itself. So plans for other shapes, and other engines with the same weights,
/// share what they pack alike. Waits for the current stream. Undefined tensors and tensors in host memory are returned
/// as they are.
at::Tensor shared_constant(at::Tensor packed);

}  // namespace torchweld::cuda
