#include "core/ops/shape.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty_strided.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/import_args.h"
#include "core/ops/layout.h"

namespace torchweld {
namespace {

TensorType infer_reshape(const Reshape& a, Types in) {
  int64_t count = std::accumulate(a.shape.begin(), a.shape.end(), int64_t{1}, std::multiplies<>());
  expect(std::all_of(a.shape.begin(), a.shape.end(), [](int64_t size) { return size >= 0; }) && count == in[0].numel(),
         [&] { return "reshape: " + to_string(in[0].shape) + " cannot become " + to_string(a.shape); });
  Dims strides = view_strides(in[0], a.shape).value_or(contiguous_strides(a.shape));
  return {in[0].dtype, a.shape, std::move(strides), in[0].device};
}

TensorType infer_permute(const Permute& a, Types in) {
  Dims sorted = a.order;
  std::sort(sorted.begin(), sorted.end());
  Dims all(in[0].shape.size());
  std::iota(all.begin(), all.end(), 0);
  expect(sorted == all, "permute: the order must name each dimension once");
  return permuted(in[0], a.order);
}

TensorType infer_slice(const Slice& a, Types in) {
  expect(a.axis >= 0 && a.axis < in[0].rank(), "slice: axis out of range");
  expect(a.step >= 1, "slice: step must be positive");
  expect(0 <= a.start && a.start <= a.end && a.end <= in[0].shape[a.axis], "slice: bounds out of range");
  TensorType type = in[0];
  type.shape[a.axis] = (a.end - a.start + a.step - 1) / a.step;
  type.strides[a.axis] *= a.step;
  return type;
}

TensorType infer_expand(const Expand& a, Types in) {
  expect(broadcast_shapes(in[0].shape, a.shape) == a.shape,
         [&] { return "expand: " + to_string(in[0].shape) + " cannot become " + to_string(a.shape); });
  return {in[0].dtype, a.shape, broadcast_strides(in[0].shape, in[0].strides, a.shape), in[0].device};
}

TensorType infer_concat(const Concat& a, Types in) {
  expect(!in.empty(), "cat: needs at least one tensor");
  Dims shape = in[0].shape;
  expect(a.axis >= 0 && a.axis < in[0].rank(), "cat: axis out of range");
  bool channels_last = true;
  for (size_t i = 0; i < in.size(); ++i) {
    expect(in[i].dtype == in[0].dtype, "cat: tensors must have one dtype");
    expect(in[i].rank() == in[0].rank(), "cat: tensors must have one rank");
    for (int64_t d = 0; d < in[0].rank(); ++d) {
      expect(d == a.axis || in[i].shape[d] == shape[d], "cat: sizes differ beside the joined dimension");
    }
    if (i > 0) shape[a.axis] += in[i].shape[a.axis];
    channels_last &= suggests_channels_last(in[i]);
  }
  Dims strides = channels_last ? channels_last_strides(shape) : contiguous_strides(shape);
  return {in[0].dtype, std::move(shape), std::move(strides), in[0].device};
}

TensorType infer_pad(const Pad& a, Types in) {
  expect(a.before.size() == in[0].shape.size() && a.after.size() == in[0].shape.size(),
         "pad: needs a count before and after every dimension");
  Dims shape = in[0].shape;
  for (size_t i = 0; i < shape.size(); ++i) {
    shape[i] += a.before[i] + a.after[i];
    // LibTorch pads onto the cut tensor, so a cut may not take more than there is.
    int64_t left = in[0].shape[i] + std::min<int64_t>(a.before[i], 0) + std::min<int64_t>(a.after[i], 0);
    expect(left >= 0 && shape[i] >= 0, "pad: cuts off more than there is");
  }
  return with_suggested_layout(in[0], std::move(shape));
}

at::Tensor run_pad(const Pad& a, Tensors in) {
  Dims pairs;
  for (size_t i = a.before.size(); i-- > 0;) {
    pairs.push_back(a.before[i]);
    pairs.push_back(a.after[i]);
  }
  while (pairs.size() >= 2 && pairs.back() == 0 && pairs[pairs.size() - 2] == 0) pairs.resize(pairs.size() - 2);
  return at::constant_pad_nd(in[0], pairs, a.value);
}

TensorType infer_copy(const Copy& a, Types in) {
  expect(a.strides.size() == in[0].shape.size(), "copy: needs one stride per dimension");
  TensorType type = with_strides(in[0], a.strides);
  expect(is_dense(type), "copy: strides must leave no gaps and no overlaps");
  return type;
}

at::Tensor run_copy(const Copy& a, Tensors in) {
  at::Tensor copy = at::empty_strided(in[0].sizes(), a.strides, in[0].options());
  return copy.copy_(in[0]);
}

}  // namespace

Value* emit_memory_format(ImportArgs& a, Value* x, int64_t format) {
  const TensorType& type = x->type;
  auto wanted = static_cast<c10::MemoryFormat>(format);
  Dims strides;
  if (wanted == c10::MemoryFormat::Preserve) return x;
  if (wanted == c10::MemoryFormat::Contiguous) {
    strides = contiguous_strides(type.shape);
  } else {
    int64_t rank = wanted == c10::MemoryFormat::ChannelsLast ? 4 : 5;
    expect(type.rank() == rank,
           [&] { return "channels-last memory formats need a tensor of rank " + std::to_string(rank); });
    strides = channels_last_strides(type.shape);
  }
  return same_layout(type.shape, type.strides, strides) ? x : a.emit(Copy{.strides = strides}, {x});
}

Dims Permute::inverse() const {
  Dims back(order.size());
  for (size_t i = 0; i < order.size(); ++i) back[order[i]] = static_cast<int64_t>(i);
  return back;
}

void define_shape(OpSet& ops) {
  auto no_flops = [](const auto&, Types, Types) { return 0.0; };
  auto reshape = ops.add<Reshape>("reshape");
  reshape.view().infer(infer_reshape).aten([](const Reshape& a, Tensors in) { return in[0].reshape(a.shape); });
  ops.add<Permute>("permute").view().infer(infer_permute).aten([](const Permute& a, Tensors in) {
    return in[0].permute(a.order);
  });
  ops.add<Slice>("slice").view().infer(infer_slice).aten([](const Slice& a, Tensors in) {
    return in[0].slice(a.axis, a.start, a.end, a.step);
  });
  ops.add<Expand>("expand").view().infer(infer_expand).aten([](const Expand& a, Tensors in) {
    return in[0].expand(a.shape);
  });
  ops.add<Concat>("concat").infer(infer_concat).flops(no_flops).aten([](const Concat& a, Tensors in) {
    return at::cat(at::TensorList(in.data(), in.size()), a.axis);
  });
  ops.add<Pad>("pad").infer(infer_pad).flops(no_flops).aten(run_pad);
  ops.add<Copy>("copy").infer(infer_copy).flops(no_flops).aten(run_copy);
  define_shape_imports(reshape);
}

}  // namespace torchweld
