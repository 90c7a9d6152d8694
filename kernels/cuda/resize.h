// Interpolation by our own device code.
#pragma once

#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Takes nearest and linear interpolation over two spatial dimensions of f16, bf16 and f32 tensors of any strides, with
/// the pointwise nodes after it. Source coordinates are ATen's (aten/src/ATen/native/UpSample.h), in f32.
void propose_resize(const Node& node, const KernelContext& context, Offers& offers);

}  // namespace torchweld::cuda
