#include "kernels/cuda/implicit_gemm.h"

#include "core/error.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/matmul.h"
#include "kernels/cuda/block_parts.h"
#include "kernels/cuda/implicit_gemm_program.h"

namespace torchweld::cuda {
namespace {

std::unique_ptr<Kernel> make(const Node& node, const GemmParts& parts, const GemmConfig& config) {
  GemmLaunch gemm = gemm_launch(node, parts, config);
  return make_own_kernel(node, gemm.program, gemm.shape, std::move(gemm.arguments), parts.packed, gemm.packed);
}

}  // namespace

void propose_implicit_gemm(const Node& node, const KernelContext& context, Offers& offers) {
  auto* fused = node.as<Fused>();
  bool block = fused && is_block(*fused);
  const Node* anchor = block ? nullptr : fused ? anchor_of(*fused) : &node;
  if (!block && !(anchor && (anchor->as<Conv>() || anchor->as<Linear>()))) return;
  GemmParts parts = !block                    ? take_gemm_apart(node, context)
                    : is_joined(*fused->body) ? take_joined_apart(node, context)
                                              : take_siblings_apart(node, context);
  expect(parts.dtype != c10::kFloat || parts.body.anchor->as<Conv>() || parts.problem.rows() > kFewRows,
         "f32 with few rows, where TF32 saves nothing");
  DeviceLimits limits = limits_of(node);
  expect(limits.major >= 8 || parts.dtype == c10::kHalf, "only f16 before sm_80");
  constexpr size_t kMostOffers = 12;
  std::vector<GemmConfig> configs = gemm_configs(parts.problem, gemm_device(node), kMostOffers, context.wanted);
  expect(!configs.empty(), context.wanted ? kNoneWanted : "the operands of a block do not fit into shared memory");
  const GemmConfig best = configs.front();
  // Of small layers without groups, the fastest was always expected within 1.22 times the best estimate (an H100).
  constexpr double kHopeful = 1.25;
  const bool grouped = parts.problem.groups > 1;
  if (best.microseconds < kLibrariesPayFrom && !context.wanted && !grouped)
    std::erase_if(configs, [&](const GemmConfig& c) { return c.microseconds > kHopeful * best.microseconds; });
  // Compared in f16 and bf16 only, and where every block has tiles of its own. With the few channels of a picture ours
  // was always ahead.
  bool as_good_as_libraries =
      parts.dtype != c10::kFloat &&
      (best.source == GemmSource::kPixels || (best.source == GemmSource::kPipeline && best.splits == 1));
  bool small = best.source != GemmSource::kRing && best.microseconds < kMostUntimed;
  // With groups cuDNN took 1.2 to 10 times as long for layers of ResNeXt50 and RegNetY.
  expect(context.tune || as_good_as_libraries || small || grouped, "a large product, and kernels are not timed");
  if (!context.tune) {
    size_t chosen = choose_untimed(
        node, configs.size(), [&](size_t i) { return gemm_program(node, parts, configs[i]); },
        [&](size_t i) { return configs[i].splits; });
    configs = {configs[chosen]};
  }
  for (const GemmConfig& config : configs)
    offers.add(config.text(), [&node, parts, config] { return make(node, parts, config); }, config.microseconds);
}

}  // namespace torchweld::cuda
