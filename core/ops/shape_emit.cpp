#include "core/ops/shape_emit.h"

#include <algorithm>
#include <numeric>

#include "core/import_args.h"
#include "core/ops/shape.h"

namespace torchweld {

Value* reshape(ImportArgs& a, Value* x, Dims shape) {
  return x->type.shape == shape ? x : a.emit(Reshape{.shape = std::move(shape)}, {x});
}

Value* permute(ImportArgs& a, Value* x, Dims order) {
  return std::is_sorted(order.begin(), order.end()) ? x : a.emit(Permute{.order = std::move(order)}, {x});
}

Value* slice(ImportArgs& a, Value* x, int64_t axis, int64_t start, int64_t end, int64_t step) {
  if (start == 0 && end == x->type.shape[axis] && step == 1) return x;
  return a.emit(Slice{.axis = axis, .start = start, .end = end, .step = step}, {x});
}

Value* expand(ImportArgs& a, Value* x, Dims shape) {
  return x->type.shape == shape ? x : a.emit(Expand{.shape = std::move(shape)}, {x});
}

Value* unsqueeze(ImportArgs& a, Value* x, int64_t axis) {
  Dims shape = x->type.shape;
  shape.insert(shape.begin() + axis, 1);
  return a.emit(Reshape{.shape = std::move(shape)}, {x});
}

std::pair<int64_t, int64_t> slice_bounds(ImportArgs& a, int64_t size) {
  auto bound = [&](const char* name, int64_t otherwise) {
    int64_t at = a.integer_or(name, otherwise);
    return std::clamp<int64_t>(at < 0 ? at + size : at, 0, size);
  };
  int64_t start = bound("start", 0);
  return {start, std::max(start, bound("end", size))};
}

Dims iota(int64_t count) {
  Dims result(static_cast<size_t>(count));
  std::iota(result.begin(), result.end(), 0);
  return result;
}

}  // namespace torchweld
