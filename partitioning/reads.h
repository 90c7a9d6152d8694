// What nodes read, and which of it a segment can be given.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <vector>

#include "partitioning/partition.h"

namespace torchweld {

bool is_tensor(const torch::jit::Value* value);
/// True when a segment can take the value from outside: a tensor on its device, number, string, device, one of these or
/// None, or a list or tuple of numbers and strings.
bool can_be_input(const torch::jit::Value* value, const Partition& partition);
/// True when a value that `node` (neutral) computes can be computed again inside a segment.
bool can_be_copied(const torch::jit::Node* node, const Partition& partition);
/// Values that a node reads, those read inside its blocks but computed outside included.
std::vector<const torch::jit::Value*> values_read(const torch::jit::Node* node);

}  // namespace torchweld
