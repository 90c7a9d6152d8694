#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>

#include <algorithm>
#include <limits>

#include "conversion/passes/passes.h"
#include "conversion/passes/restride.h"
#include "core/error.h"
#include "core/ops/attention.h"
#include "core/ops/constant.h"
#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "core/ops/shape.h"
#include "core/ops/softmax.h"

namespace torchweld {
namespace {

constexpr double kExcluded = -std::numeric_limits<double>::infinity();

/// A tensor that is added to the scores. `windows`: the two sizes into which their first dimension is split where the
/// mask is added (shifted-window attention); empty where it is not.
struct Mask {
  Value* value;
  Dims windows;
};

/// Written-out attention, as far as it has been followed back from the last product.
struct Pattern {
  Value* q = nullptr;
  Value* k_turned = nullptr;  ///< [..., E, S]
  Value* v = nullptr;
  double scale = 1;
  std::vector<Mask> masks;
  Value* excluded = nullptr;  ///< b8, true where a score counts as -inf.
};

bool read_once(const Graph& graph, const Value* value) { return graph.use_count(value) == 1; }

/// The operand of a node that is a number, and its place.
std::optional<std::pair<double, size_t>> number_operand(const Node& node) {
  for (size_t i = 0; i < node.inputs().size(); ++i) {
    if (auto number = number_of(node.input(i))) return std::pair{*number, i};
  }
  return std::nullopt;
}

/// x * number or x / number: x and the factor.
std::optional<std::pair<Value*, double>> scaled_value(const Node& node) {
  auto* op = node.as<Pointwise>();
  auto number = op ? number_operand(node) : std::nullopt;
  if (!number || node.inputs().size() != 2) return std::nullopt;
  if (op->fn == "mul") return std::pair{node.input(1 - number->second), number->first};
  if (op->fn == "div" && number->second == 1 && number->first != 0) return std::pair{node.input(0), 1 / number->first};
  return std::nullopt;
}

/// Casts between floating dtypes around the softmax, which computes in f32 in any case.
Value* behind_casts(const Graph& graph, Value* value) {
  while (value->from<Cast>() && value->producer()->input(0)->type.is_floating() && read_once(graph, value)) {
    value = value->producer()->input(0);
  }
  return value;
}

class Finder {
 public:
  explicit Finder(const Graph& graph) : graph_(graph) {}

  /// Follows softmax(scores) v back to q, k, v, scale and mask.
  std::optional<Pattern> find(const Node& product) {
    if (!product.as<Matmul>()) return std::nullopt;
    Pattern found;
    found.v = product.input(1);
    Value* weights = behind_casts(graph_, product.input(0));
    auto* softmax = weights->from<Softmax>();
    if (!softmax || softmax->log || softmax->axis != weights->type.rank() - 1 || !read_once(graph_, weights))
      return std::nullopt;
    if (!follow(weights->producer()->input(0), found) || !fits(found)) return std::nullopt;
    return found;
  }

 private:
  /// Walks from the softmax's operand to the product of q and k.
  bool follow(Value* value, Pattern& found) {
    double outer = 1;  // factors that a mask, were there one further in, would be scaled by too
    Dims windows;
    while (true) {
      value = behind_casts(graph_, value);
      if (!value->producer() || !read_once(graph_, value)) return false;
      const Node& node = *value->producer();
      if (node.as<Matmul>()) return windows.empty() && take_product(node, outer, found);
      if (auto scaled = scaled_value(node)) {
        value = scaled->first;
        outer *= scaled->second;
      } else if (auto split = window_split(node, windows)) {
        value = node.input(0);
        windows = *split;
      } else if (outer == 1 && windows.empty() && !found.excluded && is_exclusion(node)) {
        found.excluded = node.input(0);
        value = node.input(2);
      } else if (auto operands = outer == 1 ? unmasked(node) : std::nullopt) {
        value = operands->first;
        found.masks.push_back({operands->second, windows});
      } else {
        return false;
      }
    }
  }

  bool take_product(const Node& node, double outer, Pattern& found) {
    found.q = node.input(0);
    found.k_turned = node.input(1);
    found.scale = outer;
    for (Value** side : {&found.q, &found.k_turned}) {
      while ((*side)->producer()) {
        auto scaled = scaled_value(*(*side)->producer());
        if (!scaled || scaled->first->type.shape != (*side)->type.shape ||
            scaled->first->type.dtype != (*side)->type.dtype)
          break;
        found.scale *= scaled->second;
        *side = scaled->first;
      }
    }
    return true;
  }

  /// where(condition, -inf, scores)
  static bool is_exclusion(const Node& node) {
    auto* op = node.as<Pointwise>();
    if (!op || op->fn != "where" || node.input(2)->type.shape != node.output()->type.shape) return false;
    auto number = number_of(node.input(1));
    return number && *number == kExcluded;
  }

