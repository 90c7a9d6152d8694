#include <algorithm>
#include <optional>

#include "conversion/passes/passes.h"
#include "conversion/passes/restride.h"
#include "core/ops/constant.h"
#include "core/ops/norm.h"
#include "core/ops/pointwise.h"
#include "core/ops/reduce.h"

namespace torchweld {
namespace {

/// The node behind a value that only one node reads, when it is a pointwise one of this name.
const Node* pointwise_behind(const Graph& graph, const Value* value, std::string_view fn) {
  auto* op = value->from<Pointwise>();
  return op && op->fn == fn && graph.use_count(value) == 1 ? value->producer() : nullptr;
}

bool is_square_of(const Node& node, const Value* x) {
  auto* op = node.as<Pointwise>();
  if (!op || node.input(0) != x) return false;
  if (op->fn == "square") return true;
  if (op->fn == "mul") return node.input(1) == x;
  return op->fn == "pow" && number_of(node.input(1)) == 2.0;
}

/// How many dimensions at the end are reduced; 0 when it is others.
int64_t reduced_at_the_end(const Reduce& op, int64_t rank) {
  Dims axes = op.axes;
  std::sort(axes.begin(), axes.end());
  for (size_t i = 0; i < axes.size(); ++i) {
    if (axes[i] != rank - static_cast<int64_t>(axes.size() - i)) return 0;
  }
  return static_cast<int64_t>(axes.size());
}

/// The norm whose mean square plus eps `value` is.
std::optional<RmsNorm> norm_behind(const Graph& graph, const Value* value, const Value* x) {
  const Node* sum = pointwise_behind(graph, value, "add");
  if (!sum) return std::nullopt;
  for (size_t side : {0, 1}) {
    auto eps = number_of(sum->input(1 - side));
    const Value* mean = sum->input(side);
    auto* reduce = mean->from<Reduce>();
    if (!eps || !reduce || reduce->kind != "mean" || !reduce->keepdim || graph.use_count(mean) != 1) continue;
    const Value* square = mean->producer()->input(0);
    int64_t rank = reduced_at_the_end(*reduce, x->type.rank());
    bool fits = rank > 0 && square->type.dtype == x->type.dtype && square->producer() && graph.use_count(square) == 1 &&
                is_square_of(*square->producer(), x);
    if (fits) return RmsNorm{.rank = rank, .eps = *eps};
  }
  return std::nullopt;
}

/// x * rsqrt(mean(x^2) + eps) or x / sqrt(mean(x^2) + eps).
Value* whole_norm(Graph& graph, const Node& node) {
  auto* op = node.as<Pointwise>();
  if (!op || (op->fn != "mul" && op->fn != "div")) return nullptr;
  for (size_t side : {0, 1}) {
    Value* x = node.input(side);
    bool divides = op->fn == "div";
    if ((divides && side == 1) || !x->type.is_floating()) continue;
    if (x->type.shape != node.output()->type.shape || x->type.dtype != node.output()->type.dtype) continue;
    const Node* root = pointwise_behind(graph, node.input(1 - side), divides ? "sqrt" : "rsqrt");
    if (!root) continue;
    if (auto norm = norm_behind(graph, root->input(0), x)) return graph.add(*norm, {x});
  }
  return nullptr;
}

/// A norm of f16 or bf16 that was written out in f32: f32(x) normalised and rounded again.
Value* norm_of_rounded(Graph& graph, const Node& node) {
  auto* rounded = node.as<Cast>();
  if (!rounded || (rounded->dtype != c10::kHalf && rounded->dtype != c10::kBFloat16)) return nullptr;
  auto* norm = node.input(0)->from<RmsNorm>();
  if (!norm || graph.use_count(node.input(0)) != 1 || node.input(0)->producer()->inputs().size() > 1) return nullptr;
  const Value* wide = node.input(0)->producer()->input(0);
  if (!wide->from<Cast>() || wide->producer()->input(0)->type.dtype != rounded->dtype) return nullptr;
  return graph.add(*norm, {wide->producer()->input(0)});
}

/// A norm times one constant per normalised element.
Value* weighted_norm(Graph& graph, const Node& node) {
  auto* op = node.as<Pointwise>();
  if (!op || op->fn != "mul") return nullptr;
  for (size_t side : {0, 1}) {
    Value* normed = node.input(side);
    Value* weight = node.input(1 - side);
    auto* norm = normed->from<RmsNorm>();
    if (!norm || graph.use_count(normed) != 1 || !weight->from<Constant>()) continue;
    const Node& bare = *normed->producer();
    const Dims& shape = normed->type.shape;
    bool fits = bare.inputs().size() == 1 && weight->type.dtype == normed->type.dtype &&
                weight->type.shape == Dims(shape.end() - norm->rank, shape.end());
    if (fits) return graph.add(*norm, {bare.input(0), weight});
  }
  return nullptr;
}

}  // namespace

void recognise_rms_norm(Graph& graph, const PassContext&) {
  Restride strides(graph);
  strides.walk([&](Node* node) {
    for (auto rule : {whole_norm, norm_of_rounded, weighted_norm}) {
      Value* norm = rule(graph, *node);
      if (!norm) continue;
      strides.add(norm);
      graph.replace_uses(node->output(), norm);
      break;
    }
  });
}

}  // namespace torchweld
