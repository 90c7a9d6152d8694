#include "conversion/select.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "conversion/concat_in_place.h"
#include "conversion/device.h"
#include "conversion/measure.h"
#include "conversion/passes/groups.h"
#include "conversion/place.h"
#include "conversion/select_parts.h"
#include "conversion/workers.h"
#include "core/environment.h"
#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"

namespace torchweld {
namespace {

/// What is on offer for a node, built as far as asked for.
struct Candidates {
  Offers offers;
  std::vector<std::shared_ptr<const Kernel>> kernels;  ///< Null where an offer was not built or failed.
  std::vector<std::string> failures;                   ///< Why, where one failed.

  std::string reasons() const {
    std::string text;
    for (const auto& [tactic, reason] : offers.refusals()) text += "; " + tactic + ": " + reason;
    for (const std::string& failure : failures) text += failure;
    return text;
  }
};

/// Where among the offers is what the timing cache names.
std::optional<size_t> find_offer(const Offers& offers, const TimingCache::Entry& entry) {
  const auto& all = offers.offers();
  auto found = std::find_if(all.begin(), all.end(), [&](const Offers::Offer& offer) {
    return offer.tactic == entry.tactic && offer.config == entry.config;
  });
  return found == all.end() ? std::nullopt : std::optional(static_cast<size_t>(found - all.begin()));
}

/// This offer for a node; nothing when it is not among the node's, or does not build.
std::optional<Choice> choice_of(const TimingCache::Entry& entry, const Node& node, const Options& options) {
  Offers offers = offers_for(node, context_of(options, /*all=*/true), entry.tactic);
  std::optional<size_t> place = find_offer(offers, entry);
  if (!place) return std::nullopt;
  const Offers::Offer& offer = offers.offers()[*place];
  try {
    return Choice{offer.build(), entry.tactic, entry.config, entry.microseconds};
  } catch (const std::exception& error) {
    log_drop(node, offer, error);
    return std::nullopt;
  }
}

/// Decides in rounds: unknown kinds of node are timed, each kind once, then those of the parts of blocks, where these
/// may be faster, and of their parts; blocks that are slower than their parts dissolve; then every node gets the kernel
/// that the cache says. What can run side by side, building kernels, does.
class Selector {
 public:
  Selector(const Options& options, bool tune, TimingCache& cache, c10::Device device)
      : options_(options), tune_(tune), cache_(cache), device_(device) {}

  Selection run(Graph& graph, const std::function<void(size_t, size_t)>& progress, std::vector<TimedKind>* timed) {
    std::vector<const Node*> nodes = steps_of(graph);
    std::vector<std::unique_ptr<Graph>> parts;  // For as long as their kernels may be used.
    while (!nodes.empty()) {
      forget_blocks_not_on_offer(nodes);
      if (tune_) time_unknown(nodes, progress);
      std::vector<Block> blocks = blocks_among(nodes, parts);
      nodes = tune_ ? parts_that_may_win(blocks) : all_parts(blocks);
    }
    std::set<const Node*> worth_it;
    auto keep = [&](const Node& block) {
      return worth_it.count(&block) > 0 || (is_worth_it(block) && worth_it.insert(&block).second);
    };
    while (expand_blocks(graph, keep) > 0) continue;
    // The first of its kind decides for all of them, as it will when a saved module is planned again.
    std::map<std::string, std::vector<const Node*>> kinds;
    std::vector<const Node*> firsts, others;
    for (const Node* node : steps_of(graph)) {
      std::vector<const Node*>& kind = kinds[key_of(*node)];
      if (!timed_.count(node)) (kind.empty() ? firsts : others).push_back(node);
      kind.push_back(node);
    }
    choose_all(firsts);
    choose_all(others);
    for (auto& [key, of_kind] : kinds) {
      if (auto found = runners_up_.find(key); timed && found != runners_up_.end())
        timed->push_back({key, of_kind, found->second});
    }
    write_concats_in_place(graph, timed_, [this](const Node& node) { return choose_again(node); });
    return std::move(timed_);
  }

