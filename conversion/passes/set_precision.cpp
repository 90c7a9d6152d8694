#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>

#include <algorithm>
#include <array>
#include <unordered_map>

#include "conversion/passes/facts.h"
#include "conversion/passes/passes.h"
#include "core/ops/aten.h"
#include "core/ops/attention.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/index.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/ops/pointwise.h"
#include "core/ops/pool.h"
#include "core/ops/recurrent.h"
#include "core/ops/reduce.h"
#include "core/ops/resize.h"
#include "core/ops/shape.h"
#include "core/ops/softmax.h"

namespace torchweld {
namespace {

/// How a node behaves towards a reduced precision.
enum class Manner {
  kReduced,   ///< Always computes reduced: what takes the time.
  kFollows,   ///< Computes as its operands do.
  kBounded,   ///< The same, and its result fits whatever the operand was.
  kMoves,     ///< Keeps f32, and its result is as fit for reduction as its operand.
  kSensitive  ///< Keeps f32, and so do those that only combine its result.
};

/// What is known of an f32 value.
enum class Treatment {
  kNeutral,  ///< Not computed by anything heavy: inputs, constants and what is moved or combined from them.
  kReduced,  ///< Computed in reduced precision.
  kWide      ///< From a sensitive node; may not fit.
};

bool holds(std::initializer_list<std::string_view> names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Manner manner_of_pointwise(const std::string& fn) {
  if (holds({"exp",   "exp2",   "expm1",   "log",       "log2",      "log10",     "log1p", "reciprocal",
             "rsqrt", "acos",   "asin",    "sinh",      "cosh",      "tan",       "acosh", "atanh",
             "pow",   "square", "addcdiv", "floor_div", "trunc_div", "remainder", "fmod"},
            fn)) {
    return Manner::kSensitive;
  }
  return holds({"sigmoid", "tanh", "hardsigmoid", "erf", "sin", "cos", "atan"}, fn) ? Manner::kBounded
                                                                                    : Manner::kFollows;
}

Manner manner_of(const Node& node) {
  if (node.as<Cast>()) return Manner::kMoves;
  if (node.as<Conv>() || node.as<Linear>() || node.as<Matmul>() || node.as<Attention>() || node.as<Recurrent>())
    return Manner::kReduced;
  if (node.as<Take>() || node.as<Gather>()) return Manner::kMoves;
  if (auto* op = node.as<Pointwise>()) return manner_of_pointwise(op->fn);
  if (auto* reduce = node.as<Reduce>()) {
    return holds({"mean", "amax", "amin", "argmax", "argmin", "any", "all"}, reduce->kind) ? Manner::kFollows
                                                                                           : Manner::kSensitive;
  }
  if (node.as<Softmax>()) return node.as<Softmax>()->log ? Manner::kFollows : Manner::kBounded;
  if (node.as<LayerNorm>() || node.as<RmsNorm>() || node.as<GroupNorm>()) return Manner::kBounded;
  if (node.as<BatchNorm>() || node.as<MaxPool>() || node.as<AvgPool>() || node.as<AdaptivePool>() ||
      node.as<Resize>() || node.as<Reshape>() || node.as<Permute>() || node.as<Slice>() || node.as<Expand>() ||
      node.as<Concat>() || node.as<Pad>() || node.as<Copy>()) {
    return Manner::kFollows;
  }
  if (auto* aten = node.as<Aten>()) {
    return aten->op == "aten::flip" || aten->op == "aten::index.Tensor" ? Manner::kMoves : Manner::kSensitive;
  }
  return Manner::kSensitive;
}

class Precision {
 public:
  Precision(Graph& graph, c10::ScalarType reduced) : graph_(graph), reduced_(reduced) {}

  void run() {
    for (Node* node : graph_.node_list()) {
      Graph::InsertBefore here(graph_, node);
      graph_.origin = node->origin;
      if (node->as<Constant>()) continue;
      if (runs_reduced(*node)) {
        reduce(node);
      } else {
        keep(node);
      }
    }
    for (size_t i = 0; i < graph_.outputs().size(); ++i) graph_.set_output(i, wide(graph_.outputs()[i]));
  }

 private:
  static bool is_f32(const Value* value) { return value->type.dtype == c10::kFloat; }

  Treatment treatment_of(const Value* value) const {
    auto known = treatments_.find(value);
    return known == treatments_.end() ? Treatment::kNeutral : known->second;
  }

  /// True when a constant stays finite in the reduced dtype.
  bool fits(const Value* value) const {
    const LazyTensor* constant = lazy_constant_of(value);
    if (!constant || !constant->type().is_floating() || constant->numel() == 0 || reduced_ == c10::kBFloat16)
      return true;
    return fact(*constant, "f16 takes it", [](const at::Tensor& tensor) {
      double largest = tensor.detach().abs().amax().item<double>();
      return largest <= 65504 || std::isinf(largest);
    });
  }

  /// True for an operand whose numbers need the range of f32 beside reduced ones: the mask of attention.
  static bool stays_wide(const Node& node, size_t i) { return node.as<Attention>() && i == 3; }

  bool runs_reduced(const Node& node) const {
    bool any_f32 = std::any_of(node.inputs().begin(), node.inputs().end(), [](const Value* v) { return is_f32(v); });
    if (!any_f32) return false;
    for (size_t i = 0; i < node.inputs().size(); ++i) {
      if (!stays_wide(node, i) && !fits(node.input(i))) return false;
    }
    Manner manner = manner_of(node);
    if (manner == Manner::kReduced) return true;
    if (manner != Manner::kFollows && manner != Manner::kBounded) return false;
    bool any_wide = false;
    bool any_reduced = false;
    for (const Value* v : node.inputs()) {
      any_wide |= is_f32(v) && treatment_of(v) == Treatment::kWide;
      any_reduced |= is_f32(v) && treatment_of(v) == Treatment::kReduced;
    }
    return any_reduced && !any_wide;
  }

  /// The same op on reduced operands.
  void reduce(Node* node) {
    std::vector<Value*> inputs;
    for (size_t i = 0; i < node->inputs().size(); ++i) {
      Value* v = node->input(i);
      inputs.push_back(!is_f32(v) ? v : stays_wide(*node, i) ? wide(v) : narrow(v));
    }
    Node* copy = graph_.add_node(node->attrs, inputs);
    for (size_t i = 0; i < node->outputs().size(); ++i) {
      Value* old = node->output(i);
      Value* result = copy->output(i);
      if (is_f32(old)) {
        narrow_[old] = result;
        treatments_[old] = Treatment::kReduced;
      } else {
        graph_.replace_uses(old, result);
      }
    }
  }

  void keep(Node* node) {
    for (size_t i = 0; i < node->inputs().size(); ++i) {
      if (is_f32(node->input(i))) graph_.set_input(node, i, wide(node->input(i)));
    }
    Manner manner = manner_of(*node);
    bool from_wide = std::any_of(node->inputs().begin(), node->inputs().end(), [&](const Value* v) {
      return is_f32(v) && (treatment_of(v) == Treatment::kWide || !fits(v));
    });
    bool is_wide = manner != Manner::kBounded && (from_wide || manner == Manner::kSensitive);
    // Numbers and positions that become f32 are like inputs; wider floats were asked for by the program.
    if (node->as<Cast>()) is_wide = node->input(0)->type.is_floating() && node->input(0)->type.dtype != c10::kFloat;
    for (const auto& v : node->outputs()) treatments_[v.get()] = is_wide ? Treatment::kWide : Treatment::kNeutral;
  }

  Value* narrow(Value* value) {
    Value*& known = narrow_[value];
    if (!known) known = graph_.add(Cast{reduced_}, {value});
    return known;
  }

  /// The f32 form of a value of the original graph.
  Value* wide(Value* value) {
    if (!is_f32(value) || treatment_of(value) != Treatment::kReduced) return value;
    Value*& known = wide_[value];
    if (!known) {
      known = graph_.add(Cast{c10::kFloat}, {narrow_.at(value)});
      known->type.strides = value->type.strides;
    }
    return known;
  }

  Graph& graph_;
  c10::ScalarType reduced_;
  std::unordered_map<const Value*, Treatment> treatments_;
  std::unordered_map<const Value*, Value*> narrow_;  ///< By value of the original graph.
  std::unordered_map<const Value*, Value*> wide_;
};

/// The dtype to reduce f32 to; f32 when the context names no other.
c10::ScalarType reduced_dtype(const Graph& graph, const PassContext& context) {
  auto enabled = [&](c10::ScalarType dtype) {
    return std::find(context.precisions.begin(), context.precisions.end(), dtype) != context.precisions.end();
  };
  bool on_cuda =
      std::any_of(graph.inputs().begin(), graph.inputs().end(), [](const auto& v) { return v->type.device.is_cuda(); });
  c10::ScalarType first = on_cuda ? c10::kHalf : c10::kBFloat16;
  c10::ScalarType second = on_cuda ? c10::kBFloat16 : c10::kHalf;
  return enabled(first) ? first : enabled(second) ? second : c10::kFloat;
}

}  // namespace

void set_precision(Graph& graph, const PassContext& context) {
  c10::ScalarType reduced = reduced_dtype(graph, context);
  if (reduced != c10::kFloat) Precision(graph, reduced).run();
}

}  // namespace torchweld
