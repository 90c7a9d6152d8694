#include <algorithm>
#include <numeric>
#include <optional>

#include "conversion/passes/passes.h"
#include "conversion/passes/restride.h"
#include "core/ops/attention.h"
#include "core/ops/matmul.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

/// True when all that reads `value` can as well read it with other strides: by views that stay views, and
/// attention.
bool readers_take(const Graph& graph, const Value* value, const TensorType& type) {
  if (graph.is_output(value)) return false;
  auto& users = value->users();
  return std::all_of(users.begin(), users.end(), [&](const Node* user) {
    if (user->as<Attention>()) return type.strides.back() == 1;
    auto* reshape = user->as<Reshape>();
    if (!user->attrs.def().is_view || (reshape && !view_strides(type, reshape->shape))) return false;
    std::vector<TensorType> in = {type};
    return readers_take(graph, user->output(), user->attrs.def().infer(user->attrs.data(), in).front());
  });
}

/// The order of dimensions in which the rows of x lie one after the other, where x has them in another order.
std::optional<Dims> order_in_memory(const TensorType& x) {
  if (is_contiguous(x)) return std::nullopt;
  Dims order(x.rank());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end() - 1, [&](int64_t a, int64_t b) { return x.strides[a] > x.strides[b]; });
  return is_contiguous(permuted(x, order)) ? std::optional(order) : std::nullopt;
}

/// The linear node on rows in the order in which they lie, its result turned back.
void turn(Graph& graph, Node* linear, const Dims& order, Restride& strides) {
  Permute permute{order};
  std::vector<Value*> inputs(linear->inputs().begin(), linear->inputs().end());
  inputs[0] = graph.add(permute, {inputs[0]});
  Value* result = graph.add(Permute{permute.inverse()}, {graph.add(Linear{}, inputs)});
  strides.add(result);
  graph.replace_uses(linear->output(), result);
}

}  // namespace

void follow_memory(Graph& graph, const PassContext&) {
  Restride strides(graph);
  strides.walk([&](Node* node) {
    if (node->as<Copy>() && readers_take(graph, node->output(), node->input(0)->type)) {
      strides.add(node->input(0));
      graph.replace_uses(node->output(), node->input(0));
    } else if (node->as<Linear>() && !graph.is_output(node->output())) {
      if (auto order = order_in_memory(node->input(0)->type)) turn(graph, node, *order, strides);
    }
  });
}

}  // namespace torchweld
