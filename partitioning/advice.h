// Which settings would give fewer, larger segments: each is tried out by partitioning again, none is guessed.
#pragma once

#include <functional>
#include <vector>

#include "partitioning/partition.h"

namespace torchweld {

/// What other options would do to a partition.
struct Advice {
  struct Merge {
    size_t separation;                 ///< Place in Partition::separations.
    std::vector<ExclusionRule> rules;  ///< Without all of them the two segments are one.
  };
  std::vector<Merge> merges;
  /// A smaller min_block_size takes in `operations` of the `left` ones that the present one leaves to LibTorch.
  struct SmallerBlocks {
    int64_t min_block_size = 0;
    int64_t operations = 0;
    int64_t left = 0;
  };
  /// First for the largest of the small segments, then, where it takes in more, for the smallest.
  std::vector<SmallerBlocks> smaller_blocks;
};

/// Tries out other options than `options`, of which `partition` is the result; `again` partitions the same graph.
Advice advise(const Partition& partition, const Options& options,
              const std::function<Partition(const Options&)>& again);

}  // namespace torchweld
