// The only op with a body: several nodes run as one kernel.
#pragma once

#include "core/graph.h"

namespace torchweld {

/// Means exactly what its body means, except that values inside the body are not rounded to f16 or bf16 between
/// pointwise nodes. The body is pointwise nodes and casts, with at most one anchor among them (conv, matmul, linear,
/// reduction, softmax, norm, pool); or a block: several nodes, anchors alone or in fused nodes of their own, that one
/// kernel keeps on chip. Inputs and outputs of the node are the body's. Immediates are constants inside the body;
/// weights are inputs.
struct Fused {
  std::shared_ptr<const Graph> body;
  void fields(auto&& f) { f("body", body); }
};

/// True when the body holds a fused node, or more than one node that is neither pointwise, cast nor constant.
bool is_block(const Fused& fused);
/// The body's one node that is neither pointwise, cast nor constant; null for a purely pointwise body. Throws
/// Unsupported for a block, so that only tactics made for blocks take one.
const Node* anchor_of(const Fused& fused);
/// The ATen meaning of a graph on given inputs: every node by its ATen line, values freed after their last use.
std::vector<at::Tensor> run_aten(const Graph& graph, Tensors inputs);

void define_fused(OpSet& ops);

}  // namespace torchweld
