#include "core/ops/index.h"

#include <ATen/ops/add.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/embedding_bag.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/index.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/nonzero_numpy.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "core/error.h"
#include "core/import_args.h"
#include "core/ops/constant.h"
#include "core/ops/pointwise.h"
#include "core/ops/shape.h"
#include "core/ops/shape_emit.h"

namespace torchweld {
namespace {

TensorType infer_take(const Take& a, Types in) {
  expect(in.size() == 2, "take: takes x and index");
  const TensorType& x = in[0];
  expect(in[1].dtype == c10::kLong || in[1].dtype == c10::kInt, "take: the index must be i64 or i32");
  expect(a.axis >= 0 && a.axis < x.rank(), "take: axis out of range");
  expect(x.shape[a.axis] > 0 || in[1].numel() == 0, "take: picks from no rows");
  Dims shape(x.shape.begin(), x.shape.begin() + a.axis);
  shape.insert(shape.end(), in[1].shape.begin(), in[1].shape.end());
  shape.insert(shape.end(), x.shape.begin() + a.axis + 1, x.shape.end());
  return with_shape(x, std::move(shape));
}

at::Tensor run_take(const Take& a, Tensors in) {
  const at::Tensor& x = in[0];
  if (a.wraps) {
    c10::List<std::optional<at::Tensor>> indices;
    for (int64_t i = 0; i < a.axis; ++i) indices.push_back(std::nullopt);
    indices.push_back(in[1]);
    return at::index(x, indices);
  }
  if (a.axis == 0 && x.dim() == 2 && x.is_floating_point()) return at::embedding(x, in[1]);
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().begin() + a.axis);
  shape.insert(shape.end(), in[1].sizes().begin(), in[1].sizes().end());
  shape.insert(shape.end(), x.sizes().begin() + a.axis + 1, x.sizes().end());
  return at::index_select(x, a.axis, in[1].reshape({-1})).reshape(shape);
}

TensorType infer_embedding_bag(const EmbeddingBag& a, Types in) {
  expect(in.size() == 3 || in.size() == 4, "embedding_bag: takes weight, indices, offsets and optionally factors");
  expect(in[0].rank() == 2 && in[0].is_floating(), "embedding_bag: weight must be floating point, of rank 2");
  expect(in[1].rank() == 1 && in[2].rank() == 1, "embedding_bag: indices and offsets must have rank 1");
  expect(c10::isIntegralType(in[1].dtype, false) && in[2].dtype == in[1].dtype,
         "embedding_bag: indices and offsets must be integers of one dtype");
  expect(in.size() == 3 || (a.mode == 0 && in[3].shape == in[1].shape && in[3].dtype == in[0].dtype),
         "embedding_bag: factors need the mode sum, and the sizes of indices");
  int64_t bags = in[2].shape[0] - (a.include_last_offset ? 1 : 0);
  expect(bags >= 0, "embedding_bag: needs an offset");
  return with_shape(in[0], {bags, in[0].shape[1]});
}

at::Tensor run_embedding_bag(const EmbeddingBag& a, Tensors in) {
  std::optional<at::Tensor> factors;
  if (in.size() == 4) factors = in[3];
  std::optional<int64_t> padding;
  if (a.padding_idx >= 0) padding = a.padding_idx;
  return std::get<0>(
      at::embedding_bag(in[0], in[1], in[2], false, a.mode, false, factors, a.include_last_offset, padding));
}

TensorType infer_gather(const Gather& a, Types in) {
  expect(in.size() == 2, "gather: takes x and index");
  const TensorType& x = in[0];
  expect(in[1].dtype == c10::kLong, "gather: the index must be i64");
  expect(in[1].rank() == x.rank() && a.axis >= 0 && a.axis < std::max<int64_t>(x.rank(), 1),
         "gather: x and index must have one rank");
  for (int64_t i = 0; i < x.rank(); ++i) {
    expect(i == a.axis || in[1].shape[i] <= x.shape[i], "gather: the index is larger than x");
  }
  return with_shape(x, in[1].shape);
}

Value* import_embedding(ImportArgs& a) {
  Value* weight = a.value("weight");
  expect(weight->type.rank() == 2, "embedding: weight must have rank 2");
  return a.emit(Take{.axis = 0}, {weight, a.exact_value("indices")});
}

/// The results beside the first serve training.
std::vector<Value*> import_embedding_bag(ImportArgs& a) {
  Value* weight = a.value("weight");
  EmbeddingBag bag{.mode = a.integer("mode"), .include_last_offset = a.boolean("include_last_offset")};
  if (a.has("padding_idx")) bag.padding_idx = normalize_axis(a.integer("padding_idx"), weight->type.shape.at(0));
  std::vector<Value*> inputs{weight, a.exact_value("indices"), a.exact_value("offsets")};
  if (Value* factors = a.optional_value("per_sample_weights")) inputs.push_back(factors);
  return {a.emit(bag, inputs), nullptr, nullptr, nullptr};
}

Value* import_index_select(ImportArgs& a) {
  Value* x = a.value("self");
  Value* index = a.exact_value("index");
  expect(x->type.rank() > 0 && index->type.rank() <= 1, "index_select: x must have a dimension, index at most one");
  return a.emit(Take{.axis = a.axis("dim", x)}, {x, reshape(a, index, {index->type.numel()})});
}

/// A known index without negative numbers, which Take would have to wrap.
at::Tensor wrapped(const at::Tensor& index, int64_t size) {
  at::Tensor whole = index.to(c10::kLong);
  return at::where(whole.lt(0), whole.add(size), whole);
}

/// x[..., i, j, ...] with known integers for neighbouring axes from `axis` on: one index into these axes as one. Where
/// it enumerates all of their positions, x is copied as it is.
Value* import_known_indices(ImportArgs& a, Value* x, int64_t axis, const std::vector<at::Tensor>& indices) {
  const Dims& shape = x->type.shape;
  at::Tensor index = at::zeros({}, at::kLong);
  int64_t size = 1;
  for (size_t i = 0; i < indices.size(); ++i) {
    int64_t length = shape[axis + i];
    at::Tensor known = wrapped(indices[i].cpu(), length);
    bool fits = known.numel() == 0 || (known.min().item<int64_t>() >= 0 && known.max().item<int64_t>() < length);
    expect(fits, "index: a position outside of its dimension");
    index = at::add(at::mul(index, length), known);
    size *= length;
  }
  index = index.contiguous();
  auto with = [&](at::IntArrayRef middle) {
    Dims dims(shape.begin(), shape.begin() + axis);
    dims.insert(dims.end(), middle.begin(), middle.end());
    dims.insert(dims.end(), shape.begin() + axis + static_cast<int64_t>(indices.size()), shape.end());
    return dims;
  };
  if (index.numel() == size && index.view({-1}).equal(at::arange(size, index.options()))) {
    Value* all = reshape(a, x, with(index.sizes()));
    return a.emit(Copy{.strides = contiguous_strides(all->type.shape)}, {all});
  }
  Constant known{.value = index.to(a.device()), .name = ""};
  return a.emit(Take{.axis = axis}, {reshape(a, x, with({size})), a.emit(known, {})});
}

/// x[..., index, ...] with one index tensor, or with several known ones for neighbouring axes. Known masks count as the
/// positions where they are true; all else runs as the generic op.
Value* import_index(ImportArgs& a) {
  Value* x = a.value("self");
  std::vector<std::optional<at::Tensor>> indices;
  for (const c10::IValue& v : a.raw("indices").toListRef()) {
    bool given = v.isTensor() && v.toTensor().defined();
    indices.push_back(given ? std::optional(v.toTensor()) : std::nullopt);
  }
  auto is_given = [](const std::optional<at::Tensor>& index) { return index.has_value(); };
  auto place = std::find_if(indices.begin(), indices.end(), is_given);
  if (std::count_if(indices.begin(), indices.end(), is_given) > 1) {
    std::vector<at::Tensor> known;
    for (auto i = place; i != indices.end() && *i; ++i) known.push_back(**i);
    bool neighbours = std::none_of(place + static_cast<int64_t>(known.size()), indices.end(), is_given);
    bool fits = place - indices.begin() + static_cast<int64_t>(known.size()) <= x->type.rank();
    bool are_known = std::all_of(known.begin(), known.end(), [](const at::Tensor& index) {
      return !index.is_meta() && (index.scalar_type() == c10::kLong || index.scalar_type() == c10::kInt);
    });
    expect(neighbours && fits && are_known, "index: several index tensors");
    return import_known_indices(a, x, place - indices.begin(), known);
  }
  const at::Tensor& index = **place;
  auto axis = static_cast<int64_t>(place - indices.begin());
  bool is_mask = index.scalar_type() == c10::kBool || index.scalar_type() == c10::kByte;
  expect(!is_mask || !index.is_meta(), "sizes of its results depend on data");
  expect(axis < x->type.rank(), "index: more indices than dimensions");
  if (index.is_meta()) return a.emit(Take{.axis = axis, .wraps = true}, {x, a.exact_value_of(index)});
  if (!is_mask) {
    Constant known{.value = wrapped(index, x->type.shape[axis]).to(a.device()), .name = ""};
    return a.emit(Take{.axis = axis}, {x, a.emit(known, {})});
  }
  expect(index.dim() == 1 && index.size(0) == x->type.shape[axis], "index: a mask of several dimensions");
  Constant known{.value = at::nonzero_numpy(index)[0].to(a.device()), .name = ""};
  return a.emit(Take{.axis = axis}, {x, a.emit(known, {})});
}

Value* import_gather(ImportArgs& a) {
  Value* x = a.value("self");
  return a.emit(Gather{.axis = a.axis("dim", x)}, {x, a.exact_value("index")});
}

/// gather whose index broadcasts against x beside the axis.
Value* import_take_along_dim(ImportArgs& a) {
  Value* x = a.value("self");
  Value* index = a.exact_value("indices");
  if (!a.has("dim")) {
    x = reshape(a, x, {x->type.numel()});
    return a.emit(Gather{.axis = 0}, {x, reshape(a, index, {index->type.numel()})});
  }
  expect(x->type.rank() == index->type.rank() && x->type.rank() > 0, "take_along_dim: x and index must have one rank");
  int64_t axis = a.axis("dim", x);
  Dims x_shape = x->type.shape;
  Dims index_shape = index->type.shape;
  x_shape[axis] = index_shape[axis] = 1;
  Dims common = broadcast_shapes(x_shape, index_shape);
  Dims wide = common;
  wide[axis] = x->type.shape[axis];
  common[axis] = index->type.shape[axis];
  return a.emit(Gather{.axis = axis}, {expand(a, x, wide), expand(a, index, common)});
}

Value* import_take(ImportArgs& a) {
  Value* x = a.value("self");
  return a.emit(Take{.axis = 0, .wraps = true}, {reshape(a, x, {x->type.numel()}), a.exact_value("index")});
}

/// 1 where a number equals its class, else 0. A number that is no class gives zeros, where LibTorch raises an error.
Value* import_one_hot(ImportArgs& a) {
  Value* x = a.exact_value("self");
  expect(x->type.dtype == c10::kLong, "one_hot: input must be i64");
  expect(a.integer("num_classes") > 0, "one_hot: the number of classes depends on data");
  Dims shape = x->type.shape;
  shape.push_back(1);
  at::Tensor classes = at::arange(a.integer("num_classes"), at::TensorOptions(c10::kLong).device(a.device()));
  Value* hits = a.emit(Pointwise{"eq"}, {reshape(a, x, shape), a.emit(Constant{.value = classes, .name = ""}, {})});
  return a.cast(hits, c10::kLong);
}

/// x with `src` in place of x[start:end] along `axis`.
Value* replace_slice(ImportArgs& a, Value* x, Value* src, int64_t axis, int64_t start, int64_t end) {
  Dims shape = x->type.shape;
  shape[axis] = end - start;
  expect(src->type.shape == shape, "slice_scatter: src must have the sizes of the slice");
  std::vector<Value*> parts;
  if (start > 0) parts.push_back(a.emit(Slice{.axis = axis, .start = 0, .end = start}, {x}));
  parts.push_back(a.cast(src, x->type.dtype));
  int64_t size = x->type.shape[axis];
  if (end < size) parts.push_back(a.emit(Slice{.axis = axis, .start = end, .end = size}, {x}));
  return parts.size() == 1 ? parts[0] : a.emit(Concat{.axis = axis}, parts);
}

Value* import_slice_scatter(ImportArgs& a) {
  Value* x = a.value("self");
  expect(x->type.rank() > 0, "slice_scatter: input must have a dimension");
  expect(a.integer("step") == 1, "slice_scatter: a step beside 1");
  int64_t axis = a.axis("dim", x);
  auto [start, end] = slice_bounds(a, x->type.shape[axis]);
  return replace_slice(a, x, a.exact_value("src"), axis, start, end);
}

Value* import_select_scatter(ImportArgs& a) {
  Value* x = a.value("self");
  expect(x->type.rank() > 0, "select_scatter: input must have a dimension");
  int64_t axis = a.axis("dim", x);
  int64_t index = a.integer("index");
  if (index < 0) index += x->type.shape[axis];
  expect(index >= 0 && index < x->type.shape[axis], "select_scatter: index out of range");
  Value* src = a.exact_value("src");
  Dims shape = x->type.shape;
  shape[axis] = 1;
  expect(src->type.numel() * x->type.shape[axis] == x->type.numel(), "select_scatter: src has wrong sizes");
  return replace_slice(a, x, reshape(a, src, shape), axis, index, index + 1);
}

/// x[mask] = one number, which needs no positions.
Value* import_index_put(ImportArgs& a) {
  Value* x = a.value("self");
  auto indices = a.raw("indices").toListRef();
  bool one_mask = indices.size() == 1 && indices[0].isTensor() && indices[0].toTensor().scalar_type() == c10::kBool;
  if (!one_mask) {
    // Everything else runs as the generic op.
    for (const c10::IValue& index : indices) {
      bool steers = index.isTensor() && index.toTensor().defined() && index.toTensor().scalar_type() == c10::kBool;
      expect(!steers || a.device().is_cpu(), "the number of written elements depends on data");
    }
    throw Unsupported("index_put: has no kernel of its own");
  }
  Value* mask = a.exact_value_of(indices[0].toTensor());
  Value* values = a.exact_value("values");
  expect(values->type.numel() == 1 && !a.boolean("accumulate"), "index_put: the number of written elements is unknown");
  Dims shape = mask->type.shape;
  expect(shape.size() <= x->type.shape.size() && std::equal(shape.begin(), shape.end(), x->type.shape.begin()),
         "index_put: the mask does not fit the input");
  shape.resize(x->type.shape.size(), 1);
  values = a.cast(reshape(a, values, Dims(x->type.shape.size(), 1)), x->type.dtype);
  expect(x->type.rank() > 0, "index_put: input must have a dimension");
  return a.emit(Pointwise{"where"}, {reshape(a, mask, shape), values, x});
}

}  // namespace

void define_index(OpSet& ops) {
  auto no_flops = [](const auto&, Types, Types) { return 0.0; };
  ops.add<Take>("take")
      .infer(infer_take)
      .aten(run_take)
      .flops(no_flops)
      .import("aten::embedding", import_embedding)
      .import("aten::index_select", import_index_select)
      .import("aten::index.Tensor", import_index)
      .import("aten::take", import_take)
      .import("aten::one_hot", import_one_hot)
      .import("aten::slice_scatter", import_slice_scatter)
      .import("aten::select_scatter", import_select_scatter)
      .import("aten::index_put", import_index_put);
  ops.add<EmbeddingBag>("embedding_bag")
      .infer(infer_embedding_bag)
      .aten(run_embedding_bag)
      .import("aten::embedding_bag", import_embedding_bag)
      .import("aten::embedding_bag.padding_idx", import_embedding_bag);
  ops.add<Gather>("gather")
      .infer(infer_gather)
      .aten([](const Gather& a, Tensors in) { return at::gather(in[0], a.axis, in[1]); })
      .flops(no_flops)
      .import("aten::gather", import_gather)
      .import("aten::take_along_dim", import_take_along_dim);
}

}  // namespace torchweld
