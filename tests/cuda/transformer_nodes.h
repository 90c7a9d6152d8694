// Attention nodes, lookups in tables, and norms after pointwise nodes or between linear layers, for tests of CUDA
// kernels.
#pragma once

#include "tests/cuda/nodes.h"

namespace torchweld::cuda_tests {

/// Nodes of odd and even sizes, with each kind of mask, and operands that lie as slices of joined projections, as
/// contiguous heads, or with their head dimension apart.
std::vector<Case> attention_nodes(c10::ScalarType dtype, c10::Device device);
/// Attention of BERT-base (with a mask), GPT-2 and ViT-B/16 at batch 1.
std::vector<Case> encoder_attention(c10::ScalarType dtype, c10::Device device);
/// Nodes some of whose rows have no column that takes part.
std::vector<Case> attention_nodes_with_dead_rows(c10::ScalarType dtype, c10::Device device);

/// Blocks of a linear layer, a layer norm and a linear layer; the first two results are read by others too, or not.
std::vector<Case> deferred_norms(c10::ScalarType dtype, c10::Device device, bool constants_on_device);

/// Takes of rows by themselves and in fused pointwise nodes. The first input of each is a tensor of `dtype`.
std::vector<Case> lookups(c10::ScalarType dtype, c10::Device device, bool constants_on_device);
/// Norms and a softmax of rows that pointwise nodes and takes ahead of them compute; some are results too. `dtype` is
/// not f64, whose rows are not held.
std::vector<Case> computed_rows(c10::ScalarType dtype, c10::Device device, bool constants_on_device);

}  // namespace torchweld::cuda_tests
