#include "kernels/cuda/inverted_residual.h"

#include <algorithm>

#include "core/error.h"
#include "core/ops/fused.h"
#include "kernels/cuda/inverted_residual_program.h"
#include "kernels/cuda/pooled_parts.h"

namespace torchweld::cuda {

void offer_inverted_residuals(const Node& node, size_t most, Offers& offers, const std::set<std::string>* wanted) {
  if (!block_of(node) || is_pooled_block(node)) return;
  ResidualParts parts = take_residual_apart(node);
  expect(parts.expand || parts.project, "a depthwise convolution alone");
  DeviceLimits limits = limits_of(node);
  constexpr int kTensorCores = 8;
  expect(limits.major >= kTensorCores, "the GPU is older than sm_80");
  std::vector<ResidualLayout> layouts = rank_layouts(parts.sizes, limits, wanted);
  expect(!layouts.empty(), wanted ? kNoneWanted : "no tile fits into shared memory");
  if (wanted) most = layouts.size();
  size_t begin = 0;
  if (most == 1) {
    begin = choose_untimed(
        node, layouts.size(), [&](size_t i) { return residual_program(node, parts, layouts[i]); },
        [&](size_t i) { return cluster_of(parts.sizes, layouts[i]); });
  }
  // The fastest were expected within 1.17 times the best estimate (an H100).
  constexpr double kHopeful = 1.25;
  double least = layouts.front().microseconds;
  for (const ResidualLayout& layout : layouts) least = std::min(least, layout.microseconds);
  for (size_t i = begin; i < std::min(layouts.size(), begin + most); ++i) {
    if (!wanted && most > 1 && layouts[i].microseconds > kHopeful * least) continue;
    offers.add(
        layouts[i].tiling.text(),
        [&node, parts, layout = layouts[i]] {
          ResidualLaunch made = residual_launch(node, parts, layout);
          return make_own_kernel(node, made.program, made.shape, std::move(made.arguments), parts.packed,
                                 std::move(made.constants));
        },
        layouts[i].microseconds);
  }
}

void propose_inverted_residual(const Node& node, const KernelContext& context, Offers& offers) {
  constexpr size_t kOffers = 10;
  offer_inverted_residuals(node, context.tune ? kOffers : 1, offers, context.wanted);
}

}  // namespace torchweld::cuda
