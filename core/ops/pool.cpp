#include "core/ops/pool.h"

#include <ATen/ops/adaptive_avg_pool1d.h>
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/adaptive_avg_pool3d.h>
#include <ATen/ops/adaptive_max_pool1d.h>
#include <ATen/ops/adaptive_max_pool2d.h>
#include <ATen/ops/adaptive_max_pool3d.h>
#include <ATen/ops/avg_pool1d.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/avg_pool3d.h>
#include <ATen/ops/max_pool1d.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/max_pool3d.h>

#include "core/error.h"
#include "core/import_args.h"
#include "core/ops/aten.h"
#include "core/ops/layout.h"
#include "core/ops/reduce.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

struct Window {
  int64_t kernel;
  int64_t stride;
  int64_t padding;
  int64_t dilation;
};

/// Number of windows along one dimension; with ceil_mode also windows that end outside, if they start inside the input
/// or its left padding.
int64_t window_count(int64_t size, const Window& w, bool ceil_mode) {
  expect(w.kernel > 0 && w.stride > 0 && w.dilation > 0, "pool: kernel, stride and dilation must be positive");
  expect(w.padding >= 0 && 2 * w.padding <= w.dilation * (w.kernel - 1) + 1,
         "pool: padding must be at most half of the kernel");
  int64_t room = size + 2 * w.padding - w.dilation * (w.kernel - 1) - 1;
  int64_t count =
      room < 0 && !(ceil_mode && room + w.stride > 0) ? 0 : (room + (ceil_mode ? w.stride - 1 : 0)) / w.stride + 1;
  if (ceil_mode && (count - 1) * w.stride >= size + w.padding) --count;
  expect(count > 0, "pool: the output has no elements in a spatial dimension");
  return count;
}

void check_input(const TensorType& x, size_t dims) {
  expect(x.rank() >= 3 && x.rank() <= 5, "pool: x must have one to three spatial dimensions");
  expect(dims == static_cast<size_t>(x.rank()) - 2, "pool: needs one number per spatial dimension");
  expect(x.is_floating(), "pool: x must be floating point");
}

TensorType infer_max_pool(const MaxPool& a, Types in) {
  check_input(in[0], a.kernel.size());
  Dims shape{in[0].shape[0], in[0].shape[1]};
  for (size_t i = 0; i < a.kernel.size(); ++i) {
    Window window{a.kernel[i], a.stride.at(i), a.padding.at(i), a.dilation.at(i)};
    shape.push_back(window_count(in[0].shape[i + 2], window, a.ceil_mode));
  }
  return with_suggested_layout(in[0], std::move(shape));
}

/// LibTorch's averages of volumes are row-major.
TensorType averaged_type(const TensorType& x, Dims shape) {
  return x.rank() == 5 ? with_shape(x, std::move(shape)) : with_suggested_layout(x, std::move(shape));
}

TensorType infer_avg_pool(const AvgPool& a, Types in) {
  check_input(in[0], a.kernel.size());
  expect(a.kernel.size() > 1 || a.divisor_override == 0, "avg_pool1d: takes no divisor_override");
  Dims shape{in[0].shape[0], in[0].shape[1]};
  for (size_t i = 0; i < a.kernel.size(); ++i) {
    Window window{a.kernel[i], a.stride.at(i), a.padding.at(i), 1};
    shape.push_back(window_count(in[0].shape[i + 2], window, a.ceil_mode));
  }
  return averaged_type(in[0], std::move(shape));
}

TensorType infer_adaptive_pool(const AdaptivePool& a, Types in) {
  check_input(in[0], a.output.size());
  expect(a.kind == "avg" || a.kind == "max", "adaptive_pool: kind must be avg or max");
  Dims shape{in[0].shape[0], in[0].shape[1]};
  for (size_t i = 0; i < a.output.size(); ++i) {
    expect(in[0].shape[i + 2] > 0 && a.output[i] > 0, "adaptive_pool: input and output sizes must be positive");
    shape.push_back(a.output[i]);
  }
  return averaged_type(in[0], std::move(shape));
}

at::Tensor run_max_pool(const MaxPool& a, Tensors in) {
  switch (a.kernel.size()) {
    case 1:
      return at::max_pool1d(in[0], a.kernel, a.stride, a.padding, a.dilation, a.ceil_mode);
    case 2:
      return at::max_pool2d(in[0], a.kernel, a.stride, a.padding, a.dilation, a.ceil_mode);
    default:
      return at::max_pool3d(in[0], a.kernel, a.stride, a.padding, a.dilation, a.ceil_mode);
  }
}

