#include "conversion/select_parts.h"

#include "conversion/place.h"
#include "core/environment.h"
#include "core/ops/constant.h"

namespace torchweld {

std::string describe(const Offers::Offer& offer) {
  return offer.tactic + (offer.config.empty() ? "" : " " + offer.config);
}

void log_drop(const Node& node, const Offers::Offer& offer, const std::exception& error) {
  log(2, "dropped for " + node.op() + ": " + describe(offer) + ": " + error.what());
}

std::vector<const Node*> steps_of(const Graph& graph) {
  std::vector<const Node*> nodes;
  for (const auto& node : graph.nodes()) {
    int64_t offset = 0;
    if (!node->as<Constant>() && !is_free_view(*node, &offset)) nodes.push_back(node.get());
  }
  return nodes;
}

KernelContext context_of(const Options& options, bool all) {
  KernelContext context;
  context.tune = all;
  context.allow_tf32 = !options.disable_tf32;
  if (options.workspace_size > 0) context.workspace_limit = options.workspace_size;
  return context;
}

}  // namespace torchweld
