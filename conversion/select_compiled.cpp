#include <algorithm>
#include <mutex>
#include <optional>
#include <set>

#include "conversion/passes/groups.h"
#include "conversion/select.h"
#include "conversion/select_parts.h"
#include "conversion/workers.h"
#include "core/error.h"
#include "core/ops/fused.h"
#include "kernels/without_compiler.h"

namespace torchweld {
namespace {

/// The first of a tactic's offers that has been compiled. `only_wanted`: among the configurations that are wanted.
std::optional<Choice> compiled_offer(const Node& node, const KernelContext& context, std::string_view tactic,
                                     bool only_wanted) {
  Offers offers = offers_for(node, context, tactic);
  for (const Offers::Offer& offer : offers.offers()) {
    if (only_wanted && !context.wanted->count(offer.config)) continue;
    try {
      return Choice{offer.build(), offer.tactic, offer.config, 0};
    } catch (const Unsupported&) {
      continue;  // Not compiled, most likely.
    } catch (const std::exception& error) {
      log_drop(node, offer, error);
    }
  }
  return std::nullopt;
}

/// The configurations that a timing cache names, looked up when somebody asks: where all nodes have precedents, nobody
/// does.
class NamedConfigs {
 public:
  explicit NamedConfigs(const TimingCache& cache) : cache_(cache) {}
  const std::set<std::string>& get() {
    std::call_once(once_, [this] { configs_ = cache_.configs(); });
    return configs_;
  }

 private:
  const TimingCache& cache_;
  std::once_flag once_;
  std::set<std::string> configs_;
};

/// See select_compiled; nothing when there is no such kernel. `in_torch`: LibTorch's will do, too.
std::optional<Choice> compiled_choice(const Node& node, const Options& options, NamedConfigs& named,
                                      const Precedents& precedents, bool in_torch) {
  WithoutCompiler now;
  KernelContext context = context_of(options, /*all=*/true);
  if (const std::vector<Precedents::Known>* known = precedents.find(node)) {
    for (const auto& [tactic, configs] : *known) {
      context.wanted = &configs;
      if (auto choice = compiled_offer(node, context, tactic, /*only_wanted=*/true)) return choice;
    }
  }
  // The best by estimate may have been compiled too, for having been timed. Configurations of attention and of blocks
  // have other names at other sizes.
  for (const std::set<std::string>* wanted : {&named.get(), static_cast<const std::set<std::string>*>(nullptr)}) {
    context.wanted = wanted;
    for (const Tactic& tactic : tactics()) {
      if (tactic.device != node.output()->type.device.type() || (!in_torch && is_in_torch(tactic.name))) continue;
      if (auto choice = compiled_offer(node, context, tactic.name, /*only_wanted=*/false)) return choice;
    }
  }
  return std::nullopt;
}

/// True for a block that plans have only in parts.
bool is_known_in_parts(const Node& node, const Precedents& precedents) {
  if (!block_of(node) || precedents.find(node)) return false;
  std::unique_ptr<Graph> graph = parts_of(node);
  std::vector<const Node*> parts = steps_of(*graph);
  return std::all_of(parts.begin(), parts.end(),
                     [&](const Node* part) { return precedents.find(*part) || is_known_in_parts(*part, precedents); });
}

}  // namespace

Selection select_compiled(Graph& graph, const Options& options, const TimingCache& cache,
                          const Precedents& precedents) {
  while (expand_blocks(graph, [&](const Node& block) { return !is_known_in_parts(block, precedents); }) > 0) continue;
  NamedConfigs named(cache);
  Selection chosen;
  std::vector<const Node*> missing;  // heavy ones, without a kernel of ours
  size_t heavy = 0;
  int dissolved = 1;
  while (dissolved > 0) {
    std::vector<const Node*> open = steps_of(graph);
    std::erase_if(open, [&](const Node* node) {
      return chosen.count(node) > 0 || std::find(missing.begin(), missing.end(), node) != missing.end();
    });
    if (open.empty()) break;
    std::vector<std::optional<Choice>> choices(open.size());
    for_each_in_parallel(open.size(), open.front()->output()->type.device, [&](size_t i) {
      bool in_torch = !block_of(*open[i]) && !is_heavy(*open[i]);
      choices[i] = compiled_choice(*open[i], options, named, precedents, in_torch);
    });
    for (size_t i = 0; i < open.size(); ++i) {
      if (!choices[i] && block_of(*open[i])) continue;
      const bool is_heavy_one = is_heavy(*open[i]);
      if (!choices[i] && !is_heavy_one) throw Unsupported("nothing runs " + open[i]->op() + " without a compiler");
      heavy += is_heavy_one;
      if (choices[i]) {
        chosen.emplace(open[i], std::move(*choices[i]));
      } else {
        missing.push_back(open[i]);
      }
    }
    dissolved = expand_blocks(graph, [&](const Node& block) { return chosen.count(&block) > 0; });
  }
  // Of all that LibTorch would run otherwise, it may run a quarter.
  constexpr size_t kShare = 4;
  if (kShare * missing.size() > heavy)
    throw Unsupported("no kernel for " + missing.front()->op() + " has been compiled");
  for (const Node* node : missing) {
    std::optional<Choice> choice;
    for (const Tactic& tactic : tactics()) {
      if (choice || tactic.device != node->output()->type.device.type() || !is_in_torch(tactic.name)) continue;
      choice = compiled_offer(*node, context_of(options, /*all=*/true), tactic.name, /*only_wanted=*/false);
    }
    if (!choice) throw Unsupported("nothing runs " + node->op() + " without a compiler");
    chosen.emplace(node, std::move(*choice));
  }
  return chosen;
}

}  // namespace torchweld
