#include "partitioning/advice.h"

#include <algorithm>
#include <set>

namespace torchweld {

namespace jit = torch::jit;

namespace {

/// Rules of the user among the reasons for a separation.
std::vector<ExclusionRule> rules_between(const Partition& partition, const Partition::Separation& separation,
                                         const Options& options) {
  std::vector<ExclusionRule> rules;
  for (size_t place : separation.because) {
    const Partition::Reason& fallback = partition.fallbacks.at(place);
    auto rule = exclusion_rule(fallback.node, options);
    if (!rule || fallback.reason != rule->text()) continue;
    if (std::find(rules.begin(), rules.end(), *rule) == rules.end()) rules.push_back(*rule);
  }
  return rules;
}

Options without(Options options, const std::vector<ExclusionRule>& rules) {
  for (const ExclusionRule& rule : rules) {
    bool is_op = rule.option == "torch_executed_ops";
    std::erase(is_op ? options.torch_executed_ops : options.torch_executed_modules, rule.entry);
  }
  return options;
}

/// True when everything in both segments is in one segment of `other`.
bool are_one(const Segment& first, const Segment& second, const Partition& other) {
  for (const Segment* segment : other.segments()) {
    std::set<const jit::Node*> nodes(segment->nodes.begin(), segment->nodes.end());
    auto inside = [&](const jit::Node* node) { return nodes.count(node) > 0; };
    if (std::all_of(first.nodes.begin(), first.nodes.end(), inside) &&
        std::all_of(second.nodes.begin(), second.nodes.end(), inside)) {
      return true;
    }
  }
  return false;
}

/// How many operations that are left for min_block_size are not left in `other`.
int64_t count_taken(const Partition& partition, const Partition& other) {
  std::set<const jit::Node*> left;
  for (const Partition::Reason& fallback : other.fallbacks) left.insert(fallback.node);
  return std::count_if(partition.fallbacks.begin(), partition.fallbacks.end(), [&](const Partition::Reason& fallback) {
    return fallback.is_small && left.count(fallback.node) == 0;
  });
}

std::vector<Advice::Merge> find_merges(const Partition& partition, const Options& options,
                                       const std::function<Partition(const Options&)>& again) {
  std::vector<Advice::Merge> merges;
  std::vector<const Segment*> segments = partition.segments();
  std::vector<std::pair<std::vector<ExclusionRule>, Partition>> tried;
  for (size_t i = 0; i < partition.separations.size(); ++i) {
    const Partition::Separation& separation = partition.separations[i];
    std::vector<ExclusionRule> rules = rules_between(partition, separation, options);
    if (rules.empty()) continue;
    auto known = std::find_if(tried.begin(), tried.end(), [&](const auto& entry) { return entry.first == rules; });
    if (known == tried.end()) known = tried.insert(tried.end(), {rules, again(without(options, rules))});
    if (are_one(*segments.at(separation.first), *segments.at(separation.second), known->second)) {
      merges.push_back({i, rules});
    }
  }
  return merges;
}

std::vector<Advice::SmallerBlocks> find_smaller_blocks(const Partition& partition, Options options,
                                                       const std::function<Partition(const Options&)>& again) {
  std::set<int64_t> sizes;
  int64_t left = 0;
  for (const Partition::Reason& fallback : partition.fallbacks) {
    if (!fallback.is_small) continue;
    sizes.insert(std::max<int64_t>(fallback.segment_size, 1));
    ++left;
  }
  if (sizes.empty()) return {};
  std::vector<Advice::SmallerBlocks> found;
  for (int64_t size : std::set<int64_t, std::greater<>>{*sizes.begin(), *sizes.rbegin()}) {
    options.min_block_size = size;
    int64_t taken = count_taken(partition, again(options));
    if (taken > (found.empty() ? 0 : found.back().operations)) found.push_back({size, taken, left});
  }
  return found;
}

}  // namespace

Advice advise(const Partition& partition, const Options& options,
              const std::function<Partition(const Options&)>& again) {
  return {find_merges(partition, options, again), find_smaller_blocks(partition, options, again)};
}

}  // namespace torchweld
