#include <ATen/ops/ones.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/import_args.h"
#include "core/ops/aten.h"
#include "core/ops/constant.h"
#include "core/ops/layout.h"
#include "core/ops/pointwise.h"
#include "core/ops/shape.h"
#include "core/ops/shape_emit.h"

namespace torchweld {
namespace {

using Values = std::vector<Value*>;

/// x repeated `counts[i]` times along dimension i.
Value* repeat(ImportArgs& a, Value* x, Dims counts) {
  Dims from = x->type.shape;
  expect(std::all_of(counts.begin(), counts.end(), [](int64_t n) { return n >= 0; }),
         "repeat: counts must not be negative");
  if (counts.size() < from.size()) counts.insert(counts.begin(), from.size() - counts.size(), 1);
  from.insert(from.begin(), counts.size() - from.size(), 1);
  Dims apart;
  Dims repeated;
  Dims joined;
  for (size_t i = 0; i < counts.size(); ++i) {
    apart.insert(apart.end(), {1, from[i]});
    repeated.insert(repeated.end(), {counts[i], from[i]});
    joined.push_back(counts[i] * from[i]);
  }
  return reshape(a, expand(a, reshape(a, x, apart), repeated), joined);
}

Value* import_repeat(ImportArgs& a) {
  Value* x = a.value("self");
  Dims counts = a.ints("repeats");
  expect(counts.size() >= x->type.shape.size(), "repeat: needs at least as many counts as the input has dimensions");
  return repeat(a, x, counts);
}

Value* import_repeat_interleave(ImportArgs& a) {
  Value* x = a.value("self");
  int64_t count = a.integer("repeats");
  expect(count >= 0, "repeat_interleave: repeats must not be negative");
  if (!a.has("dim") || x->type.rank() == 0) x = reshape(a, x, {x->type.numel()});
  int64_t axis = a.has("dim") ? a.axis("dim", x) : 0;
  Dims shape = x->type.shape;
  shape[axis] *= count;
  Value* apart = unsqueeze(a, x, axis + 1);
  Dims repeated = apart->type.shape;
  repeated[axis + 1] = count;
  return reshape(a, expand(a, apart, repeated), shape);
}

Value* concat(ImportArgs& a, Values parts, int64_t axis) {
  expect(!parts.empty(), "cat: needs at least one tensor");
  c10::ScalarType dtype = parts[0]->type.dtype;
  for (const Value* v : parts) dtype = c10::promoteTypes(dtype, v->type.dtype);
  for (Value*& v : parts) v = a.cast(v, dtype);
  return parts.size() == 1 ? parts[0] : a.emit(Concat{.axis = axis}, parts);
}

Value* import_cat(ImportArgs& a) {
  Values parts = a.values("tensors");
  expect(!parts.empty(), "cat: needs at least one tensor");
  // Tensors of shape [0] fit beside any others and add nothing.
  bool all_empty = std::all_of(parts.begin(), parts.end(), [](const Value* v) { return v->type.shape == Dims{0}; });
  if (!all_empty) std::erase_if(parts, [](const Value* v) { return v->type.shape == Dims{0}; });
  expect(parts[0]->type.rank() > 0, "cat: 0-d tensors cannot be joined");
  return concat(a, parts, a.axis("dim", parts[0]));
}

Value* import_stack(ImportArgs& a) {
  Values parts = a.values("tensors");
  expect(!parts.empty(), "stack: needs at least one tensor");
  Dims shape = parts[0]->type.shape;
  int64_t axis = normalize_axis(a.integer("dim"), parts[0]->type.rank() + 1);
  for (Value*& v : parts) {
    expect(v->type.shape == shape, "stack: tensors must have one shape");
    v = unsqueeze(a, v, axis);
  }
  return concat(a, parts, axis);
}

Value* roll(ImportArgs& a, Value* x, int64_t axis, int64_t shift) {
  int64_t size = x->type.shape[axis];
  if (size == 0) return x;
  shift = ((shift % size) + size) % size;
  if (shift == 0) return x;
  return a.emit(Concat{.axis = axis}, {slice(a, x, axis, size - shift, size), slice(a, x, axis, 0, size - shift)});
}

Value* import_roll(ImportArgs& a) {
  Value* x = a.value("self");
  Dims shifts = a.ints("shifts");
  Dims axes = a.ints("dims");
  if (axes.empty()) {
    expect(shifts.size() == 1, "roll: without dims there can be only one shift");
    return reshape(a, roll(a, reshape(a, x, {x->type.numel()}), 0, shifts[0]), x->type.shape);
  }
  expect(shifts.size() == axes.size() && x->type.rank() > 0, "roll: needs one shift per dimension");
  for (size_t i = 0; i < axes.size(); ++i) x = roll(a, x, normalize_axis(axes[i], x->type.rank()), shifts[i]);
  return x;
}

/// Order of dimensions: `lead` leading ones as they are, then the given ones.
Dims behind(int64_t lead, std::initializer_list<int64_t> order) {
  Dims result = iota(lead);
  for (int64_t i : order) result.push_back(lead + i);
  return result;
}

Value* import_pixel_shuffle(ImportArgs& a) {
  Value* x = a.value("self");
  int64_t r = a.integer("upscale_factor");
  expect(x->type.rank() >= 3 && r > 0, "pixel_shuffle: needs rank 3 or more and a positive factor");
  const Dims& from = x->type.shape;
  int64_t lead = x->type.rank() - 3;
  expect(from[lead] % (r * r) == 0, "pixel_shuffle: channels must be a multiple of the squared factor");
  Dims shape(from.begin(), from.begin() + lead);
  Dims apart = shape;
  apart.insert(apart.end(), {from[lead] / (r * r), r, r, from[lead + 1], from[lead + 2]});
  shape.insert(shape.end(), {from[lead] / (r * r), from[lead + 1] * r, from[lead + 2] * r});
  return reshape(a, permute(a, reshape(a, x, apart), behind(lead, {0, 3, 1, 4, 2})), shape);
}

Value* import_pixel_unshuffle(ImportArgs& a) {
  Value* x = a.value("self");
  int64_t r = a.integer("downscale_factor");
  expect(x->type.rank() >= 3 && r > 0, "pixel_unshuffle: needs rank 3 or more and a positive factor");
  const Dims& from = x->type.shape;
  int64_t lead = x->type.rank() - 3;
  expect(from[lead + 1] % r == 0 && from[lead + 2] % r == 0, "pixel_unshuffle: sizes must be multiples of the factor");
  Dims shape(from.begin(), from.begin() + lead);
  Dims apart = shape;
  apart.insert(apart.end(), {from[lead], from[lead + 1] / r, r, from[lead + 2] / r, r});
  shape.insert(shape.end(), {from[lead] * r * r, from[lead + 1] / r, from[lead + 2] / r});
  return reshape(a, permute(a, reshape(a, x, apart), behind(lead, {0, 2, 4, 1, 3})), shape);
}

Value* import_channel_shuffle(ImportArgs& a) {
  Value* x = a.value("self");
  int64_t groups = a.integer("groups");
  expect(x->type.rank() >= 3 && groups > 0, "channel_shuffle: needs rank 3 or more and positive groups");
  expect(x->type.shape[1] % groups == 0, "channel_shuffle: channels must be a multiple of groups");
  Dims apart = x->type.shape;
  apart[1] /= groups;
  apart.insert(apart.begin() + 1, groups);
  Dims order = iota(static_cast<int64_t>(apart.size()));
  std::swap(order[1], order[2]);
  return reshape(a, permute(a, reshape(a, x, apart), order), x->type.shape);
}

Value* import_contiguous(ImportArgs& a) { return emit_memory_format(a, a.value("self"), a.integer("memory_format")); }

/// Always a copy, so that the result never shares memory with an input of the engine.
Value* import_clone(ImportArgs& a) {
  Value* x = a.value("self");
  Value* y = a.has("memory_format") ? emit_memory_format(a, x, a.integer("memory_format")) : x;
  return y == x ? a.emit(Copy{.strides = dense_strides_like(x->type.shape, x->type.strides)}, {x}) : y;
}

/// `pairs` holds counts before and after, for the last dimension first.
Value* emit_pad(ImportArgs& a, Value* x, const Dims& pairs, double value) {
  size_t rank = x->type.shape.size();
  expect(pairs.size() % 2 == 0 && pairs.size() / 2 <= rank, "pad: needs two counts per padded dimension");
  Pad pad{.before = Dims(rank, 0), .after = Dims(rank, 0), .value = value};
  for (size_t i = 0; i < pairs.size() / 2; ++i) {
    pad.before[rank - 1 - i] = pairs[2 * i];
    pad.after[rank - 1 - i] = pairs[2 * i + 1];
  }
  return a.emit(pad, {x});
}

Value* import_constant_pad(ImportArgs& a) { return emit_pad(a, a.value("self"), a.ints("pad"), a.real("value")); }

/// Padding with the tensor's own elements runs as the generic op.
Value* import_pad(ImportArgs& a) {
  Value* x = a.value("self");
  Dims pairs = a.ints("pad");
  std::string mode = a.string("mode");
  if (mode == "constant") return emit_pad(a, x, pairs, a.has("value") ? a.real("value") : 0);
  expect(mode == "reflect" || mode == "replicate" || mode == "circular",
         [&] { return "pad: unknown mode '" + mode + "'"; });
  expect(pairs.size() % 2 == 0 && pairs.size() / 2 <= x->type.shape.size(),
         "pad: needs two counts per padded dimension");
  Dims shape = x->type.shape;
  for (size_t i = 0; i < pairs.size(); ++i) {
    int64_t size = x->type.shape[shape.size() - 1 - i / 2];
    bool fits = mode == "replicate" ? size > 0 : pairs[i] < size + (mode == "circular" ? 1 : 0);
    expect(fits && pairs[i] >= 0, [&] { return "pad: '" + mode + "' needs more elements than there are"; });
    shape[shape.size() - 1 - i / 2] += pairs[i];
  }
  TensorType type = mode == "circular" ? with_shape(x->type, shape) : with_suggested_layout(x->type, shape);
  Aten call{.op = "aten::pad", .arguments = {"$", pairs, mode, c10::IValue()}, .results = {type}};
  return a.emit(call, {x});
}

/// Grids of the coordinates x, y, ...: each tensor seen along its own dimension and repeated along the others.
Values import_meshgrid(ImportArgs& a) {
  Values axes = a.values("tensors");
  bool by_columns = a.has("indexing") && a.string("indexing") == "xy";
  expect(!a.has("indexing") || by_columns || a.string("indexing") == "ij", "meshgrid: indexing must be 'ij' or 'xy'");
  expect(!axes.empty(), "meshgrid: needs at least one tensor");
  Dims shape;
  for (const Value* x : axes) {
    expect(x->type.rank() <= 1, "meshgrid: tensors must have at most one dimension");
    shape.push_back(x->type.numel());
  }
  auto place = [&](size_t i) { return by_columns && axes.size() > 1 && i < 2 ? 1 - i : i; };
  if (by_columns && axes.size() > 1) std::swap(shape[0], shape[1]);
  Values grids;
  for (size_t i = 0; i < axes.size(); ++i) {
    Dims along(shape.size(), 1);
    along[place(i)] = axes[i]->type.numel();
    grids.push_back(expand(a, reshape(a, axes[i], along), shape));
  }
  return grids;
}

/// Zeros where the triangle does not reach.
ImportFn import_triangle(bool upper) {
  return [=](ImportArgs& a) -> Values {
    Value* x = a.value("self");
    int64_t rank = x->type.rank();
    expect(rank >= 2, "tril, triu: input must have at least two dimensions");
    at::Tensor ones =
        at::ones({x->type.shape[rank - 2], x->type.shape[rank - 1]}, at::TensorOptions(c10::kBool).device(a.device()));
    int64_t diagonal = a.integer("diagonal");
    Constant kept{.value = upper ? ones.triu(diagonal) : ones.tril(diagonal), .name = ""};
    c10::Scalar zero = x->type.is_floating() ? c10::Scalar(0.0) : c10::Scalar(0);
    if (x->type.dtype == c10::kBool) zero = false;
    return {a.emit(Pointwise{"where"}, {a.emit(kept, {}), x, a.immediate(zero)})};
  };
}

}  // namespace

void define_rearranging_imports(OpSet::Builder<Reshape>& op) {
  auto add = [&](const char* schema, auto fn) { op.import(schema, fn); };
  add("aten::repeat", import_repeat);
  add("aten::tile", [](ImportArgs& a) { return repeat(a, a.value("self"), a.ints("dims")); });
  add("aten::repeat_interleave.self_int", import_repeat_interleave);
  for (const char* schema : {"aten::cat", "aten::concat", "aten::concatenate"}) add(schema, import_cat);
  add("aten::stack", import_stack);
  add("aten::roll", import_roll);
  add("aten::pixel_shuffle", import_pixel_shuffle);
  add("aten::pixel_unshuffle", import_pixel_unshuffle);
  for (const char* schema : {"aten::channel_shuffle", "aten::native_channel_shuffle"})
    add(schema, import_channel_shuffle);
  add("aten::contiguous", import_contiguous);
  add("aten::clone", import_clone);
  add("aten::constant_pad_nd", import_constant_pad);
  add("aten::pad", import_pad);
  add("aten::meshgrid", import_meshgrid);
  add("aten::meshgrid.indexing", import_meshgrid);
  add("aten::triu", import_triangle(true));
  add("aten::tril", import_triangle(false));
}

}  // namespace torchweld
