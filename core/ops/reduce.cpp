#include "core/ops/reduce.h"

#include <ATen/ops/all.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/amin.h>
#include <ATen/ops/any.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/argmin.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/prod.h>
#include <ATen/ops/std.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/var.h>

#include <algorithm>

#include "core/error.h"
#include "core/import_args.h"
#include "core/ops/pointwise.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

bool is_one_of(const std::string& kind, std::initializer_list<std::string_view> kinds) {
  return std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
}

void check_reduce(const Reduce& a, Types in) {
  expect(in.size() == 1, [&] { return a.kind + ": takes one operand"; });
  const TensorType& x = in[0];
  expect(is_one_of(a.kind, {"sum", "mean", "prod", "amax", "amin", "all", "any", "argmax", "argmin", "var", "std",
                            "logsumexp", "norm"}),
         [&] { return "there is no reduction called " + a.kind; });
  expect(!c10::isComplexType(x.dtype), [&] { return a.kind + ": complex numbers are not supported"; });
  bool needs_floats = is_one_of(a.kind, {"mean", "var", "std", "logsumexp", "norm"});
  expect(!needs_floats || x.is_floating(), [&] { return a.kind + ": input must be floating point"; });
  bool is_argument = is_one_of(a.kind, {"argmax", "argmin"});
  expect(!is_argument || x.dtype != c10::kBool, [&] { return a.kind + ": bool input is not supported"; });
  bool widens = is_one_of(a.kind, {"sum", "prod"}) && c10::isIntegralType(x.dtype, true);
  expect(!widens || x.dtype == c10::kLong, [&] { return a.kind + ": integers must be i64"; });
  expect(std::is_sorted(a.axes.begin(), a.axes.end()), [&] { return a.kind + ": axes must ascend"; });
  expect(!a.axes.empty() || x.rank() == 0, [&] { return a.kind + ": needs an axis"; });
  for (int64_t axis : a.axes) {
    expect(axis >= 0 && axis < x.rank(), [&] { return a.kind + ": axis out of range"; });
    bool needs_elements = is_argument || is_one_of(a.kind, {"amax", "amin"});
    expect(!needs_elements || x.shape[axis] > 0, [&] { return a.kind + ": reduces over no elements"; });
  }
  expect(!is_argument || a.axes.size() <= 1, [&] { return a.kind + ": takes one axis"; });
}

TensorType infer_reduce(const Reduce& a, Types in) {
  check_reduce(a, in);
  const TensorType& x = in[0];
  Dims shape;
  for (int64_t i = 0; i < x.rank(); ++i) {
    bool reduced = std::binary_search(a.axes.begin(), a.axes.end(), i);
    if (reduced && !a.keepdim) continue;
    shape.push_back(reduced ? 1 : x.shape[i]);
  }
  c10::ScalarType dtype = is_one_of(a.kind, {"all", "any"})         ? c10::kBool
                          : is_one_of(a.kind, {"argmax", "argmin"}) ? c10::kLong
                                                                    : x.dtype;
  return contiguous_type(dtype, std::move(shape), x.device);
}

at::Tensor run_prod(const Reduce& a, at::Tensor x) {
  // LibTorch's prod takes one axis at a time.
  for (size_t i = a.axes.size(); i-- > 0;) x = at::prod(x, a.axes[i], a.keepdim, x.scalar_type());
  return x;
}

