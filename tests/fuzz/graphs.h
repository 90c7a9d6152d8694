// Random programs of the instruction set.
#pragma once

#include <cstdint>
#include <memory>

#include "core/graph.h"

namespace torchweld::test {

/// A graph that is the same for the same seed: inputs in various layouts, constants, nodes of most families with random
/// attributes, values that several nodes read, and what networks are made of (a convolution with its norm, attention
/// written out, gates ...), so that every pass has something to do. Numbers stay small, and no op jumps where its
/// operand is rounded. Its floating values are f32, or f64, f16 or bf16 for some seeds.
std::unique_ptr<Graph> random_graph(uint64_t seed);

/// The same graph with f64 for every floating dtype.
std::unique_ptr<Graph> widened(const Graph& graph);

}  // namespace torchweld::test
