// The pointwise end of a convolution or product, as own kernels run it.
#pragma once

#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "core/graph.h"
#include "kernels/cpu/block_runner.h"

namespace torchweld::cpu {

/// result = rest(clamp(sums + added, low, high)), all parts optional. NaN is kept.
struct Tail {
  const Node* anchor = nullptr;
  /// For each input of the anchor which input of the node it is.
  std::vector<size_t> inputs;
  std::optional<size_t> added;  ///< Input of the node, laid out as the result.
  float low = -std::numeric_limits<float>::infinity();
  float high = std::numeric_limits<float>::infinity();
  /// What else follows, as a program whose input 0 is the clamped sums, laid out as the result, which it may overwrite;
  /// null for nothing.
  std::shared_ptr<const BlockRunner> rest;
  std::vector<size_t> rest_inputs;  ///< Inputs of the node behind inputs 1, 2 ... of the program.
};

/// Takes a node apart. Throws Unsupported where find_anchor does, or when what follows the anchor has no block
/// functions.
Tail take_tail(const Node& node, bool (*is_anchor)(const Node&));
/// The same for an anchor of op A.
template <class A>
Tail tail_of(const Node& node) {
  return take_tail(node, [](const Node& candidate) { return candidate.as<A>() != nullptr; });
}

}  // namespace torchweld::cpu
