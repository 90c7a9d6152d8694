// Runs a block program over a range of elements.
#pragma once

#include <span>

#include "kernels/cpu/block_program.h"

namespace torchweld::cpu {

/// A program ready to run; immutable, so that many threads may run it at once.
class BlockRunner {
 public:
  explicit BlockRunner(BlockProgram program) : program_(std::move(program)) {}

  /// Elements begin..end of the loops. `in` and `out` are the data of the node's inputs and outputs; those that the
  /// program does not read may be null. An output may be the memory of an input that is laid out alike.
  void run(std::span<const void* const> in, std::span<void* const> out, int64_t begin, int64_t end) const;

  const BlockProgram& program() const { return program_; }

 private:
  BlockProgram program_;
};

}  // namespace torchweld::cpu
