#include "kernels/cuda/excited_residual.h"

#include <algorithm>

#include "core/error.h"
#include "core/ops/fused.h"
#include "kernels/cuda/inverted_residual_program.h"
#include "kernels/cuda/launch_chain.h"
#include "kernels/cuda/pooled_parts.h"

namespace torchweld::cuda {
namespace {

using Pointer = LaunchChain::Pointer;

/// One launch's part of the block by itself.
struct Half {
  std::shared_ptr<Graph> graph;  ///< Of that part alone, with its constants.
  ResidualParts parts;
  std::vector<Pointer> inputs;  ///< Those that are not packed.
  const Node& node() const { return *graph->nodes().back(); }
};

struct Block {
  Half first, second;
  std::shared_ptr<Graph> excite;  ///< What the second half's `excite` points into.
  int64_t hidden_bytes = 0;       ///< Of the first half's result.
};

bool is_excited_residual(const Node& node) {
  const Fused* block = block_of(node);
  return block && block->body->nodes().size() == 3 && is_pooled_block(**std::next(block->body->nodes().begin()));
}

/// The rest of `half`, from its graph: where its inputs lie. `hidden` is what lies in the workspace.
void find_inputs(Half& half, const Node& part, const Value* hidden) {
  const std::vector<size_t>& packed = half.parts.packed;
  for (size_t i = 0; i < part.inputs().size(); ++i) {
    if (std::find(packed.begin(), packed.end(), i) != packed.end()) continue;
    const Value* v = part.input(i);
    expect(v == hidden || !v->producer(), "a part reads what another one computes");
    half.inputs.push_back(v == hidden ? Pointer{Pointer::kWorkspace, 0}
                                      : Pointer{Pointer::kInput, static_cast<size_t>(v->index())});
  }
}

Block take_apart(const Node& node) {
  const Graph& body = *node.as<Fused>()->body;
  auto at = body.nodes().begin();
  const Node& depthwise = **at++;
  const Node& excite = **at++;
  const Node& projection = **at;
  const Value* hidden = depthwise.output();
  Block block;

  block.first.graph = part_alone(node, depthwise);
  ResidualParts& first = block.first.parts = take_residual_apart(block.first.node());
  expect(first.depthwise && !first.project, "the first part does not end with a depthwise convolution");
  first.sizes.pools = true;
  find_inputs(block.first, depthwise, nullptr);

  block.excite = part_alone(node, excite, hidden);
  PooledParts pooled = take_pooled_apart(*block.excite->nodes().back());
  expect(pooled.products.size() == 2 && !pooled.gate, "the second part is no squeeze-excitation down to the gate");
  for (const BlockPart& product : pooled.products)
    expect(product.node->output()->type.dtype == first.x.dtype, "the parts have several dtypes");

  block.second.graph = part_alone(node, projection, hidden);
  ResidualParts& second = block.second.parts = take_residual_apart(block.second.node());
  expect(second.scale && projection.input(second.x_index) == hidden &&
             projection.input(second.gate_index) == excite.output() && excite.input(pooled.x_index) == hidden,
         "the parts are no chain");
  second.sizes.squeezed = pooled.products[0].weight.size(0);
  second.excite = std::move(pooled.products);
  second.packed.push_back(second.gate_index);
  find_inputs(block.second, projection, hidden);

  expect(body.outputs().size() == 1 && body.outputs()[0] == projection.output(),
         "a value between the parts is a result");
  block.hidden_bytes = aligned_workspace(hidden->type.storage_bytes());
  return block;
}

/// Bytes of shared memory that no two blocks of threads on one processor can have.
int64_t share_of_one(const DeviceLimits& limits) { return round_up(limits.shared_bytes / 2, 16); }

constexpr const char* kAlone = " alone";

/// One of the ways to run a block.
struct Way {
  ResidualLayout first, second;
  bool alone = false;  ///< No two blocks of threads of the first launch share a processor.
  std::string text() const { return first.tiling.text() + (alone ? kAlone : "") + ", " + second.tiling.text(); }
};

std::unique_ptr<Kernel> make_excited_residual(const Node& node, const Block& block, const Way& way,
                                              const DeviceLimits& limits) {
  const auto& [first, second, alone] = way;
  const InvertedResidual& sizes = block.first.parts.sizes;
  int64_t tiles = tiles_of(sizes, first.tiling);
  int64_t sums_bytes = sizes.batch * tiles * sizes.hidden * static_cast<int64_t>(sizeof(float));
  constexpr int64_t kMost = int64_t{1} << 31;
  expect(sums_bytes < kMost, "too many sums for 32-bit offsets");
  auto link = [&](const Half& half, const ResidualLayout& layout, int64_t least_shared, Pointer result) {
    ResidualLaunch made = residual_launch(half.node(), half.parts, layout, tiles);
    made.shape.shared_bytes = static_cast<unsigned>(std::max(layout.shared_bytes, least_shared));
    std::vector<Pointer> pointers = half.inputs;
    pointers.insert(pointers.end(), {result, {Pointer::kWorkspace, static_cast<size_t>(block.hidden_bytes)}});
    Launch launch = make_launch(made.program, made.shape, std::move(made.arguments), pointers.size(), device_of(node));
    return LaunchChain::Link{std::move(launch), std::move(made.constants), std::move(pointers)};
  };
  std::vector<LaunchChain::Link> links;
  links.push_back(link(block.first, first, alone ? share_of_one(limits) : 0, {Pointer::kWorkspace, 0}));
  links.push_back(link(block.second, second, 0, {Pointer::kOutput, 0}));
  return std::make_unique<LaunchChain>(std::move(links), block.hidden_bytes + sums_bytes, node.inputs().size());
}

/// Whether the first launch's blocks of threads may share processors: false, true (they are kept alone), or both where
/// that is to be timed. They start while the second launch of the block ahead still runs, and clusters of that lie
/// unevenly: of two blocks that come to one processor, both take twice as long, and all wait for them (on an H100 up to
/// 2 of 11 us; without clusters it makes no difference).
std::vector<bool> ways_to_share(const Block& block, const ResidualLayout& first, const ResidualLayout& second,
                                const DeviceLimits& limits, bool tune) {
  int64_t blocks = blocks_of(block.first.parts.sizes, first.tiling);
  int64_t alone = share_of_one(limits);
  constexpr int64_t kReserved = 1024;
  bool fits = first.shared_bytes <= alone && alone + second.shared_bytes + kReserved <= limits.shared_bytes;
  if (!fits || blocks > limits.processors || cluster_of(block.second.parts.sizes, second) == 1) return {false};
  return tune ? std::vector<bool>{false, true} : std::vector<bool>{true};
}

/// The `most` most hopeful layouts of a half, or all that are `wanted`.
std::vector<ResidualLayout> layouts_of(const ResidualParts& parts, const DeviceLimits& limits, size_t most,
                                       const std::set<std::string>* wanted) {
  if (wanted) return rank_layouts(parts.sizes, limits, wanted);
  constexpr double kHopeful = 1.25;
  std::vector<ResidualLayout> layouts = rank_layouts(parts.sizes, limits);
  expect(!layouts.empty(), "no tile fits into shared memory");
  double limit = kHopeful * layouts.front().microseconds;
  std::erase_if(layouts, [&](const ResidualLayout& layout) { return layout.microseconds > limit; });
  if (layouts.size() > most) layouts.resize(most);
  return layouts;
}

/// The place of the layout to take without timing.
size_t untimed(const Half& half, const std::vector<ResidualLayout>& layouts) {
  size_t place = choose_untimed(
      half.node(), layouts.size(), [&](size_t i) { return residual_program(half.node(), half.parts, layouts[i]); },
      [&](size_t i) { return cluster_of(half.parts.sizes, layouts[i]); });
  expect(place < layouts.size(), "only clusters that not every GPU can run");
  return place;
}

}  // namespace

void propose_excited_residual(const Node& node, const KernelContext& context, Offers& offers) {
  if (!is_excited_residual(node)) return;
  DeviceLimits limits = limits_of(node);
  constexpr int kTensorCores = 8;
  expect(limits.major >= kTensorCores, "the GPU is older than sm_80");
  auto block = std::make_shared<const Block>(take_apart(node));
  constexpr int64_t kFewSamples = 8;
  expect(context.tune || block->first.parts.sizes.batch <= kFewSamples,
         "more than 8 samples, and kernels are not timed");
  const std::set<std::string>* wanted = context.wanted;
  std::set<std::string> of_first, of_second;
  if (wanted) {
    for (const std::string& name : names_of_launch(*wanted, 0)) of_first.insert(name.substr(0, name.find(kAlone)));
    of_second = names_of_launch(*wanted, 1);
  }
  std::vector<ResidualLayout> firsts = layouts_of(block->first.parts, limits, 4, wanted ? &of_first : nullptr);
  std::vector<ResidualLayout> seconds = layouts_of(block->second.parts, limits, 3, wanted ? &of_second : nullptr);
  if (!context.tune) {
    firsts = {firsts[untimed(block->first, firsts)]};
    seconds = {seconds[untimed(block->second, seconds)]};
  }
  const size_t before = offers.offers().size();
  for (const ResidualLayout& first : firsts) {
    for (const ResidualLayout& second : seconds) {
      constexpr double kPerByte = 1.7e-5;  // Microseconds; see estimate_microseconds.
      int64_t tiles = tiles_of(block->first.parts.sizes, first.tiling);
      int64_t bytes = tiles * second.hidden * static_cast<int64_t>(sizeof(float));
      double expected = first.microseconds + second.microseconds + kPerByte * static_cast<double>(bytes);
      for (bool alone : ways_to_share(*block, first, second, limits, context.tune)) {
        Way way{first, second, alone};
        if (wanted && !wanted->count(way.text())) continue;
        offers.add(
            way.text(), [&node, block, way, limits] { return make_excited_residual(node, *block, way, limits); },
            expected);
      }
    }
  }
  expect(offers.offers().size() > before, kNoneWanted);
}

}  // namespace torchweld::cuda
