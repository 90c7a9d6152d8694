// Strides of values behind a rewrite that lays something out differently.
#pragma once

#include <unordered_set>
#include <vector>

#include "core/graph.h"

namespace torchweld {

/// Follows new strides through a graph, while a pass walks over it from the first node to the last, and gives the graph
/// outputs the strides that they had when the walk began.
class Restride {
 public:
  explicit Restride(Graph& graph);
  /// `value` has other strides than what stood in its place.
  void add(const Value* value) { changed_.insert(value); }
  /// Infers the results of a node again when it reads changed values.
  void follow(Node* node);
  /// To be called once, after the last node.
  void restore_outputs();

 private:
  Graph& graph_;
  std::vector<TensorType> outputs_;
  std::unordered_set<const Value*> changed_;
};

}  // namespace torchweld