at::Tensor run_avg_pool(const AvgPool& a, Tensors in) {
  std::optional<int64_t> divisor;
  if (a.divisor_override != 0) divisor = a.divisor_override;
  switch (a.kernel.size()) {
    case 1:
      return at::avg_pool1d(in[0], a.kernel, a.stride, a.padding, a.ceil_mode, a.count_include_pad);
    case 2:
      return at::avg_pool2d(in[0], a.kernel, a.stride, a.padding, a.ceil_mode, a.count_include_pad, divisor);
    default:
      return at::avg_pool3d(in[0], a.kernel, a.stride, a.padding, a.ceil_mode, a.count_include_pad, divisor);
  }
}

at::Tensor run_adaptive_pool(const AdaptivePool& a, Tensors in) {
  bool avg = a.kind == "avg";
  switch (a.output.size()) {
    case 1:
      return avg ? at::adaptive_avg_pool1d(in[0], a.output) : std::get<0>(at::adaptive_max_pool1d(in[0], a.output));
    case 2:
      return avg ? at::adaptive_avg_pool2d(in[0], a.output) : std::get<0>(at::adaptive_max_pool2d(in[0], a.output));
    default:
      return avg ? at::adaptive_avg_pool3d(in[0], a.output) : std::get<0>(at::adaptive_max_pool3d(in[0], a.output));
  }
}

template <class A>
double window_flops(const A& a, Types, Types out) {
  double flops = static_cast<double>(out[0].numel());
  for (int64_t size : a.kernel) flops *= static_cast<double>(size);
  return flops;
}

/// Calls `pool` on the argument "self", which gets a batch dimension for the while when it has none.
template <class F>
Value* with_batch(ImportArgs& a, int64_t dims, F pool) {
  Value* x = a.value("self");
  expect(x->type.rank() == dims + 2 || x->type.rank() == dims + 1,
         [&] { return "pool: x must have rank " + std::to_string(dims + 1) + " or " + std::to_string(dims + 2); });
  if (x->type.rank() == dims + 2) return pool(x);
  Dims shape = x->type.shape;
  shape.insert(shape.begin(), 1);
  Value* y = pool(a.emit(Reshape{.shape = shape}, {x}));
  return a.emit(Reshape{.shape = Dims(y->type.shape.begin() + 1, y->type.shape.end())}, {y});
}

Value* emit_max_pool(ImportArgs& a, int64_t dims) {
  size_t n = static_cast<size_t>(dims);
  MaxPool pool{.kernel = spread(a.ints("kernel_size"), n),
               .stride = spread(a.ints("stride"), n),
               .padding = spread(a.ints("padding"), n),
               .dilation = spread(a.ints("dilation"), n),
               .ceil_mode = a.boolean("ceil_mode")};
  if (pool.stride.empty()) pool.stride = pool.kernel;
  return with_batch(a, dims, [&](Value* x) { return a.emit(pool, {x}); });
}

Value* emit_avg_pool(ImportArgs& a, int64_t dims) {
  size_t n = static_cast<size_t>(dims);
  AvgPool pool{.kernel = spread(a.ints("kernel_size"), n),
               .stride = spread(a.ints("stride"), n),
               .padding = spread(a.ints("padding"), n),
               .ceil_mode = a.boolean("ceil_mode"),
               .count_include_pad = a.boolean("count_include_pad")};
  if (pool.stride.empty()) pool.stride = pool.kernel;
  if (a.has("divisor_override")) {
    pool.divisor_override = a.integer("divisor_override");
    expect(pool.divisor_override != 0, "avg_pool: divisor_override must not be 0");
  }
  return with_batch(a, dims, [&](Value* x) { return a.emit(pool, {x}); });
}

/// The second result of a pooling operator, where the largest elements stand. Its node goes when nothing reads it.
Value* emit_indices(ImportArgs& a, const char* op, std::vector<c10::IValue> arguments, const Value* values) {
  arguments.insert(arguments.begin(), "$");
  Aten call{
      .op = op, .arguments = std::move(arguments), .results = {values->type, with_dtype(values->type, c10::kLong)}};
  return a.graph.add_node(call, {a.value("self")})->output(1);
}

