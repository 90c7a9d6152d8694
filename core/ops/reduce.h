// Reductions over some dimensions.
#pragma once

#include "core/graph.h"

namespace torchweld {

/// One number per remaining position. Kinds: sum mean prod amax amin all any argmax argmin var std logsumexp norm.
/// f16 and bf16 are summed in f32; var and std in two passes; NaN wins in amax and amin. argmax and argmin take one
/// axis and give i64; all and any give b8. A scalar index into all elements is argmax over a reshape to one dimension.
struct Reduce {
  std::string kind = "sum";
  Dims axes;  ///< Ascending, non-negative. Empty for a 0-d input.
  bool keepdim = false;
  double parameter = 0;  ///< var, std: the correction. norm: the order p.

  void fields(auto&& f) {
    f("kind", kind);
    f("axes", axes);
    f("keepdim", keepdim);
    f("parameter", parameter);
  }
};

void define_reduce(OpSet& ops);

}  // namespace torchweld
