// Attention nodes, and layer norms in one with linear layers, for tests of CUDA kernels.
#pragma once

#include "tests/cuda/nodes.h"

namespace torchweld::cuda_tests {

/// Nodes of odd and even sizes, with each kind of mask, and operands that lie as slices of joined projections, as
/// contiguous heads, or with their head dimension apart.
std::vector<Case> attention_nodes(c10::ScalarType dtype, c10::Device device);
/// Nodes some of whose rows have no column that takes part.
std::vector<Case> attention_nodes_with_dead_rows(c10::ScalarType dtype, c10::Device device);

/// Blocks of a layer norm and the linear layer behind it, with and without the normalised tensor as a result.
std::vector<Case> normed_linears(c10::ScalarType dtype, c10::Device device, bool constants_on_device);

}  // namespace torchweld::cuda_tests
