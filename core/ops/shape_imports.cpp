#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/import_args.h"
#include "core/ops/aten.h"
#include "core/ops/constant.h"
#include "core/ops/layout.h"
#include "core/ops/shape.h"
#include "core/ops/shape_emit.h"

namespace torchweld {
namespace {

using Values = std::vector<Value*>;

/// x[..., index, ...] along `axis`.
Value* select(ImportArgs& a, Value* x, int64_t axis, int64_t index) {
  Dims shape = x->type.shape;
  shape.erase(shape.begin() + axis);
  return reshape(a, slice(a, x, axis, index, index + 1), shape);
}

/// `shape` with its one -1 replaced so that it holds `count` elements.
Dims resolve(Dims shape, int64_t count) {
  auto unknown = std::find(shape.begin(), shape.end(), -1);
  if (unknown == shape.end()) return shape;
  int64_t known = 1;
  for (int64_t size : shape) known *= size == -1 ? 1 : size;
  expect(std::count(shape.begin(), shape.end(), -1) == 1, "only one size may be -1");
  expect(known > 0 && count % known == 0,
         [&] { return "sizes " + to_string(shape) + " do not fit " + std::to_string(count) + " elements"; });
  *unknown = count / known;
  return shape;
}

Value* import_view(ImportArgs& a, const char* sizes) {
  Value* x = a.value("self");
  return reshape(a, x, resolve(a.ints(sizes), x->type.numel()));
}

Value* import_reshape_as(ImportArgs& a) { return reshape(a, a.value("self"), a.value("other")->type.shape); }

Value* import_flatten(ImportArgs& a) {
  Value* x = a.value("self");
  if (x->type.rank() == 0) return reshape(a, x, {1});
  int64_t start = a.axis("start_dim", x);
  int64_t end = a.axis("end_dim", x);
  expect(start <= end, "flatten: start_dim must not be behind end_dim");
  Dims shape(x->type.shape.begin(), x->type.shape.begin() + start);
  shape.push_back(1);
  for (int64_t i = start; i <= end; ++i) shape.back() *= x->type.shape[i];
  shape.insert(shape.end(), x->type.shape.begin() + end + 1, x->type.shape.end());
  return reshape(a, x, shape);
}

Value* import_unflatten(ImportArgs& a) {
  Value* x = a.value("self");
  expect(x->type.rank() > 0, "unflatten: input must have a dimension");
  int64_t axis = a.axis("dim", x);
  Dims sizes = resolve(a.ints("sizes"), x->type.shape[axis]);
  Dims shape = x->type.shape;
  shape.erase(shape.begin() + axis);
  shape.insert(shape.begin() + axis, sizes.begin(), sizes.end());
  return reshape(a, x, shape);
}

Value* import_permute(ImportArgs& a) {
  Value* x = a.value("self");
  Dims order = a.ints("dims");
  for (int64_t& i : order) i = normalize_axis(i, x->type.rank());
  return permute(a, x, order);
}

ImportFn import_transpose(const char* first, const char* second) {
  return [=](ImportArgs& a) -> Values {
    Value* x = a.value("self");
    if (x->type.rank() == 0) return {x};
    Dims order = iota(x->type.rank());
    std::swap(order[a.axis(first, x)], order[a.axis(second, x)]);
    return {permute(a, x, order)};
  };
}

Value* import_t(ImportArgs& a) {
  Value* x = a.value("self");
  expect(x->type.rank() <= 2, "t: input must have at most two dimensions");
  return x->type.rank() == 2 ? permute(a, x, {1, 0}) : x;
}

Value* import_reversal(ImportArgs& a) {
  Value* x = a.value("self");
  Dims order = iota(x->type.rank());
  std::reverse(order.begin(), order.end());
  return permute(a, x, order);
}

Value* import_matrix_transpose(ImportArgs& a) {
  Value* x = a.value("self");
  expect(x->type.rank() >= 2, "mT: input must have at least two dimensions");
  Dims order = iota(x->type.rank());
  std::swap(order[order.size() - 1], order[order.size() - 2]);
  return permute(a, x, order);
}

Value* import_movedim(ImportArgs& a) {
  Value* x = a.value("self");
  Dims from = a.ints("source");
  Dims to = a.ints("destination");
  expect(from.size() == to.size(), "movedim: source and destination must have one length");
  Dims order(x->type.shape.size(), -1);
  std::vector<bool> moved(order.size(), false);
  for (size_t i = 0; i < from.size(); ++i) {
    int64_t source = normalize_axis(from[i], x->type.rank());
    int64_t target = normalize_axis(to[i], x->type.rank());
    if (x->type.rank() == 0) return x;
    expect(!moved[source] && order[target] == -1, "movedim: a dimension is named twice");
    order[target] = source;
    moved[source] = true;
  }
  int64_t next = 0;
  for (int64_t& slot : order) {
    if (slot != -1) continue;
    while (moved[next]) ++next;
    slot = next++;
  }
  return permute(a, x, order);
}

Value* import_squeeze(ImportArgs& a) {
  Value* x = a.value("self");
  if (x->type.rank() == 0) return x;
  Dims axes = a.has("dim") ? a.ints("dim") : iota(x->type.rank());
  for (int64_t& axis : axes) axis = normalize_axis(axis, x->type.rank());
  Dims shape;
  for (int64_t i = 0; i < x->type.rank(); ++i) {
    bool named = std::find(axes.begin(), axes.end(), i) != axes.end();
    if (!named || x->type.shape[i] != 1) shape.push_back(x->type.shape[i]);
  }
  return reshape(a, x, shape);
}

Value* import_unsqueeze(ImportArgs& a) {
  Value* x = a.value("self");
  return unsqueeze(a, x, normalize_axis(a.integer("dim"), x->type.rank() + 1));
}

Value* import_expand(ImportArgs& a) {
  Value* x = a.value("self");
  Dims shape = a.ints("size");
  expect(shape.size() >= x->type.shape.size(), "expand: needs at least as many sizes as the input has");
  size_t lead = shape.size() - x->type.shape.size();
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] != -1) continue;
    expect(i >= lead, "expand: a new dimension cannot have size -1");
    shape[i] = x->type.shape[i - lead];
  }
  return expand(a, x, shape);
}

