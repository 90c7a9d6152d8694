// Groups of nodes become one fused node, and blocks become their parts again.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/graph.h"

namespace torchweld {

/// Nodes in graph order that become one fused node.
using Group = std::vector<Node*>;

/// Constants that stand inside a body: single numbers.
bool is_inner_constant(const Value* value);
/// What the group reads from outside, each value once; without constants that go inside.
std::vector<Value*> outer_inputs(const Group& group);
/// Values of the group that something outside of it reads.
std::vector<Value*> outer_outputs(const Graph& graph, const Group& group);
/// The one node that reads `value`, whatever number of times; null when there are more, or the value leaves the graph.
Node* only_user(const Graph& graph, const Value* value);

/// Puts a fused node in the place of the last node of the group. The others stay, unread, until the graph is swept. A
/// Copy in the group becomes the strides of its operand.
Node* fuse_group(Graph& graph, const Group& group);

/// The parts of a block as a graph of their own, with the block's constants and its other inputs: what would run in its
/// place. The types of inputs and outputs are the block's.
std::unique_ptr<Graph> parts_of(const Node& block);
/// Puts the parts of every block for which `keep` says false in its place. Values that other nodes read keep their
/// types. Returns how many blocks went.
int expand_blocks(Graph& graph, const std::function<bool(const Node& block)>& keep);

}  // namespace torchweld
