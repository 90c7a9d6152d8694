// Memory: which values share storage, which lie where in the arena.
#pragma once

#include "conversion/lanes.h"
#include "conversion/plan.h"
#include "conversion/select.h"

namespace torchweld {

/// Lays out an optimised graph with its chosen kernels as a plan. View ops whose strides allow it become slots on their
/// input's storage and take no step; so do concatenations that have no kernel, whose inputs become slots on theirs.
/// All steps are in one lane.
std::shared_ptr<Plan> place(const Graph& graph, const Selection& selection, c10::Device device);

/// `plan` again, with independent branches in lanes of their own and memory laid out for that; null when no gain is
/// expected. Kernels and constants are shared.
std::shared_ptr<Plan> with_parallel_branches(const Plan& plan);

/// Lays out the arena. Offsets are multiples of 256 bytes; of values and workspaces that lie in the same bytes, all
/// steps that touch the one are sure to have ended when the first step that touches the other starts, in whatever order
/// the lanes get on.
void assign_arena(Plan& plan);

/// True when a view op needs no copy: its output can be the input's memory. Then `element_offset` tells where it
/// starts.
bool is_free_view(const Node& node, int64_t* element_offset);
/// The value in whose memory `value` lies, seen through free views; the value itself when it has its own.
const Value* memory_of(const Value* value);

/// Memory for something that steps touch from when the first `begin` steps of every lane have ended until the first
/// `end` have.
struct Buffer {
  int64_t bytes = 0;
  LaneCounts begin{};
  LaneCounts end{};
  int64_t offset = 0;
};
/// Offsets for buffers; returns the arena's size. Each buffer is put at the lowest offset where it overlaps none that
/// may be alive at the same time, in an order that is tried and changed: the largest first, then the earliest first,
/// and in further rounds first what came to lie at the very end. What nothing can be smaller than ends the search.
int64_t assign_offsets(std::vector<Buffer>& buffers);

}  // namespace torchweld
