// Strides of values behind a rewrite that lays something out differently.
#pragma once

#include <functional>
#include <unordered_set>
#include <vector>

#include "core/graph.h"

namespace torchweld {

/// The strides that a graph's outputs have now, to be given back to them after a rewrite.
class OutputStrides {
 public:
  explicit OutputStrides(const Graph& graph);
  /// Copies the outputs that have other strides now. An output with repeated elements or gaps is a view: what it is a
  /// view of is copied, and the view taken again.
  void restore(Graph& graph) const;

 private:
  struct Output {
    Dims strides;
    std::vector<Attrs> views;  // that lead from its base to it, where it is no dense tensor
    Dims base_strides;
  };
  std::vector<Output> outputs_;
};

/// Follows new strides through a graph, while a pass walks over it from the first node to the last, and gives the graph
/// outputs the strides that they had when the walk began.
class Restride {
 public:
  explicit Restride(Graph& graph) : graph_(graph), outputs_(graph) {}
  /// `value` has other strides than what stood in its place.
  void add(const Value* value) { changed_.insert(value); }
  /// Calls `rewrite` for each node behind follow(), new nodes going before it, then restore_outputs().
  void walk(const std::function<void(Node*)>& rewrite);
  /// Infers the results of a node again when it reads changed values.
  void follow(Node* node);
  /// To be called once, after the last node.
  void restore_outputs() { outputs_.restore(graph_); }

 private:
  Graph& graph_;
  OutputStrides outputs_;
  std::unordered_set<const Value*> changed_;
};

}  // namespace torchweld
