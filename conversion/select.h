// Chooses a kernel for every node.
#pragma once

#include <functional>
#include <unordered_map>

#include "conversion/precedents.h"
#include "conversion/timing_cache.h"
#include "core/graph.h"
#include "core/options.h"
#include "kernels/kernel.h"

namespace torchweld {

/// The kernel chosen for a node.
struct Choice {
  std::shared_ptr<const Kernel> kernel;  ///< Null for a concatenation whose inputs are written into its result.
  std::string tactic;
  std::string config;
  double microseconds = 0;  ///< 0 when not timed.
};
using Selection = std::unordered_map<const Node*, Choice>;

/// Nodes that are timed as one, and what was nearly as fast as their choice.
struct TimedKind {
  std::string key;  ///< In the timing cache.
  std::vector<const Node*> nodes;
  std::vector<TimingCache::Entry> runners_up;  ///< Fastest first.
};

/// Chooses for every node that is neither constant nor free view: what the timing cache says when that is on offer
/// here, else (tune) the fastest of all offers measured on random data, else the first offer that builds. New
/// measurements go to the cache. Blocks (see core/ops/fused.h) that are not worth it become their parts in `graph`.
/// `progress(done, total)` is called for each kind of nodes that is timed and may throw to cancel. `timed` receives the
/// kinds measured now that have runners-up. Throws Unsupported when nothing runs a node.
Selection select(Graph& graph, const Options& options, bool tune, TimingCache& cache,
                 const std::function<void(size_t, size_t)>& progress = {}, std::vector<TimedKind>* timed = nullptr);

/// Chooses without compiler, timing and libraries' heuristics, for a call that waits: what plans have for such a node,
/// else of our own kernels the first whose machine code is there, else, for what is not heavy, LibTorch's. Blocks for
/// which there is none, and those of which plans have the parts instead, become their parts in `graph`. Without a
/// precedent, tactics with many configurations are asked for those that `cache` names. Throws Unsupported where more
/// than a quarter of what is heavy would be left to LibTorch.
Selection select_compiled(Graph& graph, const Options& options, const TimingCache& cache,
                          const Precedents& precedents = {});

/// Puts a runner-up in the place of every node's choice in `kind`; false, and nothing is changed, where one of the
/// nodes does not take it.
bool replace_choices(const TimedKind& kind, const TimingCache::Entry& by, const Options& options, Selection& selection);

}  // namespace torchweld