at::Tensor run_reduce(const Reduce& a, Tensors in) {
  const at::Tensor& x = in[0];
  std::optional<c10::ScalarType> dtype = x.scalar_type();
  std::optional<c10::Scalar> correction(a.parameter);
  std::optional<int64_t> axis;
  if (!a.axes.empty()) axis = a.axes[0];
  if (a.kind == "sum") return at::sum(x, a.axes, a.keepdim, dtype);
  if (a.kind == "mean") return at::mean(x, a.axes, a.keepdim);
  if (a.kind == "prod") return run_prod(a, x);
  if (a.kind == "amax") return at::amax(x, a.axes, a.keepdim);
  if (a.kind == "amin") return at::amin(x, a.axes, a.keepdim);
  if (a.kind == "all") return (a.axes.empty() ? at::all(x) : at::all(x, a.axes, a.keepdim)).to(c10::kBool);
  if (a.kind == "any") return (a.axes.empty() ? at::any(x) : at::any(x, a.axes, a.keepdim)).to(c10::kBool);
  if (a.kind == "argmax") return at::argmax(x, axis, a.keepdim);
  if (a.kind == "argmin") return at::argmin(x, axis, a.keepdim);
  if (a.kind == "var") return at::var(x, a.axes, correction, a.keepdim);
  if (a.kind == "std") return at::std(x, a.axes, correction, a.keepdim);
  if (a.kind == "logsumexp") return at::logsumexp(x, a.axes, a.keepdim);
  return at::linalg_vector_norm(x, a.parameter, a.axes, a.keepdim);
}

/// The axes that an argument names, all when it names none. A 0-d tensor has none to reduce.
Dims reduced_axes(ImportArgs& a, const Value* x) { return x->type.rank() == 0 ? Dims{} : a.axes("dim", x); }

bool keepdim_of(ImportArgs& a) { return a.has("keepdim") && a.boolean("keepdim"); }

Value* emit_reduce(ImportArgs& a, const char* kind, Value* x, double parameter = 0) {
  return a.emit(Reduce{.kind = kind, .axes = reduced_axes(a, x), .keepdim = keepdim_of(a), .parameter = parameter},
                {x});
}

/// sum, prod: integers and bools are summed as i64.
ImportFn import_accumulation(const char* kind) {
  return [=](ImportArgs& a) -> std::vector<Value*> {
    Value* x = a.value("self");
    std::optional<c10::ScalarType> dtype = a.dtype("dtype");
    if (!dtype && c10::isIntegralType(x->type.dtype, true)) dtype = c10::kLong;
    return {emit_reduce(a, kind, dtype ? a.cast(x, *dtype) : x)};
  };
}

Value* import_mean(ImportArgs& a) {
  Value* x = a.value("self");
  if (auto dtype = a.dtype("dtype")) x = a.cast(x, *dtype);
  return emit_reduce(a, "mean", x);
}

/// amax, amin, and max and min over everything.
ImportFn import_extremum(const char* kind) {
  return [=](ImportArgs& a) -> std::vector<Value*> { return {emit_reduce(a, kind, a.value("self"))}; };
}

/// max.dim, min.dim: values and where they stand.
ImportFn import_extremum_with_index(const char* kind, const char* argument_kind) {
  return [=](ImportArgs& a) -> std::vector<Value*> {
    Value* x = a.value("self");
    return {emit_reduce(a, kind, x), emit_reduce(a, argument_kind, x)};
  };
}

/// all, any: uint8 gives uint8, everything else bool.
ImportFn import_test(const char* kind) {
  return [=](ImportArgs& a) -> std::vector<Value*> {
    Value* x = a.value("self");
    expect(!a.has("dim") || !a.raw("dim").isIntList() || !a.ints("dim").empty(),
           [&] { return std::string(kind) + ": an empty list of dimensions is not supported"; });
    Value* y = emit_reduce(a, kind, x);
    return {x->type.dtype == c10::kByte ? a.cast(y, c10::kByte) : y};
  };
}

ImportFn import_argument(const char* kind) {
  return [=](ImportArgs& a) -> std::vector<Value*> {
    Value* x = a.value("self");
    if (a.has("dim")) return {emit_reduce(a, kind, x)};
    Value* flat = a.emit(Reshape{.shape = {x->type.numel()}}, {x});
    Value* y = a.emit(Reduce{.kind = kind, .axes = {0}, .keepdim = false}, {flat});
    if (!keepdim_of(a)) return {y};
    return {a.emit(Reshape{.shape = Dims(x->type.shape.size(), 1)}, {y})};
  };
}

