// Pooling windows of one to three spatial dimensions.
#pragma once

#include "core/graph.h"

namespace torchweld {

/// Largest element of each window of x [N,C,spatial...]; padding never wins; NaN wins. One number per spatial
/// dimension.
struct MaxPool {
  Dims kernel;
  Dims stride;
  Dims padding;
  Dims dilation;
  bool ceil_mode = false;

  void fields(auto&& f) {
    f("kernel", kernel);
    f("stride", stride);
    f("padding", padding);
    f("dilation", dilation);
    f("ceil_mode", ceil_mode);
  }
};

/// Mean of each window of x [N,C,spatial...]. The divisor is divisor_override when not 0, else the window's size with
/// (count_include_pad) or without the padding inside it. Sums in f32 (f64 for f64).
struct AvgPool {
  Dims kernel;
  Dims stride;
  Dims padding;
  bool ceil_mode = false;
  bool count_include_pad = true;
  int64_t divisor_override = 0;

  void fields(auto&& f) {
    f("kernel", kernel);
    f("stride", stride);
    f("padding", padding);
    f("ceil_mode", ceil_mode);
    f("count_include_pad", count_include_pad);
    f("divisor_override", divisor_override);
  }
};

/// Mean (or largest element) of the window [floor(i in/out), ceil((i+1) in/out)) per spatial dimension, so that the
/// output has the spatial sizes `output`.
struct AdaptivePool {
  std::string kind = "avg";  ///< "avg" or "max"
  Dims output;

  void fields(auto&& f) {
    f("kind", kind);
    f("output", output);
  }
};

/// Numbers for `count` spatial dimensions, of which a program may give one for all.
Dims spread(Dims list, size_t count);

void define_pool(OpSet& ops);

}  // namespace torchweld