 private:
  /// The timing cache's key of a node: device model, op with attributes, types of inputs and outputs, and whether
  /// products of f32 must not be in TF32.
  std::string key_of(const Node& node) const {
    std::string key = device_name(device_) + " | " + node.attrs.text() + "(";
    bool has_f32 = false;
    for (size_t i = 0; i < node.inputs().size(); ++i) {
      const Value* input = node.input(i);
      key += (i ? ", " : "") + std::string(input->from<Constant>() ? "const " : "") + to_string(input->type);
      has_f32 = has_f32 || input->type.dtype == c10::kFloat;
    }
    key += ") -> ";
    for (const auto& output : node.outputs()) key += to_string(output->type) + " ";
    if (device_.is_cuda() && has_f32 && options_.disable_tf32) key += "without TF32 ";
    // One line, no tabs: the cache is a text file of lines.
    std::replace(key.begin(), key.end(), '\n', ' ');
    std::replace(key.begin(), key.end(), '\t', ' ');
    return key;
  }

  void choose_all(const std::vector<const Node*>& nodes) {
    choose_known(nodes);
    if (tune_) {
      // What was timed elsewhere and is not on offer here, by another version of a library say, is timed again.
      std::vector<const Node*> stale;
      std::copy_if(nodes.begin(), nodes.end(), std::back_inserter(stale), [&](const Node* node) {
        auto known = cache_.find(key_of(*node));
        return !timed_.count(node) && known && known->microseconds > 0;
      });
      for (const Node* node : stale) cache_.erase(key_of(*node));
      time_unknown(stale, {});
      choose_known(stale);
    }
    std::vector<const Node*> rest;
    std::copy_if(nodes.begin(), nodes.end(), std::back_inserter(rest), [&](const Node* n) { return !timed_.count(n); });
    std::vector<Choice> choices(rest.size());
    for_each_in_parallel(rest.size(), device_, [&](size_t i) { choices[i] = choose_untimed(*rest[i]); });
    for (size_t i = 0; i < rest.size(); ++i) timed_.emplace(rest[i], std::move(choices[i]));
  }

  /// Blocks are kept for their times, so a time counts only where the kernel that took it is on offer.
  void forget_blocks_not_on_offer(const std::vector<const Node*>& nodes) {
    for_each_in_parallel(nodes.size(), device_, [&](size_t i) {
      if (!block_of(*nodes[i])) return;
      std::string key = key_of(*nodes[i]);
      auto known = cache_.find(key);
      if (!known || known->microseconds == 0) return;
      Offers offers = offers_for(*nodes[i], context_of(options_, /*all=*/true), known->tactic);
      if (!find_offer(offers, *known)) cache_.erase(key);
    });
  }

  void choose_known(const std::vector<const Node*>& nodes) {
    std::vector<std::optional<Choice>> choices(nodes.size());
    for_each_in_parallel(nodes.size(), device_, [&](size_t i) { choices[i] = known_choice(*nodes[i]); });
    for (size_t i = 0; i < nodes.size(); ++i) {
      if (choices[i]) timed_.emplace(nodes[i], std::move(*choices[i]));
    }
  }

  /// Kernels timed in a row of their like look faster than between unlike neighbours, about this much each.
  static constexpr double kBoundary = 0.1;

  /// Microseconds that a step takes at least: models are up to a fifth off, and what they do not know never took less
  /// than kLeastStep on an H100.
  double least_time(const Node& node) {
    constexpr double kLeastStep = 1.2;
    constexpr double kSurely = 0.8;
    auto known = cache_.find(key_of(node));
    double least = kLeastStep;
    if (known && known->microseconds > 0) {
      least = known->microseconds;
    } else {
      double expected = offers_for(node, context_of(options_, /*all=*/true)).least_expected();
      if (std::isfinite(expected)) least = std::max(kLeastStep, kSurely * std::min(expected, kLibrariesPayFrom));
    }
    if (!block_of(node)) return least;
    double parts = -kBoundary;
    std::unique_ptr<Graph> graph = parts_of(node);
    for (const Node* part : steps_of(*graph)) parts += least_time(*part) + kBoundary;
    return std::min(least, parts);
  }

  /// A block, and the steps that would be left of it; blocks may be among these.
  struct Block {
    const Node* node;
    std::vector<const Node*> steps;
  };

