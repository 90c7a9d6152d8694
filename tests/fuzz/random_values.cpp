#include "tests/fuzz/random_values.h"

#include <ATen/TensorOperators.h>

#include <algorithm>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/pointwise.h"

namespace torchweld::test {

constexpr int64_t kLargest = 20000;  // elements of a value

RandomValues::RandomValues(uint64_t seed) : random_(seed) {
  static const std::vector<c10::ScalarType> dtypes{c10::kFloat,  c10::kFloat, c10::kFloat,
                                                   c10::kDouble, c10::kHalf,  c10::kBFloat16};
  dtype_ = choose(dtypes);
  batch_ = choose({1, 2, 3});
  channels_ = choose({1, 3, 4, 8, 16});
  for (int64_t i = below(3) + 1; i-- > 0;) add_input();
}

Value* RandomValues::add(Attrs attrs, const std::vector<Value*>& inputs) {
  Value* value = graph_->add(std::move(attrs), inputs);
  if (value->type.numel() > kLargest) throw Unsupported("too large");
  values_.push_back(value);
  return value;
}

Value* RandomValues::fn(const char* name, const std::vector<Value*>& inputs) { return add(Pointwise{name}, inputs); }

Value* RandomValues::any() {
  int64_t count = static_cast<int64_t>(values_.size());
  return values_[static_cast<size_t>(count - 1 - below(chance(0.6) ? std::min<int64_t>(count, 3) : count))];
}

Value* RandomValues::floating(int64_t least_rank) {
  for (int tries = 0; tries < 40; ++tries) {
    Value* x = any();
    if (x->type.dtype == dtype_ && x->type.rank() >= least_rank) return x;
  }
  throw Unsupported("no such value");
}

Value* RandomValues::image() {
  for (int tries = 0; tries < 40; ++tries) {
    Value* x = floating();
    if (x->type.rank() == 4) return x;
  }
  throw Unsupported("no image");
}

Value* RandomValues::constant(const Dims& shape, double scale) {
  at::Tensor tensor = empty_tensor(contiguous_type(c10::kDouble, shape, c10::kCPU));
  auto* numbers = tensor.mutable_data_ptr<double>();
  for (int64_t i = 0; i < tensor.numel(); ++i) numbers[i] = scale * (static_cast<double>(below(2001)) / 1000 - 1);
  return graph_->add(Constant{.value = tensor.to(dtype_), .name = ""}, {});
}

Value* RandomValues::filled(const Dims& shape, double x) {
  at::Tensor tensor = empty_tensor(contiguous_type(dtype_, shape, c10::kCPU)).fill_(x);
  return graph_->add(Constant{.value = tensor, .name = ""}, {});
}

Value* RandomValues::number(double x) { return graph_->add(Constant::immediate(x, c10::kCPU), {}); }

Value* RandomValues::whole_number(int64_t x) { return graph_->add(Constant::immediate(x, c10::kCPU), {}); }

void RandomValues::add_input() {
  Dims shape;
  switch (below(4)) {
    case 0:
      shape = {batch_, choose({1, 4, 7, 16}), channels_};
      break;
    case 1:
      shape = {choose({1, 2, 5, 12}), channels_};
      break;
    default:
      shape = {batch_, channels_, choose({4, 7, 8}), choose({4, 6, 9})};
  }
  c10::ScalarType dtype = values_.empty() || chance(0.8) ? dtype_ : chance(0.5) ? c10::kLong : c10::kBool;
  Dims strides = contiguous_strides(shape);
  switch (below(6)) {
    case 0:
      if (shape.size() == 4) strides = channels_last_strides(shape);
      break;
    case 1:
      std::swap(shape.front(), shape.back());
      strides = contiguous_strides(shape);
      std::swap(shape.front(), shape.back());
      std::swap(strides.front(), strides.back());
      break;
    case 2:  // a slice of something wider
      for (size_t i = 0; i + 1 < strides.size(); ++i) strides[i] += strides[i] / std::max<int64_t>(shape.back(), 1);
      break;
    case 3:
      if (chance(0.3)) strides.front() = 0;
      break;
    default:
      break;
  }
  values_.push_back(graph_->add_input({dtype, shape, strides, c10::kCPU}));
}

void RandomValues::choose_outputs() {
  graph_->add_output(values_.back());
  for (int64_t i = below(4); i-- > 0;) graph_->add_output(choose(values_));
}

}  // namespace torchweld::test
