// Which attributes a program writes in place.
#pragma once

#include <optional>
#include <unordered_set>

#include "lowering/lower.h"

namespace torchweld {

/// Parameters of a graph.
using GraphInputs = std::unordered_set<const torch::jit::Value*>;

/// Adds to `written` the attributes of `module` whose memory some node of `graph` (lowered) writes, and those that
/// share memory with them. Returns the parameters of the graph that are written; nothing when it cannot be told what
/// some node writes: a tensor taken out of a list, say. Inputs of the graph are taken not to be tensors of the module.
std::optional<GraphInputs> add_in_place_writes(const torch::jit::Graph& graph, const torch::jit::Module& module,
                                               WrittenAttributes& written);

}  // namespace torchweld