  /// Sizes a and b after a step, walking backwards, over a reshape of [a,b,...] to [a*b,...]; none after one of the
  /// reverse. Nothing for other nodes.
  static std::optional<Dims> window_split(const Node& node, const Dims& windows) {
    if (!node.as<Reshape>()) return std::nullopt;
    const Dims& from = node.input(0)->type.shape;
    const Dims& to = node.output()->type.shape;
    const Dims& wide = windows.empty() ? from : to;
    const Dims& narrow = windows.empty() ? to : from;
    bool fits = wide.size() == 5 && narrow.size() == 4 && wide[0] * wide[1] == narrow[0] &&
                std::equal(narrow.begin() + 1, narrow.end(), wide.begin() + 2);
    if (!fits) return std::nullopt;
    return windows.empty() ? Dims{wide[0], wide[1]} : Dims{};
  }

  /// Scores and mask of scores + mask.
  std::optional<std::pair<Value*, Value*>> unmasked(const Node& node) const {
    auto* op = node.as<Pointwise>();
    if (!op || op->fn != "add" || node.inputs().size() != 2) return std::nullopt;
    for (size_t side : {0, 1}) {
      Value* scores = node.input(side);
      Value* mask = node.input(1 - side);
      if (scores->type.shape != node.output()->type.shape || !leads_to_product(scores, 8)) continue;
      if (mask->type.dtype != scores->type.dtype || mask->type.rank() == 0) return std::nullopt;
      return std::pair{scores, mask};
    }
    return std::nullopt;
  }

  bool leads_to_product(Value* value, int steps) const {
    value = behind_casts(graph_, value);
    if (!value->producer() || steps == 0) return false;
    const Node& node = *value->producer();
    if (node.as<Matmul>()) return true;
    if (node.as<Reshape>()) return leads_to_product(node.input(0), steps - 1);
    if (auto scaled = scaled_value(node)) return leads_to_product(scaled->first, steps - 1);
    if (is_exclusion(node)) return leads_to_product(node.input(2), steps - 1);
    auto operands = unmasked(node);
    return operands && leads_to_product(operands->first, steps - 1);
  }

  /// Numbers whose sum with any other mask stays what it means.
  static bool is_bounded(const Value* mask) {
    const at::Tensor* known = constant_of(mask);
    return known && (known->numel() == 0 || known->detach().abs().amax().item<double>() < 1e30);
  }

  bool fits(const Pattern& found) const {
    const TensorType& q = found.q->type;
    const TensorType& k = found.k_turned->type;
    const TensorType& v = found.v->type;
    int64_t rank = q.rank();
    if (rank < 3 || rank > 5) return false;
    if (k.rank() != rank || v.rank() != rank || !q.is_floating() || q.dtype != k.dtype || q.dtype != v.dtype)
      return false;
    // Of several heads, the last dimension before rows and columns, one k and v may be read by all.
    for (int64_t i = 0; i < rank - 2; ++i) {
      bool shared = i > 0 && i == rank - 3 && k.shape[i] == 1;
      if (k.shape[i] != v.shape[i] || (q.shape[i] != k.shape[i] && !shared)) return false;
    }
    // Added to a score in f16, a number like -65504 hides it; in f32, where attention computes, it would not.
    if (!found.masks.empty() && q.dtype == c10::kHalf) return false;
    return std::count_if(found.masks.begin(), found.masks.end(), [](const Mask& m) { return !is_bounded(m.value); }) <
           2;
  }

  const Graph& graph_;
};

class Rewriter {
 public:
  explicit Rewriter(Graph& graph) : graph_(graph), strides_(graph) {}

  void run() {
    for (Node* node : graph_.node_list()) {
      Graph::InsertBefore here(graph_, node);
      graph_.origin = node->origin;
      if (auto found = Finder(graph_).find(*node)) {
        if (Value* value = build(*found, node->output()->type)) {
          if (value->type.strides != node->output()->type.strides) strides_.add(value);
          graph_.replace_uses(node->output(), value);
        }
      } else {
        strides_.follow(node);
        if (auto* attention = node->as<Attention>()) read_repeated_heads(*attention, *node);
      }
    }
    strides_.restore_outputs();
  }

