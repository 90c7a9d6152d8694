#include "kernels/cuda/deferred_norm.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <unordered_map>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "kernels/cuda/block_parts.h"
#include "kernels/cuda/implicit_gemm_program.h"
#include "kernels/cuda/launch_chain.h"

namespace torchweld::cuda {
namespace {

/// A data pointer of one of the launches.
struct Pointer {
  enum Kind { kInput, kOutput, kMoments, kX } kind;
  size_t index = 0;
};

/// One of the block's linear layers by itself.
struct Half {
  std::shared_ptr<Graph> graph;  ///< Of the layer's node alone, with its constants.
  GemmParts parts;
  std::vector<Pointer> pointers;
  const Node& node() const { return *graph->nodes().back(); }
};

struct Block {
  Half first, second;
  int64_t rows = 0;
  int64_t x_bytes = 0;  ///< Of the first half's result where it is no result of the block; else 0.
};

Half half_of(const Node& block, const Node& part, const Value* known, const KernelContext& context) {
  Half half{.graph = part_alone(block, part, known), .parts = {}, .pointers = {}};
  auto* fused = part.as<Fused>();
  const Node* anchor = fused ? anchor_of(*fused) : &part;
  expect(anchor && anchor->as<Linear>() && part.outputs().size() == 1, "a part is no linear layer");
  half.parts = take_gemm_apart(half.node(), context);
  expect(half.parts.problem.element_bytes == 2, "only f16 and bf16");
  return half;
}

/// The block's input that its body reads as `inner`.
Pointer input_of(const Value* inner) {
  expect(!inner->producer(), "a part reads what another one computes");
  return {Pointer::kInput, static_cast<size_t>(inner->index())};
}

GemmNorm norm_of(const Node& block, const Node& norm) {
  const TensorType& x = norm.input(0)->type;
  expect(is_contiguous(x) && is_contiguous(norm.output()->type), "rows do not lie one after the other");
  auto numbers = [&](size_t i, double otherwise) {
    TensorType type = contiguous_type(c10::kFloat, {x.shape.back()}, c10::kCPU);
    if (i >= norm.inputs().size()) {
      return LazyTensor::derived("full " + std::to_string(otherwise), {}, type, [type, otherwise](const auto&) {
        return at::full(type.shape, otherwise, at::TensorOptions(c10::kFloat));
      });
    }
    const Value* inner = norm.input(i);
    const LazyTensor* constant = inner->producer() ? nullptr : lazy_constant_of(block.input(inner->index()));
    expect(constant != nullptr, "the norm's weights are not constant");
    type.device = constant->type().device;
    return LazyTensor::derived("f32", {*constant}, type,
                               [](const std::vector<at::Tensor>& tensors) { return tensors[0].to(c10::kFloat); });
  };
  auto* layer = norm.as<LayerNorm>();
  double eps = layer ? layer->eps : norm.as<RmsNorm>()->eps_for(x.dtype);
  return {.eps = eps, .centred = layer != nullptr, .weight = numbers(1, 1), .bias = numbers(2, 0)};
}

Block take_block_apart(const Node& node, const KernelContext& context) {
  const Graph& body = *node.as<Fused>()->body;
  std::vector<const Node*> nodes;
  for (const auto& part : body.nodes()) nodes.push_back(part.get());
  expect(nodes.size() == 3 && is_row_norm(*nodes[1]), "no norm of one dimension between two linear layers");
  const Node& norm = *nodes[1];
  const Value* x = nodes[0]->output();
  expect(norm.input(0) == x, "the norm reads something else than the first layer's result");
  Block block{.first = half_of(node, *nodes[0], nullptr, context),
              .second = half_of(node, *nodes[2], norm.output(), context)};
  GemmParts& first = block.first.parts;
  GemmParts& second = block.second.parts;
  constexpr int64_t kStage = 64;
  expect(second.problem.channels % kStage == 0 && second.problem.vector_reads, "rows are no multiple of 64 numbers");
  expect(x->type.dtype == first.dtype, "the first layer's result is of another dtype than what it multiplies");
  block.rows = first.problem.rows();
  first.moments = true;
  second.norm = norm_of(node, norm);

  std::unordered_map<const Value*, size_t> outputs;
  for (size_t i = 0; i < body.outputs().size(); ++i) outputs[body.outputs()[i]] = i;
  bool x_wanted = outputs.count(x) > 0;
  Pointer at_x = x_wanted ? Pointer{Pointer::kOutput, outputs[x]} : Pointer{Pointer::kX};
  if (!x_wanted) block.x_bytes = x->type.storage_bytes();
  second.norm->kept = outputs.count(norm.output()) > 0;
  // A row with an infinite number has no moments, but its other numbers become zeros.
  expect(second.norm->centred || !second.norm->kept, "others read the rows that RMS normalisation gives");

  for (size_t i = 0; i < nodes[0]->inputs().size(); ++i) {
    if (std::find(first.packed.begin(), first.packed.end(), i) == first.packed.end())
      block.first.pointers.push_back(input_of(nodes[0]->input(i)));
  }
  block.first.pointers.insert(block.first.pointers.end(), {at_x, {Pointer::kMoments}});
  size_t read = nodes[2]->inputs().size() - second.packed.size();
  expect(read == 1, "the last layer reads another tensor");
  block.second.pointers = {at_x, {Pointer::kMoments}};
  if (second.norm->kept) block.second.pointers.push_back({Pointer::kOutput, outputs[norm.output()]});
  expect(outputs.count(nodes[2]->output()) > 0, "nobody reads the last layer's result");
  block.second.pointers.push_back({Pointer::kOutput, outputs[nodes[2]->output()]});
  return block;
}

/// Both layers as launches: the moments, and the first result unless it is one of the block's, lie in the workspace.
std::unique_ptr<Kernel> make_deferred_norm(const Node& node, const Block& block, const GemmConfig& first,
                                           const GemmConfig& second) {
  GemmParts behind = block.second.parts;
  behind.norm->parts = moment_parts(first, block.first.parts.problem);
  int64_t moment_bytes = aligned_workspace(block.rows * behind.norm->parts * static_cast<int64_t>(2 * sizeof(float)));
  auto link = [&](const Half& half, const GemmParts& parts, const GemmConfig& config) {
    GemmLaunch gemm = gemm_launch(half.node(), parts, config);
    std::vector<LaunchChain::Pointer> pointers;
    for (const Pointer& p : half.pointers) {
      bool inside = p.kind == Pointer::kMoments || p.kind == Pointer::kX;
      pointers.push_back({inside                      ? LaunchChain::Pointer::kWorkspace
                          : p.kind == Pointer::kInput ? LaunchChain::Pointer::kInput
                                                      : LaunchChain::Pointer::kOutput,
                          p.kind == Pointer::kX ? static_cast<size_t>(moment_bytes) : p.index});
    }
    Launch launch = make_launch(gemm.program, gemm.shape, std::move(gemm.arguments), pointers.size(), device_of(node));
    return LaunchChain::Link{std::move(launch), std::move(gemm.packed), std::move(pointers)};
  };
  std::vector<LaunchChain::Link> links;
  links.push_back(link(block.first, block.first.parts, first));
  links.push_back(link(block.second, behind, second));
  return std::make_unique<LaunchChain>(std::move(links), moment_bytes + block.x_bytes, node.inputs().size());
}

constexpr size_t kAllConfigs = 1000;

/// All configurations (of launch 0 or 1, where some are wanted: these), best first, beside `states` bytes of shared
/// memory.
std::vector<GemmConfig> configs_of(const Node& node, const GemmProblem& problem, int64_t states,
                                   const KernelContext& context, int launch) {
  GemmDevice device = gemm_device(node);
  device.shared_bytes -= states;
  if (!context.wanted) return gemm_configs(problem, device, kAllConfigs);
  const std::set<std::string> wanted = names_of_launch(*context.wanted, launch);
  return gemm_configs(problem, device, kAllConfigs, &wanted);
}

/// Adds the best `most` of `configs` that can do their half.
void add_best(const std::vector<GemmConfig>& configs, size_t most, const std::function<bool(const GemmConfig&)>& can,
              std::vector<GemmConfig>& chosen) {
  for (const GemmConfig& config : configs) {
    if (most == 0) return;
    if (!can(config)) continue;
    chosen.push_back(config);
    --most;
  }
}

}  // namespace

void propose_deferred_norm(const Node& node, const KernelContext& context, Offers& offers) {
  const Fused* fused = block_of(node);
  if (!fused) return;
  const auto& nodes = fused->body->nodes();
  if (std::none_of(nodes.begin(), nodes.end(), [](const auto& part) { return is_row_norm(*part); })) return;
  expect(gemm_device(node).warpgroups, "only sm_90a has warpgroups");
  auto block = std::make_shared<const Block>(take_block_apart(node, context));
  expect(block->rows > kFewRows, "few rows");
  constexpr int64_t kStates = 1024;  // Bytes, for the rows' means and deviations.
  const GemmProblem& first = block->first.parts.problem;
  const GemmProblem& second = block->second.parts.problem;
  // The normalised rows are written from shared memory, where stages in turns do not leave them.
  bool kept = block->second.parts.norm->kept;
  constexpr int64_t kMostParts = 96;  // Two threads have those of a row in registers.
  auto writes_moments = [&](const GemmConfig& config) {
    int64_t parts = moment_parts(config, first);
    return parts > 0 && parts <= kMostParts;
  };
  auto whole_rows = [&](const GemmConfig& config) {
    return config.source == GemmSource::kStages && config.splits == 1 &&
           !(kept && (config.swapped() || config.kept > 0));
  };
  // The estimates do not compare the families well.
  std::vector<GemmConfig> firsts, seconds;
  auto most = [&](size_t count) { return context.wanted ? kAllConfigs : count; };
  auto writes = [&](bool by_warpgroups) {
    return [&, by_warpgroups](const GemmConfig& c) { return c.by_warpgroups() == by_warpgroups && writes_moments(c); };
  };
  auto reads = [&](bool swapped, bool in_turns) {
    return [&, swapped, in_turns](const GemmConfig& c) {
      return whole_rows(c) && c.swapped() == swapped && (swapped || (c.kept > 0) == in_turns);
    };
  };
  std::vector<GemmConfig> all = configs_of(node, first, 0, context, 0);
  add_best(all, most(3), writes(/*by_warpgroups=*/true), firsts);
  add_best(all, most(2), writes(/*by_warpgroups=*/false), firsts);
  all = configs_of(node, second, kStates, context, 1);
  add_best(all, most(2), reads(/*swapped=*/false, /*in_turns=*/false), seconds);
  add_best(all, most(2), reads(/*swapped=*/false, /*in_turns=*/true), seconds);
  add_best(all, most(2), reads(/*swapped=*/true, /*in_turns=*/true), seconds);
  std::stable_sort(seconds.begin(), seconds.end(),
                   [](const GemmConfig& a, const GemmConfig& b) { return a.microseconds < b.microseconds; });
  expect(!firsts.empty() && !seconds.empty(), context.wanted ? kNoneWanted : "no configuration by warpgroups");
  bool small = std::max(firsts.front().microseconds, seconds.front().microseconds) < kMostUntimed;
  expect(context.tune || small, "a large product, and kernels are not timed");
  const size_t before = offers.offers().size();
  for (const GemmConfig& one : firsts) {
    for (const GemmConfig& other : seconds) {
      const int64_t rows_of_two = ceil_div(other.rows, other.threads() / 2);
      if (rows_of_two * moment_parts(one, first) > kMostParts) continue;
      const std::string name = one.text() + ", " + other.text();
      if (context.wanted && !context.wanted->count(name)) continue;
      auto build = [&node, block, one, other] { return make_deferred_norm(node, *block, one, other); };
      offers.add(name, build, one.microseconds + other.microseconds);
      if (!context.tune) return;
    }
  }
  expect(offers.offers().size() > before, context.wanted ? kNoneWanted : "a row has too many moments");
}

}  // namespace torchweld::cuda
