// Memory that a block writes in place, and what touches it.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <set>
#include <vector>

#include "lowering/memory.h"

namespace torchweld {

/// Memory that is written, and the nodes that touch it.
struct WrittenGroup {
  Memory::Class memory;
  bool is_tensor = false;
  std::vector<torch::jit::Node*> nodes;
  std::set<const torch::jit::Value*> given_back;  ///< As results of the block.
  bool stays = false;                             ///< LibTorch keeps it.
};

/// All written memory that a node of the block touches, or that the block gives back.
std::vector<WrittenGroup> find_written(torch::jit::Block* block, const Memory& memory);
/// True when the node reads or gives memory that some node writes.
bool touches_written(const torch::jit::Node* node, const Memory& memory);
/// True for an operator that reads the memory and gives new memory: it may run between writes.
bool only_reads(const torch::jit::Node* node, Memory::Class of, const Memory& memory);

}  // namespace torchweld
