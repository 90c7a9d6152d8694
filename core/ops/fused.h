// The only op with a body: several nodes run as one kernel.
#pragma once

#include "core/graph.h"

namespace torchweld {

/// Means exactly what its body means, except that values inside the body are not rounded to f16 or bf16 between
/// pointwise nodes, nor ahead of an anchor. The body is pointwise nodes, casts and takes of rows, with at most one
/// anchor among them (conv, matmul, linear, reduction, softmax, norm, pool). A take is read like an operand: its table
/// and its index are inputs of the body. Or the body is a block: several nodes, anchors alone, in fused nodes of
/// their own or in blocks again, that one kernel keeps on chip. Inputs and outputs of the node are the body's.
/// Immediates are constants inside the body; weights are inputs.
struct Fused {
  std::shared_ptr<const Graph> body;
  void fields(auto&& f) { f("body", body); }
};

/// True for a node that is neither pointwise, cast, take nor constant: what kernels are made for.
bool is_anchor(const Node& node);
/// True when the body holds a fused node, or more than one anchor.
bool is_block(const Fused& fused);
/// The block that a node is; null for all other nodes.
const Fused* block_of(const Node& node);
/// The body's one anchor; null for a body without. Throws Unsupported for a block, so that only tactics made for blocks
/// take one.
const Node* anchor_of(const Fused& fused);
/// The ATen meaning of a graph on given inputs: every node by its ATen line, values freed after their last use.
std::vector<at::Tensor> run_aten(const Graph& graph, Tensors inputs);

void define_fused(OpSet& ops);

}  // namespace torchweld
