#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <unordered_map>

#include "conversion/passes/passes.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/ops/pointwise.h"
#include "kernels/aten/aten_kernel.h"

namespace torchweld {
namespace {

/// y = x * scale + shift with one f64 number per channel.
struct Affine {
  Value* x = nullptr;
  at::Tensor scale;
  at::Tensor shift;
  bool only_adds = false;  ///< Every scale is 1.
};

/// The channel dimension of what a convolution or linear gives.
int64_t channel_axis(const Value* value) { return value->from<Linear>() ? value->type.rank() - 1 : 1; }

/// The affine maps, but for x, of all batch norms whose numbers are known and finite. They are computed in a row, as
/// one long norm: on a GPU launches and looks at results take longer than these few numbers do.
std::unordered_map<const Node*, Affine> affine_of_batch_norms(const Graph& graph) {
  std::vector<const Node*> norms;
  std::array<std::vector<at::Tensor>, 4> numbers;  // weight, bias, mean, var
  std::vector<double> eps;
  for (const auto& node : graph.nodes()) {
    auto* norm = node->as<BatchNorm>();
    std::array<const at::Tensor*, 4> constants{};
    for (size_t i = 0; norm && i < 4; ++i) constants[i] = constant_of(node->input(i + 1));
    if (std::count(constants.begin(), constants.end(), nullptr) > 0) continue;
    norms.push_back(node.get());
    for (size_t i = 0; i < 4; ++i) numbers[i].push_back(*constants[i]);
    eps.insert(eps.end(), constants[0]->numel(), norm->eps);
  }
  if (norms.empty()) return {};
  auto joined = [&](size_t i) { return at::cat(numbers[i]).to(c10::kDouble); };
  at::Tensor var = joined(3);
  at::Tensor scale = joined(0) * at::rsqrt(var + at::tensor(eps, c10::kDouble).to(var.device()));
  at::Tensor shift = joined(1) - joined(2) * scale;
  at::Tensor known = scale.cpu();
  std::unordered_map<const Node*, Affine> affines;
  int64_t begin = 0;
  for (const Node* node : norms) {
    int64_t count = constant_of(node->input(1))->numel();
    const double* first = known.const_data_ptr<double>() + begin;
    bool finite = std::all_of(first, first + count, [](double number) { return std::isfinite(number); });
    bool ones = std::all_of(first, first + count, [](double number) { return number == 1; });
    if (finite) affines[node] = {nullptr, scale.narrow(0, begin, count), shift.narrow(0, begin, count), ones};
    begin += count;
  }
  return affines;
}

/// A constant operand as one f64 number per channel of `x`; nothing when it varies along other dimensions.
std::optional<at::Tensor> per_channel(const Value* operand, const Value* x) {
  const at::Tensor* constant = constant_of(operand);
  if (!constant) return std::nullopt;
  int64_t axis = channel_axis(x);
  int64_t channels = x->type.shape[axis];
  int64_t lead = x->type.rank() - constant->dim();
  if (lead < 0) return std::nullopt;
  for (int64_t i = 0; i < constant->dim(); ++i) {
    int64_t wanted = i + lead == axis ? channels : 1;
    if (constant->size(i) != 1 && constant->size(i) != wanted) return std::nullopt;
  }
  return constant->to(x->type.device, c10::kDouble).reshape({-1}).expand({channels}).contiguous();
}

std::optional<Affine> affine_of_pointwise(const Node& node, const Pointwise& op) {
  if (node.inputs().size() != 2 || !node.output()->type.is_floating()) return std::nullopt;
  bool commutes = op.fn == "mul" || op.fn == "add";
  if (!commutes && op.fn != "sub" && op.fn != "div") return std::nullopt;
  size_t side = node.input(0)->from<Constant>() && commutes ? 1 : 0;
  Value* x = node.input(side);
  if (x->type.rank() < 2 || node.output()->type.shape != x->type.shape || node.output()->type.dtype != x->type.dtype)
    return std::nullopt;
  std::optional<at::Tensor> operand = per_channel(node.input(1 - side), x);
  if (!operand) return std::nullopt;
  at::Tensor one = at::ones_like(*operand);
  at::Tensor zero = at::zeros_like(*operand);
  if (op.fn == "add") return Affine{x, one, *operand, /*only_adds=*/true};
  if (op.fn == "sub") return Affine{x, one, -*operand, /*only_adds=*/true};
  if (op.fn == "mul") return Affine{x, *operand, zero};
  at::Tensor inverse = operand->reciprocal();
  if (!at::isfinite(inverse).all().item<bool>()) return std::nullopt;
  return Affine{x, inverse, zero};
}

/// Weight with each output channel multiplied by its number; contiguous. Computed in f64; on the CPU in pieces that
/// ATen gives to one thread, because memory for f64 copies of a large weight costs more than the products.
at::Tensor scale_weight(const Node& producer, const at::Tensor& weight, const at::Tensor& scale) {
  int64_t piece = weight.is_cpu() ? 1 << 15 : weight.numel();
  Dims shape = weight.sizes().vec();
  Dims factors(shape.size(), 1);
  factors[0] = shape[0];
  if (auto* conv = producer.as<Conv>(); conv && conv->transposed) {
    // [C, K/groups, ...]: rows of one group share its part of the output channels.
    shape[0] /= conv->groups;
    shape.insert(shape.begin(), conv->groups);
    factors.assign(shape.size(), 1);
    factors[0] = conv->groups;
    factors[2] = weight.size(1);
  }
  at::Tensor from = weight.reshape(shape);
  at::Tensor factor = scale.reshape(factors);
  at::Tensor scaled = at::empty(shape, weight.options().memory_format(c10::MemoryFormat::Contiguous));
  int64_t rows = std::max<int64_t>(1, piece * shape[0] / std::max<int64_t>(1, weight.numel()));
  for (int64_t begin = 0; begin < shape[0]; begin += rows) {
    int64_t count = std::min(rows, shape[0] - begin);
    scaled.narrow(0, begin, count).copy_(from.narrow(0, begin, count) * factor.narrow(0, begin, count));
  }
  return scaled.reshape(weight.sizes());
}

/// Numbers in memory of their own, from where it is aligned.
at::Tensor alone(const at::Tensor& numbers, c10::ScalarType dtype) {
  return numbers.to(dtype, /*non_blocking=*/false, /*copy=*/true);
}

/// The producer of `affine.x` with the affine map in its weights; null when it cannot go there.
Value* fold_into_producer(Graph& graph, const Affine& affine) {
  Node* producer = affine.x->producer();
  if (!producer || (!producer->as<Conv>() && !producer->as<Linear>())) return nullptr;
  if (graph.use_count(affine.x) != 1) return nullptr;
  if (affine.scale.numel() != affine.x->type.shape[channel_axis(affine.x)]) return nullptr;
  if (producer->as<Linear>() && affine.x->type.rank() < 2) return nullptr;
  const at::Tensor* weight = constant_of(producer->input(1));
  bool has_bias = producer->inputs().size() > 2;
  const at::Tensor* bias = has_bias ? constant_of(producer->input(2)) : nullptr;
  if (!weight || (has_bias && !bias)) return nullptr;
  at::Tensor new_bias = affine.shift;
  if (bias) new_bias = new_bias + bias->to(c10::kDouble) * affine.scale;
  auto name_of = [](const Value* v) { return v->from<Constant>()->name; };
  Value* w = producer->input(1);
  if (!affine.only_adds) {
    w = graph.add(Constant{scale_weight(*producer, *weight, affine.scale), name_of(w)}, {});
  }
  Value* b =
      graph.add(Constant{alone(new_bias, weight->scalar_type()), has_bias ? name_of(producer->input(2)) : ""}, {});
  return graph.add(producer->attrs, {producer->input(0), w, b});
}

/// A batch norm by itself as multiplication and addition, in f32 for f16 and bf16.
Value* as_pointwise(Graph& graph, const Affine& affine, const Value* result) {
  c10::ScalarType dtype = result->type.dtype;
  c10::ScalarType compute = dtype == c10::kDouble ? c10::kDouble : c10::kFloat;
  Dims shape(result->type.rank() - 1, 1);
  shape[0] = affine.scale.numel();
  Value* x = affine.x;
  if (x->type.dtype != compute) x = graph.add(Cast{compute}, {x});
  Value* scale = graph.add(Constant{alone(affine.scale, compute).reshape(shape), ""}, {});
  Value* shift = graph.add(Constant{alone(affine.shift, compute).reshape(shape), ""}, {});
  Value* y = graph.add(Pointwise{"add"}, {graph.add(Pointwise{"mul"}, {x, scale}), shift});
  return dtype == compute ? y : graph.add(Cast{dtype}, {y});
}

}  // namespace

void fold_batch_norm(Graph& graph, const PassContext&) {
  PlainAten plain;
  std::unordered_map<const Node*, Affine> norms = affine_of_batch_norms(graph);
  for (Node* node : graph.node_list()) {
    auto* norm = node->as<BatchNorm>();
    auto* pointwise = node->as<Pointwise>();
    std::optional<Affine> affine = pointwise ? affine_of_pointwise(*node, *pointwise) : std::nullopt;
    if (auto known = norms.find(node); known != norms.end()) {
      affine = known->second;
      affine->x = node->input(0);
    }
    if (!affine) continue;
    Graph::InsertBefore here(graph, node);
    graph.origin = node->origin;
    // Along the last dimension of a linear's result, batch norm's channels only lie when the rank is 2.
    bool same_axis = !norm || channel_axis(affine->x) == 1;
    Value* result = same_axis ? fold_into_producer(graph, *affine) : nullptr;
    if (!result && norm) result = as_pointwise(graph, *affine, node->output());
    if (!result) continue;
    result->type.strides = node->output()->type.strides;
    graph.replace_uses(node->output(), result);
  }
}

}  // namespace torchweld