  /// The graphs of the blocks' parts go into `kept`.
  static std::vector<Block> blocks_among(const std::vector<const Node*>& nodes,
                                         std::vector<std::unique_ptr<Graph>>& kept) {
    std::vector<Block> blocks;
    for (const Node* node : nodes) {
      if (!block_of(*node)) continue;
      kept.push_back(parts_of(*node));
      blocks.push_back({node, steps_of(*kept.back())});
    }
    return blocks;
  }

  static std::vector<const Node*> all_parts(const std::vector<Block>& blocks) {
    std::vector<const Node*> parts;
    for (const Block& block : blocks) parts.insert(parts.end(), block.steps.begin(), block.steps.end());
    return parts;
  }

  /// The parts of timed blocks, but for blocks that are sure to be faster than these.
  std::vector<const Node*> parts_that_may_win(const std::vector<Block>& blocks) {
    std::map<std::string, const Node*> kinds;
    for (const Node* step : all_parts(blocks)) kinds.emplace(key_of(*step), step);
    std::vector<std::pair<const Node*, double*>> wanted;
    std::map<std::string, double> least;
    for (const auto& [key, step] : kinds) wanted.emplace_back(step, &least[key]);
    for_each_in_parallel(wanted.size(), device_, [&](size_t i) { *wanted[i].second = least_time(*wanted[i].first); });
    std::vector<const Node*> chosen;
    for (const auto& [node, steps] : blocks) {
      auto block = cache_.find(key_of(*node));
      double sum = -kBoundary;
      for (const Node* step : steps) sum += least.at(key_of(*step)) + kBoundary;
      bool sure = block && block->microseconds > 0 && block->microseconds < sum;
      if (!sure) chosen.insert(chosen.end(), steps.begin(), steps.end());
    }
    return chosen;
  }

  /// Microseconds by the best kernel that was timed; of a block, by its parts where these are faster.
  std::optional<double> best_time(const Node& node) {
    auto known = cache_.find(key_of(node));
    std::optional<double> time = known && known->microseconds > 0 ? std::optional(known->microseconds) : std::nullopt;
    std::optional<double> parts = block_of(node) ? time_of_parts(node) : std::nullopt;
    return time && parts ? std::min(*time, *parts) : time ? time : parts;
  }

  /// Microseconds of a block's parts, each by what is best for it; nothing where one has not been timed.
  std::optional<double> time_of_parts(const Node& block) {
    double sum = -kBoundary;
    std::unique_ptr<Graph> graph = parts_of(block);
    for (const Node* node : steps_of(*graph)) {
      std::optional<double> part = best_time(*node);
      if (!part) return std::nullopt;
      sum += *part + kBoundary;
    }
    return sum;
  }

  /// Whether one kernel for a block is faster than its parts. Parts that were timed are better than a block that was
  /// not; where nothing was, the tactic's own rule decides, which makes no offer where it expects less.
  bool is_worth_it(const Node& block) {
    auto known = cache_.find(key_of(block));
    std::optional<double> parts = time_of_parts(block);
    if (known && known->microseconds > 0) return !parts || known->microseconds < *parts;
    return !tune_ && !parts && !candidates_for(block, /*all=*/false).kernels.empty();
  }

  void time_unknown(const std::vector<const Node*>& nodes, const std::function<void(size_t, size_t)>& progress) {
    std::map<std::string, const Node*> unknown;
    for (const Node* node : nodes) {
      std::string key = key_of(*node);
      auto known = cache_.find(key);
      if (!known || known->microseconds == 0) unknown.emplace(std::move(key), node);
    }
    std::vector<std::pair<std::string, const Node*>> kinds(unknown.begin(), unknown.end());
    // Candidates hold packed weights, so only as many kinds are open at once as keep all cores busy.
    const size_t group = 2 * most_workers();
    for (size_t begin = 0; begin < kinds.size(); begin += group) {
      std::vector<Candidates> candidates(std::min(group, kinds.size() - begin));
      if (progress) progress(begin, kinds.size());
      for_each_in_parallel(candidates.size(), device_,
                           [&](size_t i) { candidates[i] = candidates_for(*kinds[begin + i].second, /*all=*/true); });
      build_all(kinds, begin, candidates);
      for (size_t i = 0; i < candidates.size(); ++i) {
        if (progress) progress(begin + i, kinds.size());
        time_candidates(kinds[begin + i].first, *kinds[begin + i].second, candidates[i]);
      }
    }
  }

