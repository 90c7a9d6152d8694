// A pointwise body as a list of block functions on registers.
#pragma once

#include <string>
#include <vector>

#include "core/graph.h"
#include "kernels/cpu/block_functions.h"

namespace torchweld::cpu {

constexpr int64_t kBlockBytes = 4096;

/// An input or output of the node as it is seen from the loops over the result: one stride per loop, outermost first, 0
/// where it is repeated.
struct BlockOperand {
  size_t index = 0;  ///< Which input or output of the node.
  c10::ScalarType dtype = c10::kFloat;
  Dims strides;
  bool flat = false;    ///< Element i of the loops is element i in memory.
  bool single = false;  ///< One number for all.
  int reg = -1;         ///< The register that holds its block, in its own dtype.
};

/// What runs on each block. Registers are numbered; each is a buffer of kBlockBytes, or points into a flat operand.
struct BlockProgram {
  struct Step {
    BlockFunction function = nullptr;
    int in[3] = {0, 0, 0};
    int out = 0;
  };
  struct Number {
    int reg;
    c10::ScalarType dtype;
    double real;
    int64_t integer;
  };

  Dims sizes;            ///< Of the loops.
  int64_t block = 1024;  ///< Elements.
  std::vector<BlockOperand> inputs;
  std::vector<BlockOperand> outputs;
  std::vector<Number> numbers;
  std::vector<Step> once;  ///< Steps on single operands, run before the first block.
  std::vector<Step> steps;
  std::vector<int> buffers;  ///< For each register its buffer, -1 when it points into an operand.
  int buffer_count = 0;
};

/// Translates a node that is pointwise, cast, copy, or fused without anchor. Throws Unsupported with the function or
/// dtype that has no block function.
BlockProgram compile_blocks(const Node& node);

}  // namespace torchweld::cpu
