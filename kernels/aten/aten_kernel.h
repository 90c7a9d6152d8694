// Runs any node by its ATen line.
#pragma once

#include "core/plain_aten.h"
#include "kernels/kernel.h"

namespace torchweld {

/// `result` of an ATen call as a tensor of `type` that shares no memory with `inputs`: itself where it is one already,
/// else a copy. Throws InternalError when dtype or shape differ.
at::Tensor fit_result(at::Tensor result, const TensorType& type, Tensors inputs);

/// A kernel that calls the node's ATen line. Results are LibTorch's own tensors, copied only where their strides differ
/// from the node's types or where they share memory with an input. On CUDA the caller makes StepArgs::stream the
/// current stream. Needs LibTorch's allocator; capturable unless the op is known to wait for the device.
std::unique_ptr<Kernel> make_aten_kernel(const Node& node);

/// Takes every node.
void propose_aten(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld
