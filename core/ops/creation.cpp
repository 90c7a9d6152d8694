#include "core/ops/creation.h"

#include <ATen/ops/empty_strided.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>

#include <numeric>

#include "core/error.h"
#include "core/import_args.h"
#include "core/ops/constant.h"

namespace torchweld {
namespace {

constexpr int64_t kMostElements = int64_t{1} << 24;

void check_size(const Dims& shape) {
  int64_t count = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  expect(count <= kMostElements, "the tensor is too large for a constant");
}

/// Dtype and device that the call asks for, `like`'s where it asks for none.
at::TensorOptions options_of(ImportArgs& a, const Value* like) {
  expect(!a.has("layout") || a.integer("layout") == static_cast<int64_t>(c10::kStrided), "layout must be strided");
  if (a.has("device")) {
    c10::Device device = a.raw("device").toDevice();
    bool same = device.type() == a.device().type() && (!device.has_index() || device.index() == a.device().index());
    expect(same, "makes a tensor on another device");
  }
  return at::TensorOptions(a.dtype("dtype").value_or(like->type.dtype)).device(a.device());
}

/// The number that fills the result: the argument `fill_value`, or one that goes without saying.
using Filling = std::optional<double>;

c10::Scalar number_of_call(ImportArgs& a, Filling filling) {
  return filling ? c10::Scalar(*filling) : a.scalar("fill_value");
}

ImportFn import_like(Filling filling) {
  return [=](ImportArgs& a) -> std::vector<Value*> {
    Value* x = a.value("self");
    check_size(x->type.shape);
    std::optional<c10::MemoryFormat> format;
    if (a.has("memory_format")) format = static_cast<c10::MemoryFormat>(a.integer("memory_format"));
    at::Tensor like = at::empty_strided(x->type.shape, x->type.strides, at::TensorOptions(c10::kMeta));
    at::Tensor made = at::full_like(like, number_of_call(a, filling), options_of(a, x), format);
    return {a.emit(Constant{.value = made, .name = ""}, {})};
  };
}

ImportFn import_new(Filling filling) {
  return [=](ImportArgs& a) -> std::vector<Value*> {
    Dims size = a.ints("size");
    check_size(size);
    at::Tensor made = at::full(size, number_of_call(a, filling), options_of(a, a.value("self")));
    return {a.emit(Constant{.value = made, .name = ""}, {})};
  };
}

}  // namespace

void define_creation(OpSet& ops) {
  ops.add_import("aten::zeros_like", import_like(0));
  ops.add_import("aten::ones_like", import_like(1));
  ops.add_import("aten::full_like", import_like(std::nullopt));
  ops.add_import("aten::empty_like", import_like(0));
  ops.add_import("aten::new_zeros", import_new(0));
  ops.add_import("aten::new_ones", import_new(1));
  ops.add_import("aten::new_full", import_new(std::nullopt));
  ops.add_import("aten::new_empty", import_new(0));
}

}  // namespace torchweld
