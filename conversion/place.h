// Memory: which values share storage, which lie where in the arena.
#pragma once

#include "conversion/plan.h"
#include "conversion/select.h"

namespace torchweld {

/// Lays out an optimised graph with its chosen kernels as a plan. View ops whose strides allow it become slots on their
/// input's storage and take no step; so do concatenations that have no kernel, whose inputs become slots on theirs.
/// Offsets are multiples of 256 bytes; values alive at the same step never overlap.
std::shared_ptr<Plan> place(const Graph& graph, const Selection& selection, c10::Device device);

/// True when a view op needs no copy: its output can be the input's memory. Then `element_offset` tells where it
/// starts.
bool is_free_view(const Node& node, int64_t* element_offset);
/// The value in whose memory `value` lies, seen through free views; the value itself when it has its own.
const Value* memory_of(const Value* value);

/// Offsets for buffers with sizes in bytes and lifetimes [first step, last step]; returns the arena's size. Greedy by
/// size: the largest first, each at the lowest offset where it overlaps no buffer alive at the same time.
struct Buffer {
  int64_t bytes = 0;
  int first = 0;
  int last = 0;
  int64_t offset = 0;
};
int64_t assign_offsets(std::vector<Buffer>& buffers);

}  // namespace torchweld
