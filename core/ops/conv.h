// Convolutions of one to three spatial dimensions.
#pragma once

#include "core/graph.h"

namespace torchweld {

/// Cross-correlation. Inputs: x [N,C,spatial...], weight [K,C/groups,kernel...] (transposed: [C,K/groups,kernel...])
/// and optionally bias [K]. Output [N,K,spatial...], with floor((size + 2 pad - dilation (kernel-1) - 1) / stride) + 1
/// per spatial dimension (transposed: (size-1) stride - 2 pad + dilation (kernel-1) + output_padding + 1). Lists hold
/// one number per spatial dimension. Sums in f32 (f64 for f64).
struct Conv {
  Dims stride;
  Dims padding;
  Dims dilation;
  int64_t groups = 1;
  bool transposed = false;
  Dims output_padding;

  void fields(auto&& f) {
    f("stride", stride);
    f("padding", padding);
    f("dilation", dilation);
    f("groups", groups);
    f("transposed", transposed);
    f("output_padding", output_padding);
  }
};

/// The channels of a picture are at most so many.
constexpr int64_t kPictureChannels = 4;
/// True for the first convolution of a net for pictures: two spatial dimensions, few channels, no groups, no dilation.
bool is_stem(const Conv& conv, const TensorType& weight);

void define_conv(OpSet& ops);

}  // namespace torchweld