Value* import_expand_as(ImportArgs& a) { return expand(a, a.value("self"), a.value("other")->type.shape); }

/// Pieces of x of the given sizes, one behind the other.
Values split(ImportArgs& a, Value* x, int64_t axis, const Dims& sizes) {
  int64_t sum = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  expect(x->type.rank() > 0 && sum == x->type.shape[axis],
         "split: the sizes do not add up to the size of the dimension");
  Values pieces;
  int64_t start = 0;
  for (int64_t size : sizes) {
    expect(size >= 0, "split: sizes must not be negative");
    pieces.push_back(slice(a, x, axis, start, start + size));
    start += size;
  }
  return pieces;
}

/// Sizes of pieces of `size`, the last one shorter where it must be. A dimension of size 0 gives one piece.
Dims pieces_of(int64_t total, int64_t size) {
  expect(size > 0 || total == 0, "split: the size of a piece must be positive");
  Dims sizes;
  for (int64_t start = 0; start < total; start += size) sizes.push_back(std::min(size, total - start));
  if (sizes.empty()) sizes.push_back(0);
  return sizes;
}

Values import_chunk(ImportArgs& a) {
  Value* x = a.value("self");
  expect(x->type.rank() > 0 && a.integer("chunks") > 0, "chunk: needs a dimension and a positive number of chunks");
  int64_t axis = a.axis("dim", x);
  int64_t chunks = a.integer("chunks");
  int64_t total = x->type.shape[axis];
  // A dimension of size 0 gives as many empty chunks as asked for.
  if (total == 0) return split(a, x, axis, Dims(static_cast<size_t>(chunks), 0));
  return split(a, x, axis, pieces_of(total, (total + chunks - 1) / chunks));
}

Values import_split(ImportArgs& a) {
  Value* x = a.value("self");
  expect(x->type.rank() > 0, "split: input must have a dimension");
  int64_t axis = a.axis("dim", x);
  return split(a, x, axis, pieces_of(x->type.shape[axis], a.integer("split_size")));
}

ImportFn import_split_sizes(const char* sizes) {
  return [=](ImportArgs& a) -> Values {
    Value* x = a.value("self");
    return split(a, x, a.axis("dim", x), a.ints(sizes));
  };
}

Values import_tensor_split_sections(ImportArgs& a) {
  Value* x = a.value("self");
  int64_t sections = a.integer("sections");
  expect(sections > 0 && x->type.rank() > 0, "tensor_split: needs a dimension and a positive number of sections");
  int64_t axis = a.axis("dim", x);
  int64_t total = x->type.shape[axis];
  Dims sizes;
  for (int64_t i = 0; i < sections; ++i) sizes.push_back(total / sections + (i < total % sections ? 1 : 0));
  return split(a, x, axis, sizes);
}

Values import_tensor_split_indices(ImportArgs& a) {
  Value* x = a.value("self");
  expect(x->type.rank() > 0, "tensor_split: input must have a dimension");
  int64_t axis = a.axis("dim", x);
  int64_t total = x->type.shape[axis];
  Dims cuts{0};
  for (int64_t index : a.ints("indices"))
    cuts.push_back(std::clamp<int64_t>(index < 0 ? index + total : index, 0, total));
  cuts.push_back(total);
  Values pieces;
  for (size_t i = 0; i + 1 < cuts.size(); ++i)
    pieces.push_back(slice(a, x, axis, cuts[i], std::max(cuts[i], cuts[i + 1])));
  return pieces;
}