/// var, std: the correction stands in `correction`, or in `unbiased` as a bool.
double correction_of(ImportArgs& a) {
  if (a.has("unbiased")) return a.boolean("unbiased") ? 1 : 0;
  return a.has("correction") ? a.real("correction") : 1;
}

ImportFn import_spread(const char* kind, bool with_mean) {
  return [=](ImportArgs& a) -> std::vector<Value*> {
    Value* x = a.value("self");
    std::vector<Value*> results{emit_reduce(a, kind, x, correction_of(a))};
    if (with_mean) results.push_back(emit_reduce(a, "mean", x));
    return results;
  };
}

Value* import_logsumexp(ImportArgs& a) {
  Value* x = a.value("self");
  if (!x->type.is_floating()) x = a.cast(x, c10::get_default_dtype_as_scalartype());
  return emit_reduce(a, "logsumexp", x);
}

/// A vector norm whose order stands in the argument `order`; None means 2.
ImportFn import_norm(const char* order) {
  return [=](ImportArgs& a) -> std::vector<Value*> {
    Value* x = a.value("self");
    if (auto dtype = a.dtype("dtype")) x = a.cast(x, *dtype);
    return {emit_reduce(a, "norm", x, a.has(order) ? a.real(order) : 2)};
  };
}

Value* import_linalg_norm(ImportArgs& a) {
  Value* x = a.value("self");
  bool is_vector = a.has("dim") ? a.ints("dim").size() == 1 : x->type.rank() == 1;
  expect(is_vector || !a.has("ord"), "linalg_norm: norms of matrices are not supported");
  if (auto dtype = a.dtype("dtype")) x = a.cast(x, *dtype);
  return emit_reduce(a, "norm", x, a.has("ord") ? a.real("ord") : 2);
}

Value* import_frobenius_norm(ImportArgs& a) { return emit_reduce(a, "norm", a.value("self"), 2); }

}  // namespace

void define_reduce(OpSet& ops) {
  auto op = ops.add<Reduce>("reduce");
  op.infer(infer_reduce).aten(run_reduce).flops([](const Reduce&, Types in, Types) {
    return static_cast<double>(in[0].numel());
  });
  op.import("aten::sum", import_accumulation("sum"))
      .import("aten::sum.dim_IntList", import_accumulation("sum"))
      .import("aten::prod", import_accumulation("prod"))
      .import("aten::prod.dim_int", import_accumulation("prod"))
      .import("aten::mean", import_mean)
      .import("aten::mean.dim", import_mean)
      .import("aten::amax", import_extremum("amax"))
      .import("aten::amin", import_extremum("amin"))
      .import("aten::max", import_extremum("amax"))
      .import("aten::min", import_extremum("amin"))
      .import("aten::max.dim", import_extremum_with_index("amax", "argmax"))
      .import("aten::min.dim", import_extremum_with_index("amin", "argmin"))
      .import("aten::argmax", import_argument("argmax"))
      .import("aten::argmin", import_argument("argmin"))
      .import("aten::logsumexp", import_logsumexp)
      .import("aten::linalg_vector_norm", import_norm("ord"))
      .import("aten::linalg_norm", import_linalg_norm)
      .import("aten::frobenius_norm.dim", import_frobenius_norm);
  for (const char* overload : {"", ".dim", ".dims"}) {
    op.import(std::string("aten::all") + overload, import_test("all"));
    op.import(std::string("aten::any") + overload, import_test("any"));
  }
  for (const char* overload : {"", ".dim", ".correction"}) {
    op.import(std::string("aten::var") + overload, import_spread("var", false));
    op.import(std::string("aten::std") + overload, import_spread("std", false));
    op.import(std::string("aten::var_mean") + overload, import_spread("var", true));
    op.import(std::string("aten::std_mean") + overload, import_spread("std", true));
  }
  for (const char* overload : {"Scalar", "ScalarOpt_dim", "ScalarOpt_dtype", "ScalarOpt_dim_dtype"}) {
    op.import(std::string("aten::norm.") + overload, import_norm("p"));
  }
}

}  // namespace torchweld
