#include "conversion/passes/passes.h"
#include "conversion/passes/restride.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/matmul.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

/// Windows side by side, of at least this many positions: smaller ones are left to kernels of convolutions, which read
/// them where they stand.
constexpr int64_t kFewestPositions = 64;

bool cuts_patches(const Node& node) {
  auto* conv = node.as<Conv>();
  if (!conv || conv->transposed || conv->groups != 1 || !constant_of(node.input(1))) return false;
  const Dims& x = node.input(0)->type.shape;
  const Dims& window = node.input(1)->type.shape;
  if (x.size() != window.size() || node.input(0)->type.numel() == 0) return false;
  int64_t positions = 1;
  for (size_t i = 0; i + 2 < window.size(); ++i) {
    if (conv->stride[i] != window[i + 2] || conv->padding[i] != 0 || conv->dilation[i] != 1) return false;
    if (x[i + 2] % window[i + 2] != 0) return false;
    positions *= window[i + 2];
  }
  return positions >= kFewestPositions;
}

/// [N,C,H,W] as one row for each window: [N, windows, C * positions].
Value* rows_of_patches(Graph& graph, Value* x, const Dims& window) {
  const Dims shape = x->type.shape;
  Dims split = {shape[0], shape[1]};
  Dims order = {0};
  Dims inner = {1};
  int64_t windows = 1;
  for (size_t i = 2; i < shape.size(); ++i) {
    split.insert(split.end(), {shape[i] / window[i], window[i]});
    order.push_back(static_cast<int64_t>(2 * i) - 2);
    inner.push_back(static_cast<int64_t>(2 * i) - 1);
    windows *= shape[i] / window[i];
  }
  order.insert(order.end(), inner.begin(), inner.end());
  Value* apart = graph.add(Permute{order}, {graph.add(Reshape{split}, {x})});
  return graph.add(Reshape{{shape[0], windows, x->type.numel() / (shape[0] * windows)}}, {apart});
}

Value* as_linear(Graph& graph, const Node& node) {
  const Dims window = node.input(1)->type.shape;
  Value* x = rows_of_patches(graph, node.input(0), window);
  Value* weight = graph.add(Reshape{{window[0], x->type.shape[2]}}, {node.input(1)});
  std::vector<Value*> inputs = {x, weight};
  if (node.inputs().size() > 2) inputs.push_back(node.input(2));
  Value* y = graph.add(Linear{}, inputs);
  return graph.add(Reshape{node.output()->type.shape}, {graph.add(Permute{{0, 2, 1}}, {y})});
}

}  // namespace

void patch_convolutions(Graph& graph, const PassContext&) {
  Restride strides(graph);
  for (Node* node : graph.node_list()) {
    Graph::InsertBefore here(graph, node);
    graph.origin = node->origin;
    strides.follow(node);
    if (!cuts_patches(*node)) continue;
    Value* result = as_linear(graph, *node);
    strides.add(result);
    graph.replace_uses(node->output(), result);
  }
  strides.restore_outputs();
}

}  // namespace torchweld
