// What plans for other shapes chose.
#pragma once

#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "conversion/plan.h"
#include "core/graph.h"

namespace torchweld {

/// The same number for a layer in plans of its module for different shapes: it is of operations, dtypes and constants,
/// not of sizes. Others may have it too, among them nodes that differ in attributes only.
size_t likeness_of(const Node& node);

/// The choices of some plans, to be tried first for nodes like theirs: code has been compiled for these and weights
/// have been packed.
class Precedents {
 public:
  /// A tactic with the configurations that plans have of it for one node.
  struct Known {
    std::string tactic;
    std::set<std::string> configs;
  };

  /// Tactics of plans that are added first come first. Those of LibTorch and of libraries are left out: calls that wait
  /// take the former where there is nothing else, and never the latter.
  void add(const Plan& plan);
  /// Null where no plan had such a node as a step, by a tactic that counts.
  const std::vector<Known>* find(const Node& node) const;

 private:
  std::unordered_map<size_t, std::vector<Known>> known_;
};

}  // namespace torchweld
