#include "core/ops/resize.h"

#include <ATen/ops/_upsample_bicubic2d_aa.h>
#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <ATen/ops/_upsample_nearest_exact1d.h>
#include <ATen/ops/_upsample_nearest_exact2d.h>
#include <ATen/ops/_upsample_nearest_exact3d.h>
#include <ATen/ops/upsample_bicubic2d.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/upsample_linear1d.h>
#include <ATen/ops/upsample_nearest1d.h>
#include <ATen/ops/upsample_nearest2d.h>
#include <ATen/ops/upsample_nearest3d.h>
#include <ATen/ops/upsample_trilinear3d.h>

#include <cmath>

#include "core/error.h"
#include "core/import_args.h"
#include "core/ops/layout.h"

namespace torchweld {
namespace {

using Scales = std::vector<std::optional<double>>;

TensorType infer_resize(const Resize& a, Types in) {
  const TensorType& x = in[0];
  expect(x.rank() >= 3 && x.rank() <= 5, "resize: x must have one to three spatial dimensions");
  size_t dims = static_cast<size_t>(x.rank()) - 2;
  expect(a.output.size() == dims, "resize: needs one output size per spatial dimension");
  expect(a.scales.empty() || a.scales.size() == dims, "resize: needs one scale per spatial dimension, or none");
  bool nearest = a.mode == "nearest" || a.mode == "nearest-exact";
  expect(nearest || a.mode == "linear" || a.mode == "cubic", [&] { return "resize: unknown mode '" + a.mode + "'"; });
  expect(a.mode != "cubic" || dims == 2, "resize: mode cubic needs two spatial dimensions");
  expect(!a.antialias || (dims == 2 && !nearest), "resize: antialias needs two spatial dimensions and linear or cubic");
  expect(x.is_floating() || x.dtype == c10::kByte, "resize: x must be floating point or uint8");
  expect(x.is_floating() || (nearest && x.device.is_cpu()), "resize: uint8 is supported with nearest on the CPU");
  Dims shape{x.shape[0], x.shape[1]};
  for (size_t i = 0; i < dims; ++i) {
    expect(x.shape[i + 2] > 0 && a.output[i] > 0, "resize: input and output sizes must be positive");
    shape.push_back(a.output[i]);
  }
  return with_suggested_layout(x, std::move(shape));
}

at::Tensor run_resize(const Resize& a, Tensors in) {
  const at::Tensor& x = in[0];
  Scales s = a.scales.empty() ? Scales(a.output.size()) : a.scales;
  bool exact = a.mode == "nearest-exact";
  bool corners = a.align_corners;
  if (a.mode == "cubic") {
    return a.antialias ? at::_upsample_bicubic2d_aa(x, a.output, corners, s[0], s[1])
                       : at::upsample_bicubic2d(x, a.output, corners, s[0], s[1]);
  }
  if (a.mode == "linear") {
    if (a.antialias) return at::_upsample_bilinear2d_aa(x, a.output, corners, s[0], s[1]);
    if (a.output.size() == 1) return at::upsample_linear1d(x, a.output, corners, s[0]);
    if (a.output.size() == 2) return at::upsample_bilinear2d(x, a.output, corners, s[0], s[1]);
    return at::upsample_trilinear3d(x, a.output, corners, s[0], s[1], s[2]);
  }
  switch (a.output.size()) {
    case 1:
      return exact ? at::_upsample_nearest_exact1d(x, a.output, s[0]) : at::upsample_nearest1d(x, a.output, s[0]);
    case 2:
      return exact ? at::_upsample_nearest_exact2d(x, a.output, s[0], s[1])
                   : at::upsample_nearest2d(x, a.output, s[0], s[1]);
    default:
      return exact ? at::_upsample_nearest_exact3d(x, a.output, s[0], s[1], s[2])
                   : at::upsample_nearest3d(x, a.output, s[0], s[1], s[2]);
  }
}

double resize_flops(const Resize& a, Types, Types out) {
  double taps = a.mode == "cubic" ? 16 : a.mode == "linear" ? std::pow(2.0, static_cast<double>(a.output.size())) : 0;
  return 2.0 * taps * static_cast<double>(out[0].numel());
}

/// One operator: a mode for a number of spatial dimensions.
struct ResizeOperator {
  const char* name;
  const char* mode;
  size_t dims;
  bool antialias = false;
};

constexpr std::array kOperators{
    ResizeOperator{"aten::upsample_nearest1d", "nearest", 1},
    ResizeOperator{"aten::upsample_nearest2d", "nearest", 2},
    ResizeOperator{"aten::upsample_nearest3d", "nearest", 3},
    ResizeOperator{"aten::_upsample_nearest_exact1d", "nearest-exact", 1},
    ResizeOperator{"aten::_upsample_nearest_exact2d", "nearest-exact", 2},
    ResizeOperator{"aten::_upsample_nearest_exact3d", "nearest-exact", 3},
    ResizeOperator{"aten::upsample_linear1d", "linear", 1},
    ResizeOperator{"aten::upsample_bilinear2d", "linear", 2},
    ResizeOperator{"aten::upsample_trilinear3d", "linear", 3},
    ResizeOperator{"aten::upsample_bicubic2d", "cubic", 2},
    ResizeOperator{"aten::_upsample_bilinear2d_aa", "linear", 2, true},
    ResizeOperator{"aten::_upsample_bicubic2d_aa", "cubic", 2, true},
};

Resize resize_of(ImportArgs& a, const ResizeOperator& op) {
  Resize resize{.mode = op.mode, .output = {}, .antialias = op.antialias, .scales = {}};
  if (a.has("align_corners")) resize.align_corners = a.boolean("align_corners");
  return resize;
}

/// The overload with `output_size` and one scale per dimension.
ImportFn import_sized(const ResizeOperator& op) {
  return [&op](ImportArgs& a) -> std::vector<Value*> {
    Resize resize = resize_of(a, op);
    resize.output = a.ints("output_size");
    if (resize.output.size() == 1) resize.output.resize(op.dims, resize.output[0]);
    static constexpr std::array kNames{"scales_d", "scales_h", "scales_w"};
    bool any = false;
    for (size_t i = 0; i < op.dims; ++i) {
      const char* name = op.dims == 1 ? "scales" : kNames[3 - op.dims + i];
      auto& scale = resize.scales.emplace_back();
      if (a.has(name)) scale = a.real(name);
      any |= scale.has_value();
    }
    if (!any) resize.scales.clear();
    return {a.emit(resize, {a.value("self")})};
  };
}

/// The overload with `output_size` or `scale_factors`, of which one is given.
ImportFn import_vec(const ResizeOperator& op) {
  return [&op](ImportArgs& a) -> std::vector<Value*> {
    Resize resize = resize_of(a, op);
    Value* x = a.value("input");
    expect(x->type.rank() == static_cast<int64_t>(op.dims) + 2,
           [&] { return std::string(op.name) + ": input has a wrong rank"; });
    expect(a.has("output_size") != a.has("scale_factors"), "resize: needs either output_size or scale_factors");
    if (a.has("output_size")) {
      resize.output = a.ints("output_size");
      return {a.emit(resize, {x})};
    }
    const c10::IValue& factors = a.raw("scale_factors");
    expect(factors.isDoubleList() && factors.toDoubleVector().size() == op.dims,
           "resize: needs one scale factor per spatial dimension");
    for (size_t i = 0; i < op.dims; ++i) {
      double factor = factors.toDoubleVector()[i];
      resize.scales.push_back(factor);
      resize.output.push_back(static_cast<int64_t>(std::floor(static_cast<double>(x->type.shape[i + 2]) * factor)));
    }
    return {a.emit(resize, {x})};
  };
}

}  // namespace

void define_resize(OpSet& ops) {
  auto builder = ops.add<Resize>("resize");
  builder.infer(infer_resize).aten(run_resize).flops(resize_flops);
  for (const ResizeOperator& op : kOperators) {
    builder.import(op.name, import_sized(op));
    builder.import(std::string(op.name) + ".vec", import_vec(op));
  }
}

}  // namespace torchweld
