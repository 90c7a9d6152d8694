// Memory layouts that LibTorch gives to results; ops use them so that an engine's results look like eager's.
#pragma once

#include "core/types.h"

namespace torchweld {

/// True when LibTorch takes a tensor of rank 4 or 5 for channels-last, also one with gaps between its elements. A
/// tensor whose sizes leave both readings open counts as row-major or channels-last by its strides of size-1
/// dimensions.
bool suggests_channels_last(const TensorType& type);
/// Channels-last strides for `shape` when one of `like` suggests it and the rank is 4 or 5, else row-major ones.
Dims suggested_strides(const Dims& shape, std::initializer_list<const TensorType*> like);
/// Strides without gaps for `shape` whose dimensions lie in memory in the order that `strides` have, found as LibTorch
/// does: repeated dimensions (of stride 0) keep their place.
Dims dense_strides_like(const Dims& shape, const Dims& strides);
/// `type` with other sizes, laid out by suggested_strides.
TensorType with_suggested_layout(const TensorType& type, Dims shape);

}  // namespace torchweld