 private:
  /// What of rank 4 becomes `value` when in dimension 1 every head is repeated, next to itself, whatever has been
  /// permuted since; null where no head is.
  Value* heads_before_repeat(Value* value) {
    Dims order{0, 1, 2, 3};
    while (auto* permute = value->from<Permute>()) {
      for (int64_t& dimension : order) dimension = permute->order[dimension];
      value = value->producer()->input(0);
    }
    int64_t axis = order[1];
    Value* merged = value;
    bool is_merged = value->from<Reshape>() != nullptr;
    if (is_merged) value = value->producer()->input(0);
    if (!value->from<Expand>()) return nullptr;
    const Dims& wide = value->type.shape;
    Value* heads = value->producer()->input(0);
    Dims shape = heads->type.shape;
    int64_t repeated = axis + (is_merged ? 1 : 0);
    if (shape.size() != (is_merged ? 5 : 4) || shape[repeated] != 1) return nullptr;
    shape[repeated] = wide[repeated];
    if (wide != shape) return nullptr;
    if (is_merged) {
      shape.erase(shape.begin() + repeated);
      Dims before = shape;
      shape[axis] *= wide[repeated];
      if (merged->type.shape != shape) return nullptr;
      heads = graph_.add(Reshape{before}, {heads});
    }
    return order == Dims{0, 1, 2, 3} ? heads : graph_.add(Permute{order}, {heads});
  }

  /// The inputs of an attention, with k and v before their heads were repeated: attention groups the heads of q itself.
  std::vector<Value*> without_repeats(std::vector<Value*> inputs) {
    Value* k = heads_before_repeat(inputs[1]);
    Value* v = heads_before_repeat(inputs[2]);
    if (!k || !v || k->type.shape[1] != v->type.shape[1]) return inputs;
    inputs[1] = k;
    inputs[2] = v;
    return inputs;
  }

  void read_repeated_heads(const Attention& attention, const Node& node) {
    std::vector<Value*> inputs(node.inputs().begin(), node.inputs().end());
    std::vector<Value*> grouped = without_repeats(inputs);
    if (grouped == inputs) return;
    Value* value = graph_.add(attention, grouped);
    if (value->type.strides != node.output()->type.strides) strides_.add(value);
    graph_.replace_uses(node.output(), value);
  }

  /// [N,L,E] as [N,1,L,E], and [N,H,n,L,E] as [N,H*n,L,E].
  Value* with_heads(Value* x) {
    const Dims& s = x->type.shape;
    if (s.size() == 4) return x;
    Dims shape = s.size() == 3 ? Dims{s[0], 1, s[1], s[2]} : Dims{s[0], s[1] * s[2], s[3], s[4]};
    return graph_.add(Reshape{shape}, {x});
  }

  /// A mask for scores of queries q, of rank 4 split into windows where there are any, as one of rank 4.
  Value* with_four(Value* mask, const Value* q, const Dims& windows) {
    int64_t rank = q->type.rank() + (windows.empty() ? 0 : 1);
    if (rank == 4) return mask;
    Dims shape = mask->type.shape;
    shape.insert(shape.begin(), rank - shape.size(), 1);
    if (rank == 3) return with_heads(graph_.add(Reshape{shape}, {mask}));
    Dims wide = shape;
    if (!windows.empty()) {
      std::copy(windows.begin(), windows.end(), wide.begin());
    } else if (shape[1] != 1 || shape[2] != 1) {
      std::copy(q->type.shape.begin() + 1, q->type.shape.begin() + 3, wide.begin() + 1);
    }
    Value* split = graph_.add(Expand{wide}, {graph_.add(Reshape{shape}, {mask})});
    if (windows.empty()) return with_heads(split);
    return graph_.add(Reshape{{wide[0] * wide[1], wide[2], wide[3], wide[4]}}, {split});
  }

  Value* mask_of(const Pattern& found) {
    Value* sum = nullptr;
    for (const Mask& mask : found.masks) {
      Value* four = with_four(mask.value, found.q, mask.windows);
      sum = sum ? graph_.add(Pointwise{"add"}, {sum, four}) : four;
    }
    if (!found.excluded) return sum;
    Value* excluded = with_four(found.excluded, found.q, {});
    if (!sum) return graph_.add(Pointwise{"logical_not"}, {excluded});
    return graph_.add(Pointwise{"where"},
                      {excluded, graph_.add(Constant::immediate(kExcluded, found.q->type.device), {}), sum});
  }

  /// Null when the attention op does not take it.
  Value* build(const Pattern& found, const TensorType& result) {
    try {
      Dims turned{0, 1, 3, 2};
      auto* turn = found.k_turned->from<Permute>();
      Value* k = turn && turn->order == turned ? found.k_turned->producer()->input(0)
                                               : graph_.add(Permute{turned}, {with_heads(found.k_turned)});
      Attention attention{.scale = found.scale, .causal = false, .nan_rows = true};
      Value* y = graph_.add(
          attention, without_repeats(attention_inputs(with_heads(found.q), k, with_heads(found.v), mask_of(found))));
      if (y->type.dtype != result.dtype) y = graph_.add(Cast{result.dtype}, {y});
      return y->type.shape == result.shape ? y : graph_.add(Reshape{result.shape}, {y});
    } catch (const Unsupported&) {
      return nullptr;
    }
  }

  Graph& graph_;
  Restride strides_;
};

}  // namespace

void recognise_attention(Graph& graph, const PassContext&) { Rewriter(graph).run(); }

}  // namespace torchweld