  /// Builds all offers of the kinds from `begin` on, one of each kind after the other: some kinds have many more than
  /// others, and plans of one cuDNN graph wait for each other.
  void build_all(const std::vector<std::pair<std::string, const Node*>>& kinds, size_t begin,
                 std::vector<Candidates>& candidates) {
    size_t most = 0;
    for (const Candidates& c : candidates) most = std::max(most, c.kernels.size());
    std::vector<std::pair<size_t, size_t>> kernels;
    for (size_t k = 0; k < most; ++k) {
      for (size_t i = 0; i < candidates.size(); ++i) {
        if (k < candidates[i].kernels.size()) kernels.emplace_back(i, k);
      }
    }
    for_each_in_parallel(kernels.size(), device_, [&](size_t j) {
      auto [i, k] = kernels[j];
      build(*kinds[begin + i].second, candidates[i], k);
    });
  }

  /// Nothing is built yet. `all`: every configuration, not only the one that heuristics put first.
  Candidates candidates_for(const Node& node, bool all) {
    Candidates result{.offers = offers_for(node, context_of(options_, all)), .kernels = {}, .failures = {}};
    // Running a block's parts one by one is what dissolving it does better.
    if (block_of(node)) result.offers.drop("aten");
    for (const auto& [tactic, reason] : result.offers.refusals()) log(4, node.op() + ": " + tactic + ": " + reason);
    result.kernels.resize(result.offers.offers().size());
    result.failures.resize(result.kernels.size());
    return result;
  }

  bool build(const Node& node, Candidates& candidates, size_t i) {
    const Offers::Offer& offer = candidates.offers.offers()[i];
    try {
      candidates.kernels[i] = offer.build();
      return true;
    } catch (const std::exception& error) {
      log_drop(node, offer, error);
      candidates.failures[i] = "; " + describe(offer) + ": " + error.what();
      return false;
    }
  }

  /// Microseconds of each candidate, infinite where it was not built or failed. A short look at all, a longer one at
  /// those that may be the fastest.
  std::vector<double> times_of(const Node& node, Candidates& candidates) {
    constexpr double kShortShare = 0.25;
    constexpr double kClose = 1.15;
    constexpr double kHopeless = 2;
    Workbench bench(node);
    std::vector<double> times(candidates.kernels.size(), std::numeric_limits<double>::infinity());
    double least = std::numeric_limits<double>::infinity();
    auto look = [&](size_t i, double budget, double hopeless) {
      const Offers::Offer& offer = candidates.offers.offers()[i];
      try {
        times[i] = measure(*candidates.kernels[i], bench, device_, budget, hopeless);
        least = std::min(least, times[i]);
        log(4, node.op() + ": " + describe(offer) + " " + std::to_string(times[i]) + " us");
      } catch (const std::exception& error) {
        log_drop(node, offer, error);
        times[i] = std::numeric_limits<double>::infinity();
      }
    };
    for (size_t i = 0; i < times.size(); ++i) {
      if (candidates.kernels[i]) look(i, budget_ms() * kShortShare, kHopeless * least);
    }
    const double limit = kClose * least;
    for (size_t i = 0; i < times.size(); ++i) {
      if (std::isfinite(times[i]) && times[i] <= limit) look(i, budget_ms(), std::numeric_limits<double>::infinity());
    }
    return times;
  }

  void time_candidates(const std::string& key, const Node& node, Candidates& candidates) {
    std::vector<double> times = times_of(node, candidates);
    auto best = std::min_element(times.begin(), times.end());
    if (best == times.end() || !std::isfinite(*best)) return;
    size_t i = static_cast<size_t>(best - times.begin());
    const Offers::Offer& offer = candidates.offers.offers()[i];
    cache_.set(key, {offer.tactic, offer.config, *best});
    remember_runners_up(key, candidates, times, i);
    if (!block_of(node)) timed_.emplace(&node, Choice{candidates.kernels[i], offer.tactic, offer.config, *best});
  }

