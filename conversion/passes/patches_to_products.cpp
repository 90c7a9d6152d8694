#include <algorithm>

#include "conversion/passes/passes.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/matmul.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

/// Windows up to this many elements have convolution kernels that are good at them.
constexpr int64_t kSmallWindow = 7 * 7;

/// True when the windows of a 2-d convolution lie side by side and do not overlap.
bool cuts_patches(const Node& node) {
  auto* conv = node.as<Conv>();
  if (!conv || conv->transposed || conv->groups != 1 || !node.input(1)->from<Constant>()) return false;
  const Dims& weight = node.input(1)->type.shape;
  auto all = [](const Dims& dims, int64_t number) {
    return std::all_of(dims.begin(), dims.end(), [&](int64_t d) { return d == number; });
  };
  return weight.size() == 4 && weight[2] * weight[3] > kSmallWindow && Dims{weight[2], weight[3]} == conv->stride &&
         all(conv->padding, 0) && all(conv->dilation, 1) && node.output()->type.numel() > 0;
}

/// x [N,C,H,W] and patches of p x q: rows of C*p*q numbers, one for each patch, times the weights' rows.
Value* as_product(Graph& graph, const Node& node) {
  const Dims& out = node.output()->type.shape;
  const Dims& weight = node.input(1)->type.shape;
  int64_t p = weight[2];
  int64_t q = weight[3];
  Value* x = node.input(0);
  x = graph.add(Slice{.axis = 2, .start = 0, .end = out[2] * p, .step = 1}, {x});
  x = graph.add(Slice{.axis = 3, .start = 0, .end = out[3] * q, .step = 1}, {x});
  x = graph.add(Reshape{{out[0], weight[1], out[2], p, out[3], q}}, {x});
  x = graph.add(Permute{{0, 2, 4, 1, 3, 5}}, {x});
  x = graph.add(Reshape{{out[0], out[2], out[3], weight[1] * p * q}}, {x});
  Value* rows = graph.add(Reshape{{weight[0], weight[1] * p * q}}, {node.input(1)});
  std::vector<Value*> operands = {x, rows};
  if (node.inputs().size() > 2) operands.push_back(node.input(2));
  return graph.add(Permute{{0, 3, 1, 2}}, {graph.add(Linear{}, operands)});
}

}  // namespace

void patches_to_products(Graph& graph, const PassContext& context) {
  if (!context.tensor_cores) return;
  for (Node* node : graph.node_list()) {
    if (!cuts_patches(*node)) continue;
    Graph::InsertBefore here(graph, node);
    graph.origin = node->origin;
    Value* product = as_product(graph, *node);
    Value* result = graph.add(Copy{node->output()->type.strides}, {product});
    graph.replace_uses(node->output(), result);
  }
}

}  // namespace torchweld
