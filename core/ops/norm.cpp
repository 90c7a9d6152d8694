#include "core/ops/norm.h"

#include <ATen/ops/batch_norm.h>
#include <ATen/ops/full.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/rms_norm.h>

#include <limits>

#include "core/error.h"
#include "core/import_args.h"
#include "core/ops/constant.h"
#include "core/ops/layout.h"

namespace torchweld {
namespace {

void check_weight(const char* op, const TensorType& x, const TensorType& weight, const Dims& shape) {
  expect(weight.shape == shape,
         [&] { return std::string(op) + ": weights and statistics must have sizes " + to_string(shape); });
  expect(weight.is_floating(), [&] { return std::string(op) + ": weights and statistics must be floating point"; });
  expect(weight.dtype == x.dtype || weight.dtype == c10::kFloat,
         [&] { return std::string(op) + ": weights and statistics must have the dtype of x, or f32"; });
}

TensorType infer_batch_norm(const BatchNorm&, Types in) {
  expect(in.size() == 5, "batch_norm: takes x, weight, bias, mean and var");
  expect(in[0].rank() >= 2, "batch_norm: x must have rank 2 or more");
  expect(in[0].is_floating(), "batch_norm: x must be floating point");
  for (size_t i = 1; i < 5; ++i) check_weight("batch_norm", in[0], in[i], {in[0].shape[1]});
  return with_suggested_layout(in[0], in[0].shape);
}

TensorType infer_layer_norm(const LayerNorm& a, Types in) {
  expect(in.size() >= 1 && in.size() <= 3, "layer_norm: takes x and optionally weight and bias");
  const TensorType& x = in[0];
  expect(x.is_floating(), "layer_norm: x must be floating point");
  expect(a.rank >= 1 && a.rank <= x.rank(), "layer_norm: normalises 1 to rank dimensions");
  for (size_t i = 1; i < in.size(); ++i)
    check_weight("layer_norm", x, in[i], Dims(x.shape.end() - a.rank, x.shape.end()));
  return with_shape(x, x.shape);
}

TensorType infer_group_norm(const GroupNorm& a, Types in) {
  expect(in.size() >= 1 && in.size() <= 3, "group_norm: takes x and optionally weight and bias");
  const TensorType& x = in[0];
  expect(x.is_floating(), "group_norm: x must be floating point");
  expect(x.rank() >= 2, "group_norm: x must have rank 2 or more");
  expect(a.groups > 0 && x.shape[1] % a.groups == 0, "group_norm: channels must be a multiple of groups");
  for (size_t i = 1; i < in.size(); ++i) check_weight("group_norm", x, in[i], {x.shape[1]});
  if (!x.device.is_cpu()) return with_shape(x, x.shape);
  return with_suggested_layout(x, x.shape);
}

TensorType infer_rms_norm(const RmsNorm& a, Types in) {
  expect(in.size() == 1 || in.size() == 2, "rms_norm: takes x and optionally weight");
  const TensorType& x = in[0];
  expect(x.is_floating(), "rms_norm: x must be floating point");
  expect(a.rank >= 1 && a.rank <= x.rank(), "rms_norm: normalises 1 to rank dimensions");
  if (in.size() == 2) {
    expect(in[1].dtype == x.dtype, "rms_norm: weight must have the dtype of x");
    check_weight("rms_norm", x, in[1], Dims(x.shape.end() - a.rank, x.shape.end()));
  }
  return with_shape(x, x.shape);
}

std::optional<at::Tensor> optional_input(Tensors in, size_t i) {
  return i < in.size() ? std::optional(in[i]) : std::nullopt;
}

at::Tensor run_batch_norm(const BatchNorm& a, Tensors in) {
  // LibTorch mixes dtypes only as f32 weights beside f16 or bf16 input, all four alike.
  std::vector<at::Tensor> weights(in.begin() + 1, in.end());
  bool alike = true;
  for (const at::Tensor& w : weights) alike &= w.scalar_type() == in[0].scalar_type();
  c10::ScalarType dtype = alike || in[0].scalar_type() == c10::kDouble ? in[0].scalar_type() : c10::kFloat;
  for (at::Tensor& w : weights) w = w.to(dtype);
  return at::batch_norm(in[0], weights[0], weights[1], weights[2], weights[3], false, 0, a.eps, true);
}

Value* filled(ImportArgs& a, const Dims& shape, double number, c10::ScalarType dtype) {
  at::Tensor tensor = at::full(shape, number, at::TensorOptions(dtype).device(a.device()));
  return a.emit(Constant{.value = tensor, .name = ""}, {});
}

/// x, then weight and bias as far as the call has them; a bias without weight gets a weight of ones.
std::vector<Value*> with_weights(ImportArgs& a, Value* x, const Dims& shape) {
  Value* weight = a.optional_value("weight");
  Value* bias = a.optional_value("bias");
  std::vector<Value*> inputs{x};
  if (bias && !weight) weight = filled(a, shape, 1, bias->type.dtype);
  if (weight) inputs.push_back(weight);
  if (bias) inputs.push_back(bias);
  return inputs;
}

Value* emit_batch_norm(ImportArgs& a) {
  Value* x = a.value("input");
  expect(x->type.rank() >= 2, "batch_norm: x must have rank 2 or more");
  Value* mean = a.optional_value("running_mean");
  Value* var = a.optional_value("running_var");
  expect(mean && var, "batch_norm without running statistics computes them from the batch");
  Value* weight = a.optional_value("weight");
  Value* bias = a.optional_value("bias");
  Dims channels{x->type.shape[1]};
  if (!weight) weight = filled(a, channels, 1, mean->type.dtype);
  if (!bias) bias = filled(a, channels, 0, mean->type.dtype);
  return a.emit(BatchNorm{.eps = a.real("eps")}, {x, weight, bias, mean, var});
}

Value* import_batch_norm(ImportArgs& a) {
  expect(!a.boolean("training"), "batch_norm in training mode computes statistics from the batch and updates its own");
  return emit_batch_norm(a);
}

Value* import_instance_norm(ImportArgs& a) {
  if (!a.boolean("use_input_stats")) return emit_batch_norm(a);
  expect(!a.has("running_mean") && !a.has("running_var"), "instance_norm updates its running statistics");
  Value* x = a.value("input");
  expect(x->type.rank() >= 3, "instance_norm: x must have rank 3 or more");
  int64_t channels = x->type.shape[1];
  return a.emit(GroupNorm{.groups = channels, .eps = a.real("eps")}, with_weights(a, x, {channels}));
}

Value* import_layer_norm(ImportArgs& a) {
  Value* x = a.value("input");
  Dims shape = a.ints("normalized_shape");
  auto rank = static_cast<int64_t>(shape.size());
  expect(rank >= 1 && rank <= x->type.rank() && Dims(x->type.shape.end() - rank, x->type.shape.end()) == shape,
         "layer_norm: normalized_shape must be the last sizes of the input");
  return a.emit(LayerNorm{.rank = rank, .eps = a.real("eps")}, with_weights(a, x, shape));
}

Value* import_rms_norm(ImportArgs& a) {
  Value* x = a.value("input");
  Dims shape = a.ints("normalized_shape");
  auto rank = static_cast<int64_t>(shape.size());
  expect(rank >= 1 && rank <= x->type.rank() && Dims(x->type.shape.end() - rank, x->type.shape.end()) == shape,
         "rms_norm: normalized_shape must be the last sizes of the input");
  RmsNorm norm{.rank = rank, .eps = std::nullopt};
  if (a.has("eps")) norm.eps = a.real("eps");
  std::vector<Value*> inputs{x};
  if (Value* weight = a.optional_value("weight")) inputs.push_back(weight);
  return a.emit(norm, inputs);
}

Value* import_group_norm(ImportArgs& a) {
  Value* x = a.value("input");
  expect(x->type.rank() >= 2, "group_norm: x must have rank 2 or more");
  GroupNorm norm{.groups = a.integer("num_groups"), .eps = a.real("eps")};
  return a.emit(norm, with_weights(a, x, {x->type.shape[1]}));
}

/// The operators behind layer_norm and group_norm; their other results serve training.
std::vector<Value*> import_native_layer_norm(ImportArgs& a) { return {import_layer_norm(a), nullptr, nullptr}; }

std::vector<Value*> import_native_group_norm(ImportArgs& a) {
  Value* x = a.value("input");
  expect(x->type.rank() >= 2, "group_norm: x must have rank 2 or more");
  GroupNorm norm{.groups = a.integer("group"), .eps = a.real("eps")};
  return {a.emit(norm, with_weights(a, x, {x->type.shape[1]})), nullptr, nullptr};
}

}  // namespace

bool is_row_norm(const Node& node) {
  auto* layer = node.as<LayerNorm>();
  auto* rms = node.as<RmsNorm>();
  return (layer && layer->rank == 1) || (rms && rms->rank == 1);
}

double RmsNorm::eps_for(c10::ScalarType dtype) const {
  if (eps) return *eps;
  return dtype == c10::kDouble ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
}

void define_norm(OpSet& ops) {
  ops.add<BatchNorm>("batch_norm")
      .infer(infer_batch_norm)
      .aten(run_batch_norm)
      .import("aten::batch_norm", import_batch_norm)
      .import("aten::instance_norm", import_instance_norm);
  ops.add<LayerNorm>("layer_norm")
      .infer(infer_layer_norm)
      .aten([](const LayerNorm& a, Tensors in) {
        at::IntArrayRef shape = in[0].sizes().slice(static_cast<size_t>(in[0].dim() - a.rank));
        return at::layer_norm(in[0], shape, optional_input(in, 1), optional_input(in, 2), a.eps);
      })
      .import("aten::layer_norm", import_layer_norm)
      .import("aten::native_layer_norm", import_native_layer_norm);
  ops.add<RmsNorm>("rms_norm")
      .infer(infer_rms_norm)
      .aten([](const RmsNorm& a, Tensors in) {
        at::IntArrayRef shape = in[0].sizes().slice(static_cast<size_t>(in[0].dim() - a.rank));
        return at::rms_norm(in[0], shape, optional_input(in, 1), a.eps);
      })
      .import("aten::rms_norm", import_rms_norm);
  ops.add<GroupNorm>("group_norm")
      .infer(infer_group_norm)
      .aten([](const GroupNorm& a, Tensors in) {
        // Of channels-last tensors on the CPU LibTorch takes E[x^2] - E[x]^2, which cancels.
        return at::group_norm(in[0].contiguous(), a.groups, optional_input(in, 1), optional_input(in, 2), a.eps);
      })
      .import("aten::group_norm", import_group_norm)
      .import("aten::native_group_norm", import_native_group_norm);
}

}  // namespace torchweld
