// Softmax and its logarithm.
#pragma once

#include "core/graph.h"

namespace torchweld {

/// exp(x - max(x)) / sum(exp(x - max(x))) along one axis, or (log) x - max(x) - log(sum(exp(x - max(x)))). In f32
/// inside.
struct Softmax {
  int64_t axis = 0;
  bool log = false;
  void fields(auto&& f) {
    f("axis", axis);
    f("log", log);
  }
};

void define_softmax(OpSet& ops);

}  // namespace torchweld
