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
#include <memory>
#include <mutex>
#include <tuple>
#include <unordered_map>

#include "conversion/passes/facts.h"
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
  LazyTensor scale;
  LazyTensor shift;
  bool only_adds = false;  ///< Every scale is 1.
};

/// The channel dimension of what a convolution or linear gives.
int64_t channel_axis(const Value* value) { return value->from<Linear>() ? value->type.rank() - 1 : 1; }

TensorType per_channel_type(c10::ScalarType dtype, int64_t channels, c10::Device device) {
  return contiguous_type(dtype, {channels}, device);
}

/// Scales and shifts of batch norms, computed in a row, as one long norm, at the first read of any: on a GPU launches
/// and looks at results take longer than these few numbers do.
class NormsInARow {
 public:
  /// Takes a norm in and returns its place. `numbers`: weight, bias, mean and variance.
  int64_t add(const std::array<LazyTensor, 4>& numbers, double eps) {
    int64_t begin = size_;
    size_ += numbers[0].numel();
    eps_.push_back(eps);
    for (size_t i = 0; i < 4; ++i) numbers_[i].push_back(numbers[i]);
    return begin;
  }
  const at::Tensor& scale() { return computed().first; }
  const at::Tensor& shift() { return computed().second; }

 private:
  const std::pair<at::Tensor, at::Tensor>& computed() {
    std::call_once(once_, [&] {
      auto joined = [&](size_t i) {
        std::vector<at::Tensor> tensors;
        for (const LazyTensor& numbers : numbers_[i]) tensors.push_back(numbers.tensor());
        return at::cat(tensors).to(c10::kDouble);
      };
      std::vector<double> eps;  // of each channel
      eps.reserve(static_cast<size_t>(size_));
      for (size_t i = 0; i < eps_.size(); ++i) eps.insert(eps.end(), numbers_[0][i].numel(), eps_[i]);
      at::Tensor var = joined(3);
      at::Tensor scale = joined(0) * at::rsqrt(var + at::tensor(eps, c10::kDouble).to(var.device()));
      at::Tensor shift = joined(1) - joined(2) * scale;
      result_ = {scale, shift};
    });
    return result_;
  }

  std::array<std::vector<LazyTensor>, 4> numbers_;
  std::vector<double> eps_;  // of each norm
  int64_t size_ = 0;
  std::once_flag once_;
  std::pair<at::Tensor, at::Tensor> result_;
};

/// A batch norm with known numbers, and where it stands in the row.
struct KnownNorm {
  const Node* node = nullptr;
  int64_t begin = 0;
  LazyTensor scale;
  LazyTensor shift;
};

constexpr const char* kFinite = "finite";
constexpr const char* kOnes = "ones";

/// Looks at all scales at once, where something is not known of one.
void look_at(const std::vector<KnownNorm>& norms, NormsInARow& row, std::unordered_map<const Node*, Affine>& affines) {
  auto known_to_be = [](const KnownNorm& norm, const char* what) { return known_fact(norm.scale.origin(), what); };
  bool all_known = std::all_of(norms.begin(), norms.end(), [&](const KnownNorm& norm) {
    return known_to_be(norm, kFinite) && known_to_be(norm, kOnes);
  });
  at::Tensor scales = all_known ? at::Tensor() : row.scale().cpu();
  for (const KnownNorm& norm : norms) {
    bool finite, ones;
    if (all_known) {
      finite = *known_to_be(norm, kFinite);
      ones = *known_to_be(norm, kOnes);
    } else {
      const double* first = scales.const_data_ptr<double>() + norm.begin;
      const double* last = first + norm.scale.numel();
      finite = std::all_of(first, last, [](double number) { return std::isfinite(number); });
      ones = std::all_of(first, last, [](double number) { return number == 1; });
      remember_fact(norm.scale.origin(), kFinite, finite);
      remember_fact(norm.scale.origin(), kOnes, ones);
    }
    if (finite) affines[norm.node] = {nullptr, norm.scale, norm.shift, ones};
  }
}

/// The affine maps, but for x, of all batch norms whose numbers are known and finite.
std::unordered_map<const Node*, Affine> affine_of_batch_norms(const Graph& graph) {
  auto row = std::make_shared<NormsInARow>();
  std::vector<KnownNorm> norms;
  for (const auto& node : graph.nodes()) {
    auto* norm = node->as<BatchNorm>();
    bool known = norm && std::all_of(node->inputs().begin() + 1, node->inputs().end(),
                                     [](const Value* v) { return v->from<Constant>(); });
    if (!known) continue;
    std::array<LazyTensor, 4> numbers;
    for (size_t i = 0; i < 4; ++i) numbers[i] = *lazy_constant_of(node->input(i + 1));
    int64_t begin = row->add(numbers, norm->eps);
    int64_t count = numbers[0].numel();
    TensorType type = per_channel_type(c10::kDouble, count, numbers[3].type().device);
    std::string eps;
    print_field(eps, norm->eps);
    auto part = [&](const std::string& what, const at::Tensor& (NormsInARow::*whole)()) {
      return LazyTensor::derived(
          "batch_norm_" + what + " " + eps, {numbers.begin(), numbers.end()}, type,
          [row, whole, begin, count](const auto&) { return ((*row).*whole)().narrow(0, begin, count); });
    };
    norms.push_back({node.get(), begin, part("scale", &NormsInARow::scale), part("shift", &NormsInARow::shift)});
  }
  std::unordered_map<const Node*, Affine> affines;
  if (!norms.empty()) look_at(norms, *row, affines);
  return affines;
}