  /// What is not much slower alone may be faster among its neighbours.
  void remember_runners_up(const std::string& key, const Candidates& candidates, const std::vector<double>& times,
                           size_t best) {
    constexpr double kClose = 1.3;
    constexpr size_t kMost = 4;
    std::vector<TimingCache::Entry> close;
    for (size_t i = 0; i < times.size(); ++i) {
      const Offers::Offer& offer = candidates.offers.offers()[i];
      if (i != best && times[i] <= kClose * times[best]) close.push_back({offer.tactic, offer.config, times[i]});
    }
    std::sort(close.begin(), close.end(), [](const auto& a, const auto& b) { return a.microseconds < b.microseconds; });
    if (close.size() > kMost) close.resize(kMost);
    if (!close.empty()) runners_up_[key] = std::move(close);
  }

  /// What the timing cache says, where that is on offer.
  std::optional<Choice> known_choice(const Node& node) {
    auto known = cache_.find(key_of(node));
    if (!known) return std::nullopt;
    if (known->microseconds > 0) return choice_of(*known, node, options_);
    // What was not timed is most likely the heuristic's choice again, but may be any, because that depends on what code
    // was there.
    for (bool all : {false, true}) {
      Candidates candidates = candidates_for(node, all);
      std::optional<size_t> place = find_offer(candidates.offers, *known);
      if (place && build(node, candidates, *place))
        return Choice{candidates.kernels[*place], known->tactic, known->config, known->microseconds};
    }
    return std::nullopt;
  }

  Choice choose_untimed(const Node& node) {
    Candidates candidates = candidates_for(node, /*all=*/false);
    const auto& offers = candidates.offers.offers();
    for (size_t i = 0; i < offers.size(); ++i) {
      if (!build(node, candidates, i)) continue;
      log(3, node.op() + " -> " + describe(offers[i]) + " untimed");
      cache_.set(key_of(node), {offers[i].tactic, offers[i].config, 0});
      return {candidates.kernels[i], offers[i].tactic, offers[i].config, 0};
    }
    throw Unsupported("nothing runs " + node.attrs.text() + candidates.reasons());
  }

  /// See ChooseAgain. The time stays that of the node as it was.
  std::optional<Choice> choose_again(const Node& node) {
    const Choice& was = timed_.at(&node);
    std::optional<Choice> again = choice_of({was.tactic, was.config, was.microseconds}, node, options_);
    return again && again->kernel->launch() ? again : std::nullopt;
  }

  double budget_ms() const {
    double per_level[] = {1, 1, 2, 3, 10, 30};
    return per_level[options_.optimization_level];
  }

  const Options& options_;
  bool tune_;
  TimingCache& cache_;
  c10::Device device_;
  Selection timed_;
  std::map<std::string, std::vector<TimingCache::Entry>> runners_up_;
};

}  // namespace

Selection select(Graph& graph, const Options& options, bool tune, TimingCache& cache,
                 const std::function<void(size_t, size_t)>& progress, std::vector<TimedKind>* timed) {
  std::vector<const Node*> nodes = steps_of(graph);
  if (nodes.empty()) return {};
  return Selector(options, tune, cache, nodes.front()->output()->type.device).run(graph, progress, timed);
}

bool replace_choices(const TimedKind& kind, const TimingCache::Entry& by, const Options& options,
                     Selection& selection) {
  std::vector<std::optional<Choice>> choices(kind.nodes.size());
  c10::Device device = kind.nodes.front()->output()->type.device;
  for_each_in_parallel(choices.size(), device, [&](size_t i) { choices[i] = choice_of(by, *kind.nodes[i], options); });
  for (size_t i = 0; i < choices.size(); ++i) {
    const Kernel* was = selection.at(kind.nodes[i]).kernel.get();
    // What writes into or reads a place in a concatenation stays a launch of ours; see concat_in_place.h.
    if (!was || !choices[i] || (was->launch() && !choices[i]->kernel->launch())) return false;
  }
  for (size_t i = 0; i < choices.size(); ++i) selection[kind.nodes[i]] = std::move(*choices[i]);
  return true;
}

}  // namespace torchweld
