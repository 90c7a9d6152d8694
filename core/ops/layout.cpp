#include "core/ops/layout.h"

#include <ATen/ExpandUtils.h>

#include <algorithm>

namespace torchweld {

bool suggests_channels_last(const TensorType& type) {
  if (type.rank() != 4 && type.rank() != 5) return false;
  Dims order{1};
  for (int64_t i = type.rank() - 1; i >= 2; --i) order.push_back(i);
  order.push_back(0);
  if (type.strides[1] == 0) return false;
  int64_t least = 0;
  for (int64_t d : order) {
    if (type.shape[d] == 0 || type.strides[d] < least) return false;
    // N1HW-like tensors whose strides say nothing stay row-major.
    if (d == 0 && least == type.strides[1]) return false;
    least = type.strides[d] * std::max<int64_t>(type.shape[d], 1);
  }
  return true;
}

Dims suggested_strides(const Dims& shape, std::initializer_list<const TensorType*> like) {
  bool channels_last = (shape.size() == 4 || shape.size() == 5) &&
                       std::any_of(like.begin(), like.end(), [](auto* type) { return suggests_channels_last(*type); });
  return channels_last ? channels_last_strides(shape) : contiguous_strides(shape);
}

Dims dense_strides_like(const Dims& shape, const Dims& strides) { return at::infer_dense_strides(shape, strides); }

TensorType with_suggested_layout(const TensorType& type, Dims shape) {
  Dims strides = suggested_strides(shape, {&type});
  return {type.dtype, std::move(shape), std::move(strides), type.device};
}

}  // namespace torchweld