/// What `compute` makes of numbers per channel.
LazyTensor of_channels(const std::string& what, const LazyTensor& numbers, at::Tensor (*compute)(const at::Tensor&)) {
  return LazyTensor::derived(what, {numbers}, numbers.type(),
                             [compute](const std::vector<at::Tensor>& tensors) { return compute(tensors[0]); });
}

/// A constant operand as one f64 number per channel of `x`; nothing when it varies along other dimensions.
std::optional<LazyTensor> per_channel(const Value* operand, const Value* x) {
  const LazyTensor* constant = lazy_constant_of(operand);
  if (!constant) return std::nullopt;
  int64_t axis = channel_axis(x);
  int64_t channels = x->type.shape[axis];
  int64_t lead = x->type.rank() - constant->dim();
  if (lead < 0) return std::nullopt;
  for (int64_t i = 0; i < constant->dim(); ++i) {
    int64_t wanted = i + lead == axis ? channels : 1;
    if (constant->size(i) != 1 && constant->size(i) != wanted) return std::nullopt;
  }
  TensorType type = per_channel_type(c10::kDouble, channels, x->type.device);
  return LazyTensor::derived("per_channel", {*constant}, type, [type](const std::vector<at::Tensor>& tensors) {
    return tensors[0].to(type.device, c10::kDouble).reshape({-1}).expand(type.shape).contiguous();
  });
}

std::optional<Affine> affine_of_pointwise(const Node& node, const Pointwise& op) {
  if (node.inputs().size() != 2 || !node.output()->type.is_floating()) return std::nullopt;
  bool commutes = op.fn == "mul" || op.fn == "add";
  if (!commutes && op.fn != "sub" && op.fn != "div") return std::nullopt;
  size_t side = node.input(0)->from<Constant>() && commutes ? 1 : 0;
  Value* x = node.input(side);
  if (x->type.rank() < 2 || node.output()->type.shape != x->type.shape || node.output()->type.dtype != x->type.dtype)
    return std::nullopt;
  std::optional<LazyTensor> operand = per_channel(node.input(1 - side), x);
  if (!operand) return std::nullopt;
  LazyTensor one = of_channels("ones", *operand, [](const at::Tensor& t) { return at::ones_like(t); });
  LazyTensor zero = of_channels("zeros", *operand, [](const at::Tensor& t) { return at::zeros_like(t); });
  if (op.fn == "add") return Affine{x, one, *operand, /*only_adds=*/true};
  if (op.fn == "sub") {
    return Affine{x, one, of_channels("minus", *operand, [](const at::Tensor& t) { return -t; }), /*only_adds=*/true};
  }
  if (op.fn == "mul") return Affine{x, *operand, zero};
  LazyTensor inverse = of_channels("reciprocal", *operand, [](const at::Tensor& t) { return t.reciprocal(); });
  if (!fact(inverse, kFinite, [](const at::Tensor& t) { return at::isfinite(t).all().item<bool>(); }))
    return std::nullopt;
  return Affine{x, inverse, zero};
}

/// Weight with each output channel multiplied by its number; contiguous. Computed in f64; on the CPU in pieces that
/// ATen gives to one thread, because memory for f64 copies of a large weight costs more than the products.
at::Tensor scale_weight(const Attrs& producer, const at::Tensor& weight, const at::Tensor& scale) {
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
  const LazyTensor* weight = lazy_constant_of(producer->input(1));
  bool has_bias = producer->inputs().size() > 2;
  const LazyTensor* bias = has_bias ? lazy_constant_of(producer->input(2)) : nullptr;
  if (!weight || (has_bias && !bias)) return nullptr;
  c10::ScalarType dtype = weight->type().dtype;
  auto name_of = [](const Value* v) { return v->from<Constant>()->name; };
  Value* w = producer->input(1);
  if (!affine.only_adds) {
    TensorType type = contiguous_type(dtype, weight->type().shape, weight->type().device);
    LazyTensor scaled = LazyTensor::derived("scaled " + producer->attrs.text(), {*weight, affine.scale}, type,
                                            [attrs = producer->attrs](const std::vector<at::Tensor>& tensors) {
                                              return scale_weight(attrs, tensors[0], tensors[1]);
                                            });
    w = graph.add(Constant{scaled, name_of(w)}, {});
  }
  TensorType type = per_channel_type(dtype, affine.shift.numel(), affine.shift.type().device);
  LazyTensor new_bias =
      LazyTensor::derived("folded_bias", {affine.scale, affine.shift, bias ? *bias : LazyTensor()}, type,
                          [dtype](const std::vector<at::Tensor>& tensors) {
                            const auto& [scale, shift, bias] = std::tie(tensors[0], tensors[1], tensors[2]);
                            return alone(bias.defined() ? shift + bias.to(c10::kDouble) * scale : shift, dtype);
                          });
  Value* b = graph.add(Constant{new_bias, has_bias ? name_of(producer->input(2)) : ""}, {});
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
  auto constant = [&](const LazyTensor& numbers) {
    TensorType type = contiguous_type(compute, shape, numbers.type().device);
    auto make = [type](const std::vector<at::Tensor>& tensors) {
      return alone(tensors[0], type.dtype).reshape(type.shape);
    };
    return graph.add(Constant{LazyTensor::derived("per_channel_operand", {numbers}, type, make), ""}, {});
  };
  Value* scale = constant(affine.scale);
  Value* shift = constant(affine.shift);
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