Values import_unbind(ImportArgs& a) {
  Value* x = a.value("self");
  expect(x->type.rank() > 0, "unbind: input must have a dimension");
  int64_t axis = a.axis("dim", x);
  Values pieces;
  for (int64_t i = 0; i < x->type.shape[axis]; ++i) pieces.push_back(select(a, x, axis, i));
  return pieces;
}

Value* import_narrow(ImportArgs& a) {
  Value* x = a.value("self");
  expect(x->type.rank() > 0, "narrow: input must have a dimension");
  int64_t axis = a.axis("dim", x);
  int64_t start = a.integer("start");
  int64_t length = a.integer("length");
  if (start < 0) start += x->type.shape[axis];
  expect(start >= 0 && length >= 0 && start + length <= x->type.shape[axis], "narrow: bounds out of range");
  return slice(a, x, axis, start, start + length);
}

Value* import_slice(ImportArgs& a) {
  Value* x = a.value("self");
  expect(x->type.rank() > 0, "slice: input must have a dimension");
  int64_t axis = a.axis("dim", x);
  auto [start, end] = slice_bounds(a, x->type.shape[axis]);
  return slice(a, x, axis, start, end, a.integer("step"));
}

Value* import_select(ImportArgs& a) {
  Value* x = a.value("self");
  expect(x->type.rank() > 0, "select: input must have a dimension");
  int64_t axis = a.axis("dim", x);
  int64_t size = x->type.shape[axis];
  int64_t index = a.integer("index");
  if (index < 0) index += size;
  expect(index >= 0 && index < size, "select: index out of range");
  return select(a, x, axis, index);
}

Value* import_self(ImportArgs& a) { return a.value("self"); }

using ShapeBuilder = OpSet::Builder<Reshape>;

void import_views(ShapeBuilder& op) {
  auto add = [&](const char* schema, auto fn) { op.import(schema, fn); };
  add("aten::view", [](ImportArgs& a) { return import_view(a, "size"); });
  add("aten::_unsafe_view", [](ImportArgs& a) { return import_view(a, "size"); });
  add("aten::reshape", [](ImportArgs& a) { return import_view(a, "shape"); });
  add("aten::view_as", import_reshape_as);
  add("aten::reshape_as", import_reshape_as);
  add("aten::flatten.using_ints", import_flatten);
  add("aten::unflatten.int", import_unflatten);
  add("aten::permute", import_permute);
  add("aten::transpose.int", import_transpose("dim0", "dim1"));
  add("aten::swapdims", import_transpose("dim0", "dim1"));
  add("aten::swapaxes", import_transpose("axis0", "axis1"));
  add("aten::t", import_t);
  add("aten::numpy_T", import_reversal);
  add("aten::mT", import_matrix_transpose);
  for (const char* schema :
       {"aten::movedim.int", "aten::movedim.intlist", "aten::moveaxis.int", "aten::moveaxis.intlist"}) {
    add(schema, import_movedim);
  }
  for (const char* schema : {"aten::squeeze", "aten::squeeze.dim", "aten::squeeze.dims"}) add(schema, import_squeeze);
  add("aten::unsqueeze", import_unsqueeze);
  for (const char* schema : {"aten::expand", "aten::broadcast_to"}) add(schema, import_expand);
  add("aten::expand_as", import_expand_as);
  add("aten::narrow", import_narrow);
  add("aten::slice.Tensor", import_slice);
  add("aten::select.int", import_select);
  for (const char* schema : {"aten::alias", "aten::detach", "aten::lift_fresh", "aten::positive", "aten::resolve_conj",
                             "aten::resolve_neg"}) {
    add(schema, import_self);
  }
}

void import_pieces(ShapeBuilder& op) {
  auto add = [&](const char* schema, auto fn) { op.import(schema, fn); };
  for (const char* schema : {"aten::chunk", "aten::unsafe_chunk"}) add(schema, import_chunk);
  for (const char* schema : {"aten::split.Tensor", "aten::unsafe_split.Tensor"}) add(schema, import_split);
  for (const char* schema : {"aten::split.sizes", "aten::split_with_sizes", "aten::unsafe_split_with_sizes"}) {
    add(schema, import_split_sizes(std::string_view(schema) == "aten::split.sizes" ? "split_size" : "split_sizes"));
  }
  add("aten::split", import_split_sizes("split_sizes"));
  add("aten::tensor_split.sections", import_tensor_split_sections);
  add("aten::tensor_split.indices", import_tensor_split_indices);
  add("aten::unbind.int", import_unbind);
}

}  // namespace

void define_shape_imports(OpSet::Builder<Reshape>& op) {
  import_views(op);
  import_pieces(op);
  define_rearranging_imports(op);
}

}  // namespace torchweld