ImportFn import_max_pool_with_indices(int64_t dims, const char* op) {
  return [=](ImportArgs& a) -> std::vector<Value*> {
    Value* values = emit_max_pool(a, dims);
    std::vector<c10::IValue> arguments;
    for (const char* name : {"kernel_size", "stride", "padding", "dilation", "ceil_mode"})
      arguments.push_back(a.raw(name));
    return {values, emit_indices(a, op, std::move(arguments), values)};
  };
}

ImportFn import_adaptive_max_pool(int64_t dims, const char* op) {
  return [=](ImportArgs& a) -> std::vector<Value*> {
    AdaptivePool pool{.kind = "max", .output = spread(a.ints("output_size"), static_cast<size_t>(dims))};
    Value* values = with_batch(a, dims, [&](Value* x) { return a.emit(pool, {x}); });
    return {values, emit_indices(a, op, {a.raw("output_size")}, values)};
  };
}

/// Means over everything become a reduction, windows of one size an ordinary pool.
Value* emit_adaptive_avg_pool(ImportArgs& a, int64_t dims) {
  Dims output = spread(a.ints("output_size"), static_cast<size_t>(dims));
  expect(output.size() == static_cast<size_t>(dims), "adaptive_avg_pool: output_size needs one number per dimension");
  return with_batch(a, dims, [&](Value* x) {
    Dims kernel;
    Dims axes;
    bool even = true;
    bool whole = true;
    for (int64_t i = 0; i < dims; ++i) {
      int64_t size = x->type.shape[i + 2];
      even &= size > 0 && output[i] > 0 && size % output[i] == 0;
      whole &= output[i] == 1;
      kernel.push_back(even ? size / output[i] : 0);
      axes.push_back(i + 2);
    }
    if (even && whole && x->type.is_floating())
      return a.emit(Reduce{.kind = "mean", .axes = axes, .keepdim = true}, {x});
    if (even) return a.emit(AvgPool{.kernel = kernel, .stride = kernel, .padding = Dims(kernel.size(), 0)}, {x});
    return a.emit(AdaptivePool{.kind = "avg", .output = output}, {x});
  });
}

}  // namespace

Dims spread(Dims list, size_t count) { return list.size() == 1 ? Dims(count, list[0]) : list; }

void define_pool(OpSet& ops) {
  auto max_pool = ops.add<MaxPool>("max_pool");
  max_pool.infer(infer_max_pool).aten(run_max_pool).flops(window_flops<MaxPool>);
  auto avg_pool = ops.add<AvgPool>("avg_pool");
  avg_pool.infer(infer_avg_pool).aten(run_avg_pool).flops(window_flops<AvgPool>);
  auto adaptive_pool = ops.add<AdaptivePool>("adaptive_pool");
  adaptive_pool.infer(infer_adaptive_pool).aten(run_adaptive_pool).flops([](const AdaptivePool&, Types in, Types) {
    return static_cast<double>(in[0].numel());
  });
  for (int64_t dims = 1; dims <= 3; ++dims) {
    std::string suffix = std::to_string(dims) + "d";
    max_pool.import("aten::max_pool" + suffix, [dims](ImportArgs& a) { return emit_max_pool(a, dims); });
    avg_pool.import("aten::avg_pool" + suffix, [dims](ImportArgs& a) { return emit_avg_pool(a, dims); });
    adaptive_pool.import("aten::adaptive_avg_pool" + suffix,
                         [dims](ImportArgs& a) { return emit_adaptive_avg_pool(a, dims); });
  }
  max_pool.import("aten::max_pool1d_with_indices", import_max_pool_with_indices(1, "aten::max_pool1d_with_indices"))
      .import("aten::max_pool2d_with_indices", import_max_pool_with_indices(2, "aten::max_pool2d_with_indices"))
      .import("aten::max_pool3d_with_indices", import_max_pool_with_indices(3, "aten::max_pool3d_with_indices"));
  adaptive_pool.import("aten::adaptive_max_pool1d", import_adaptive_max_pool(1, "aten::adaptive_max_pool1d"))
      .import("aten::adaptive_max_pool2d", import_adaptive_max_pool(2, "aten::adaptive_max_pool2d"))
      .import("aten::adaptive_max_pool3d", import_adaptive_max_pool(3, "aten::adaptive_max_pool3d"));
}

}  // namespace torchweld
