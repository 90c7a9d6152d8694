// What the ways to choose kernels share.
#pragma once

#include <exception>
#include <string>
#include <vector>

#include "core/graph.h"
#include "core/options.h"
#include "kernels/kernel.h"

namespace torchweld {

/// "tactic configuration"
std::string describe(const Offers::Offer& offer);
/// Logs at level 2 that an offer for `node` is left out, with the reason.
void log_drop(const Node& node, const Offers::Offer& offer, const std::exception& error);
/// Nodes that become steps: neither constants nor free views.
std::vector<const Node*> steps_of(const Graph& graph);
/// What tactics may know. `all`: for every configuration, not only the one that heuristics put first.
KernelContext context_of(const Options& options, bool all);

}  // namespace torchweld
