#include "core/ops/attention.h"

#include <ATen/ops/add.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/logical_not.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/import_args.h"
#include "core/ops/constant.h"
#include "core/ops/layout.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/ops/pointwise.h"
#include "core/ops/reduce.h"
#include "core/ops/shape.h"
#include "core/ops/shape_emit.h"
#include "core/ops/softmax.h"

namespace torchweld {
namespace {

using Values = std::vector<Value*>;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

void check_mask(const Attention& a, const TensorType& mask, const Dims& scores, c10::ScalarType dtype) {
  expect(!a.causal, "attention: causal attention takes no mask");
  expect(mask.dtype == c10::kBool || mask.dtype == dtype || mask.dtype == c10::kFloat,
         "attention: the mask must be bool, f32 or of the dtype of the operands");
  expect(mask.rank() <= 4 && broadcast_shapes(mask.shape, scores) == scores, [&] {
    return "attention: the mask " + to_string(mask.shape) + " does not broadcast to " + to_string(scores);
  });
}

TensorType infer_attention(const Attention& a, Types in) {
  expect(in.size() == 3 || in.size() == 4, "attention: takes q, k, v and optionally a mask");
  const TensorType& q = in[0];
  const TensorType& k = in[1];
  const TensorType& v = in[2];
  for (const TensorType* x : {&q, &k, &v}) {
    expect(x->rank() == 4 && x->is_floating() && x->dtype == q.dtype,
           "attention: operands must have rank 4 and one floating dtype");
  }
  expect(q.shape[0] == k.shape[0] && q.shape[0] == v.shape[0], "attention: operands must have one batch size");
  expect(k.shape[1] == v.shape[1] && k.shape[1] > 0 && q.shape[1] % k.shape[1] == 0,
         "attention: heads of q must be a multiple of the heads of k and v");
  expect(q.shape[3] == k.shape[3], "attention: q and k must have one head size");
  expect(k.shape[2] == v.shape[2], "attention: k and v must have one length");
  if (in.size() == 4) check_mask(a, in[3], {q.shape[0], q.shape[1], q.shape[2], k.shape[2]}, q.dtype);
  Dims shape{q.shape[0], q.shape[1], q.shape[2], v.shape[3]};
  Dims strides = dense_strides_like(shape, q.strides);
  return {q.dtype, std::move(shape), std::move(strides), q.device};
}

/// f32 rounded to `dtype` without becoming infinite, as its lowest number would in both f16 and bf16.
at::Tensor rounded_mask(const at::Tensor& mask, c10::ScalarType dtype) {
  if (mask.scalar_type() == c10::kBool || mask.scalar_type() == dtype) return mask;
  if (dtype != c10::kHalf && dtype != c10::kBFloat16) return mask.to(dtype);
  const double largest = dtype == c10::kHalf ? 65504.0 : static_cast<double>(std::numeric_limits<c10::BFloat16>::max());
  at::Tensor dead = at::eq(mask, -kInfinity);
  return at::clamp(mask, -largest, largest).to(dtype).masked_fill(dead, -kInfinity);
}

/// softmax(scale * q k^T + mask) v step by step.
at::Tensor run_steps(const Attention& a, Tensors in) {
  int64_t repeats = in[0].size(1) / in[1].size(1);
  at::Tensor k = repeats == 1 ? in[1] : in[1].repeat_interleave(repeats, 1);
  at::Tensor v = repeats == 1 ? in[2] : in[2].repeat_interleave(repeats, 1);
  at::Tensor scores = at::matmul(at::mul(in[0], a.scale), k.transpose(-2, -1));
  if (in.size() == 4 && in[3].scalar_type() == c10::kBool) {
    scores = scores.masked_fill(at::logical_not(in[3]), -kInfinity);
  } else if (in.size() == 4) {
    scores = at::add(scores, in[3]);
  }
  return at::matmul(at::softmax(scores, -1), v);
}

at::Tensor run_attention(const Attention& a, Tensors in) {
  // LibTorch's attention kernel for the CPU takes a coarser exp than its softmax, which such programs wrote.
  bool full_precision = in[0].scalar_type() == c10::kFloat || in[0].scalar_type() == c10::kDouble;
  if (a.nan_rows && in[0].is_cpu() && full_precision && !a.causal) return run_steps(a, in);
  bool grouped = in[0].size(1) != in[1].size(1);
  std::optional<at::Tensor> mask;
  if (in.size() == 4) mask = rounded_mask(in[3], in[0].scalar_type());
  // LibTorch's CUDA kernels take no mask that repeats one number along the keys, be it by its strides or its size.
  if (mask && mask->dim() > 0 && (mask->stride(-1) != 1 || mask->size(-1) != in[1].size(2))) {
    Dims shape = mask->sizes().vec();
    shape.back() = in[1].size(2);
    mask = mask->expand(shape).contiguous();
  }
  at::Tensor result = at::scaled_dot_product_attention(in[0], in[1], in[2], mask, 0.0, a.causal, a.scale, grouped);
  if (!a.nan_rows || !mask) return result;
  at::Tensor dead = mask->scalar_type() == c10::kBool ? at::logical_not(*mask) : at::eq(*mask, -kInfinity);
  return result.masked_fill(dead.all(-1, true), std::numeric_limits<double>::quiet_NaN());
}

double attention_flops(const Attention&, Types in, Types out) {
  double pairs = static_cast<double>(out[0].shape[0] * out[0].shape[1] * out[0].shape[2] * in[1].shape[2]);
  return 2.0 * pairs * static_cast<double>(in[0].shape[3] + out[0].shape[3]);
}

/// Sizes of rank 4 that mean the same for attention: leading dimensions are joined or of size 1.
Dims with_four(const Dims& shape) {
  if (shape.size() == 2) return {1, 1, shape[0], shape[1]};
  if (shape.size() == 3) return {shape[0], 1, shape[1], shape[2]};
  Dims four(shape.end() - 4, shape.end());
  for (size_t i = 0; i + 4 < shape.size(); ++i) four[0] *= shape[i];
  return four;
}

/// The mask for operands of `rank` dimensions.
Value* mask_of_call(ImportArgs& a, int64_t rank) {
  if (!a.has("attn_mask")) return nullptr;
  Value* mask = a.value("attn_mask");
  expect(mask->type.dtype == c10::kBool || mask->type.is_floating(), "attention: the mask must be bool or floating");
  expect(mask->type.rank() >= 2 && mask->type.rank() <= rank, "attention: the mask must have rank 2 to that of q");
  expect(rank <= 4 || mask->type.rank() <= 3, "attention: a mask for each of several batch dimensions");
  return rank < 4 ? reshape(a, mask, with_four(mask->type.shape)) : mask;
}

Value* import_attention(ImportArgs& a) {
  Value* q = a.value("query");
  Value* k = a.value("key");
  Value* v = a.value("value");
  expect(a.real("dropout_p") == 0, "dropout draws random numbers");
  int64_t rank = q->type.rank();
  expect(k->type.rank() == rank && v->type.rank() == rank, "attention: operands must have one rank");
  expect(q->type.is_floating() && rank >= 2, "attention: operands must be floating point, of rank 2 or more");
  Dims result_shape = q->type.shape;
  result_shape.back() = v->type.shape.back();
  q = reshape(a, q, with_four(q->type.shape));
  k = reshape(a, k, with_four(k->type.shape));
  v = reshape(a, v, with_four(v->type.shape));
  if (!a.boolean("enable_gqa")) {
    Dims lead = broadcast_shapes({q->type.shape[0], q->type.shape[1]}, {k->type.shape[0], k->type.shape[1]});
    expect(lead == Dims({q->type.shape[0], q->type.shape[1]}), "attention: q is repeated over the batch or the heads");
    k = expand(a, k, {lead[0], lead[1], k->type.shape[2], k->type.shape[3]});
    v = expand(a, v, {lead[0], lead[1], v->type.shape[2], v->type.shape[3]});
  }
  bool causal = a.boolean("is_causal");
  Value* mask = mask_of_call(a, rank);
  double scale = a.has("scale") ? a.real("scale") : 1.0 / std::sqrt(static_cast<double>(q->type.shape[3]));
  Value* y = a.emit(Attention{.scale = scale, .causal = causal}, attention_inputs(q, k, v, mask));
  return reshape(a, y, result_shape);
}

// ---- LibTorch's fast paths of torch.nn.MultiheadAttention and TransformerEncoderLayer ----

/// x [B,T,E] as [B,heads,T,E/heads].
Value* split_heads(ImportArgs& a, Value* x, int64_t heads) {
  const Dims& s = x->type.shape;
  return a.emit(Permute{{0, 2, 1, 3}}, {a.emit(Reshape{{s[0], s[1], heads, s[2] / heads}}, {x})});
}

Value* rows_of(ImportArgs& a, Value* x, int64_t start, int64_t end) {
  return a.emit(Slice{.axis = 0, .start = start, .end = end}, {x});
}

/// q, k and v, heads apart. One product where two or three of them come from the same tensor.
Values project(ImportArgs& a, const Values& sources, int64_t heads) {
  Value* weight = a.value("qkv_weight");
  Value* bias = a.value("qkv_bias");
  int64_t size = a.integer("embed_dim");
  expect(weight->type.shape == Dims({3 * size, size}) && bias->type.shape == Dims{3 * size} && size % heads == 0,
         "attention: the joined weights must have sizes [3E,E] and [3E]");
  Values result;
  for (size_t i = 0; i < 3;) {
    size_t end = i + 1;
    while (end < 3 && sources[end] == sources[i]) ++end;
    int64_t first = static_cast<int64_t>(i) * size;
    int64_t last = static_cast<int64_t>(end) * size;
    Value* y = a.emit(Linear{}, {sources[i], rows_of(a, weight, first, last), rows_of(a, bias, first, last)});
    for (; i < end; ++i) {
      int64_t start = static_cast<int64_t>(i) * size - first;
      result.push_back(split_heads(a, a.emit(Slice{.axis = 2, .start = start, .end = start + size}, {y}), heads));
    }
  }
  return result;
}

/// The mask of the fast paths, where true means left out, as Attention wants it. Kinds: 0 [L,S], 1 [B,S], 2 [B,H,L,S].
Value* fast_path_mask(ImportArgs& a) {
  Value* mask = a.optional_value("mask");
  if (!mask) return nullptr;
  expect(a.has("mask_type"), "attention: a mask needs mask_type");
  int64_t kind = a.integer("mask_type");
  const Dims& s = mask->type.shape;
  expect(s.size() == (kind == 2 ? 4 : 2), "attention: the mask has a wrong rank for its mask_type");
  if (kind == 0) mask = reshape(a, mask, {1, 1, s[0], s[1]});
  if (kind == 1) mask = reshape(a, mask, {s[0], 1, 1, s[1]});
  return a.emit(Pointwise{"logical_not"}, {a.cast(mask, c10::kBool)});
}

/// Softmax of the masked products, for calls that want it as a result.
Value* weights_of(ImportArgs& a, Value* q, Value* k, Value* mask) {
  double scale = 1.0 / std::sqrt(static_cast<double>(q->type.shape[3]));
  Value* scaled = a.emit(Pointwise{"mul"}, {q, a.immediate(scale)});
  Value* scores = a.emit(Matmul{}, {scaled, a.emit(Permute{{0, 1, 3, 2}}, {k})});
  if (mask) {
    Value* lowest = a.immediate(-kInfinity);
    scores = a.emit(Pointwise{"where"}, {mask, scores, lowest});
  }
  return a.emit(Softmax{.axis = 3}, {scores});
}

/// Self-attention of the fast paths up to and with the output projection; sets `weights` when the call wants them.
Value* multi_head(ImportArgs& a, const Values& sources, int64_t heads, Value** weights) {
  for (const Value* x : sources) {
    expect(x->type.rank() == 3 && x->type.shape[2] == a.integer("embed_dim"), "attention: inputs must be [B,T,E]");
  }
  Values qkv = project(a, sources, heads);
  Value* mask = fast_path_mask(a);
  Value* joined = nullptr;
  if (weights) {
    *weights = weights_of(a, qkv[0], qkv[1], mask);
    joined = a.emit(Matmul{}, {*weights, qkv[2]});
  } else {
    double scale = 1.0 / std::sqrt(static_cast<double>(qkv[0]->type.shape[3]));
    Attention attention{.scale = scale, .causal = false, .nan_rows = true};
    joined = a.emit(attention, attention_inputs(qkv[0], qkv[1], qkv[2], mask));
  }
  joined = reshape(a, a.emit(Permute{{0, 2, 1, 3}}, {joined}), sources[0]->type.shape);
  return a.emit(Linear{}, {joined, a.value("proj_weight"), a.value("proj_bias")});
}

Values import_multi_head(ImportArgs& a) {
  Values sources{a.value("query"), a.value("key"), a.value("value")};
  Value* weights = nullptr;
  Value* y = multi_head(a, sources, a.integer("num_head"), a.boolean("need_weights") ? &weights : nullptr);
  if (weights && a.boolean("average_attn_weights")) {
    weights = a.emit(Reduce{.kind = "mean", .axes = {1}, .keepdim = false}, {weights});
  }
  return {y, weights};
}

Value* import_encoder_layer(ImportArgs& a) {
  Value* x = a.value("src");
  bool norm_first = a.boolean("norm_first");
  auto norm = [&](Value* y, const char* number) {
    std::string suffix = number;
    return a.emit(LayerNorm{.rank = 1, .eps = a.real("eps")},
                  {y, a.value("norm_weight_" + suffix), a.value("norm_bias_" + suffix)});
  };
  auto add = [&](Value* y, Value* z) { return a.emit(Pointwise{"add"}, {y, z}); };
  Value* attended = norm_first ? norm(x, "1") : x;
  x = add(multi_head(a, {attended, attended, attended}, a.integer("num_heads"), nullptr), x);
  if (!norm_first) x = norm(x, "1");
  Value* y = norm_first ? norm(x, "2") : x;
  y = a.emit(Linear{}, {y, a.value("ffn_weight_1"), a.value("ffn_bias_1")});
  // LibTorch takes GELU by tanh here on CUDA, because cuBLASLt's epilogue does.
  const char* gelu = x->type.device.is_cuda() ? "gelu_tanh" : "gelu";
  y = a.emit(Pointwise{a.boolean("use_gelu") ? gelu : "relu"}, {y});
  y = a.emit(Linear{}, {y, a.value("ffn_weight_2"), a.value("ffn_bias_2")});
  x = add(y, x);
  return norm_first ? x : norm(x, "2");
}

}  // namespace

Values attention_inputs(Value* q, Value* k, Value* v, Value* mask) {
  Values inputs{q, k, v};
  if (mask) inputs.push_back(mask);
  return inputs;
}

void define_attention(OpSet& ops) {
  ops.add<Attention>("attention")
      .infer(infer_attention)
      .aten(run_attention)
      .flops(attention_flops)
      .import("aten::scaled_dot_product_attention", import_attention)
      .import("aten::_native_multi_head_attention", import_multi_head)
      .import("aten::_transformer_encoder_layer_fwd", import_encoder_layer);
}

}  // namespace torchweld
