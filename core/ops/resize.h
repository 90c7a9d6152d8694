// Interpolation.
#pragma once

#include "core/graph.h"

namespace torchweld {

/// Resizes the spatial dimensions of x [N,C,spatial...] to `output`. Modes: nearest, nearest-exact, linear (1-3 spatial
/// dimensions: linear, bilinear, trilinear), cubic. `scales` holds the user's scale factors per spatial dimension,
/// which enter the source coordinates, or nothing where they follow from the sizes.
struct Resize {
  std::string mode = "nearest";
  Dims output;
  bool align_corners = false;
  bool antialias = false;
  std::vector<std::optional<double>> scales;

  void fields(auto&& f) {
    f("mode", mode);
    f("output", output);
    f("align_corners", align_corners);
    f("antialias", antialias);
    f("scales", scales);
  }
};

void define_resize(OpSet& ops);

}  // namespace torchweld
