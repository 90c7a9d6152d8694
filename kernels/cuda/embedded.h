// The device code that is built into the library as text.
#pragma once

#include <vector>

namespace torchweld::cuda {

/// One file of kernels/cuda/device: its name ("types.cuh") and its text.
struct EmbeddedHeader {
  const char* name;
  const char* text;
};

/// All files of kernels/cuda/device, by name. Written by cmake/embed.cmake at build time.
const std::vector<EmbeddedHeader>& embedded_headers();

}  // namespace torchweld::cuda
