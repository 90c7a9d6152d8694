// Ops that pick elements by index tensors.
#pragma once

#include "core/graph.h"

namespace torchweld {

/// Rows of x along one axis: output [x before axis..., index..., x behind axis...]. Inputs: x and index (i64 or i32,
/// any rank). With `wraps`, index -1 is the last row; without, negative numbers are out of range. An index out of range
/// is an error of LibTorch's on the CPU and a device-side assertion on CUDA.
struct Take {
  int64_t axis = 0;
  bool wraps = false;
  void fields(auto&& f) {
    f("axis", axis);
    f("wraps", wraps);
  }
};

/// output[i][j][k] = x[i][index[i][j][k]][k] (for axis 1). Inputs: x and index (i64), of one rank; index is nowhere
/// larger than x but along the axis. Output has the sizes of index.
struct Gather {
  int64_t axis = 0;
  void fields(auto&& f) { f("axis", axis); }
};

/// Rows of weight [V,E] picked by indices [K] and combined in bags: bag i begins at offsets[i] and ends where the next
/// begins (offsets [B], or [B+1] with include_last_offset). Modes: 0 sum, 1 mean, 2 max. Rows of number padding_idx
/// take no part (-1: all do). Inputs: weight, indices, offsets and, for sums, optionally a factor per index. Output
/// [B,E]; an empty bag gives zeros.
struct EmbeddingBag {
  int64_t mode = 0;
  bool include_last_offset = false;
  int64_t padding_idx = -1;
  void fields(auto&& f) {
    f("mode", mode);
    f("include_last_offset", include_last_offset);
    f("padding_idx", padding_idx);
  }
};

void define_index(OpSet& ops);

}  // namespace torchweld
