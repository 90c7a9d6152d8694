// What is known about every TorchScript node and value before anything runs: an abstract run of the whole graph.
#pragma once

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

#include <functional>
#include <unordered_map>
#include <unordered_set>

#include "conversion/import.h"
#include "core/options.h"

namespace torchweld {

/// Result of a probe.
struct Probe {
  std::unordered_map<const torch::jit::Node*, NodeOutcome> outcomes;  ///< Nodes that were reached.
  /// Types of tensors where they are known for sure; a value computed several times (in a loop) has one
  /// when it is always the same.
  std::unordered_map<const torch::jit::Value*, TensorType> types;
  /// The same for plain values (see core/plain_value.h). Lists are as they were when computed, arguments as the graph
  /// leaves them.
  std::unordered_map<const torch::jit::Value*, c10::IValue> plain_values;
  std::unordered_set<const torch::jit::Value*> symbolic;  ///< Tensors whose elements are known only at run time.
  /// Known tensors on another device than the engines': a segment can neither take one nor give it.
  std::unordered_set<const torch::jit::Value*> elsewhere;
  double flops = 0;  ///< Of everything that could be imported.

  /// Calls `visit` for the outcomes of the node and of the nodes in its blocks that were imported.
  void visit_imported(const torch::jit::Node* node, const std::function<void(const NodeOutcome&)>& visit) const;
  /// Of the node and of the nodes in its blocks.
  double flops_of(const torch::jit::Node* node) const;
};

/// An entry of torch_executed_ops or torch_executed_modules.
struct ExclusionRule {
  std::string option;
  std::string entry;
  std::string text() const { return option + " names " + entry; }
  bool operator==(const ExclusionRule&) const = default;
};
/// The first entry by which the user wants a node in LibTorch; nothing when none does.
std::optional<ExclusionRule> exclusion_rule(const torch::jit::Node* node, const Options& options);

/// One sentence for each entry of torch_executed_ops and torch_executed_modules that names nothing in the methods of
/// `module`, with the names that come nearest.
std::vector<std::string> idle_rules(const torch::jit::Module& module, const Options& options);

/// What a module writes of its attributes, by the nodes that read them; see ImportObserver.
struct Writes {
  std::function<bool(const torch::jit::Node*)> written;
  std::function<bool(const torch::jit::Node*)> keeps_type;
};

/// Interprets `graph` with `arguments` (its module, then concrete values, and tensors whose type alone counts) by the
/// same code that conversion runs, but for what the options' rules leave to LibTorch: once with likely results where
/// nothing is known (sizes that depend on data, say), for what can be imported and how much it computes, once without,
/// for types. What `writes` says of nodes that read attributes: those which the module writes are left out.
Probe probe(const torch::jit::Graph& graph, const std::vector<c10::IValue>& arguments, c10::Device device,
            const Options& options, const Writes& writes);

}  // namespace torchweld
