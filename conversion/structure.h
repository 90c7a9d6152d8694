// The instructions of LibTorch's interpreter that build and take apart lists, tuples and dicts: they are no operators,
// and LibTorch does not export them.
#pragma once

#include <ATen/core/ivalue.h>
#include <ATen/core/jit_type.h>

#include <optional>
#include <vector>

namespace torch::jit {
struct Node;
}

namespace torchweld {

/// Results of a structural node on these inputs; nothing when the node is of another kind. Throws Unsupported when a
/// list has another length than the node unpacks.
std::optional<std::vector<c10::IValue>> run_structural(const torch::jit::Node* node, std::vector<c10::IValue> inputs);

}  // namespace torchweld
