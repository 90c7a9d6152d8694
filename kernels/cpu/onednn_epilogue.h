// The pointwise end of a convolution or product in the words of LibTorch's oneDNN operators.
#pragma once

#include <ATen/core/List.h>
#include <c10/core/Scalar.h>

#include <optional>
#include <string>
#include <vector>

#include "core/graph.h"

namespace torchweld::cpu {

/// result = unary(binary(anchor, other)), both parts optional.
struct Epilogue {
  std::string unary = "none";  ///< "relu", "swish" ... as mkldnn::_convolution_pointwise names it.
  std::vector<std::optional<c10::Scalar>> scalars;
  std::string algorithm;
  std::optional<size_t> other;  ///< Input of the node that is added.
};

/// A node that is an anchor, or a fused one around it.
struct Anchored {
  const Node* node = nullptr;
  const Node* anchor = nullptr;
  /// For each input of the anchor which input of the node it is.
  std::vector<size_t> inputs;
  Epilogue epilogue;

  /// The node's value behind an input of the anchor.
  Value* input(size_t i) const { return node->input(inputs.at(i)); }
};

/// Takes a node apart. Throws Unsupported where find_anchor does, or when oneDNN has no post-op for what follows.
Anchored take_apart(const Node& node, bool (*is_anchor)(const Node&));
/// The same for an anchor of op A.
template <class A>
Anchored anchored(const Node& node) {
  return take_apart(node, [](const Node& candidate) { return candidate.as<A>() != nullptr; });
}

}  // namespace torchweld::cpu
