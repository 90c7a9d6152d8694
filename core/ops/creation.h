// Importers of operators that make tensors of known elements: new_zeros, ones_like and their kin.
#pragma once

#include "core/graph.h"

namespace torchweld {

/// These operators read only sizes, dtype and device of their argument, so their results are constants, and what the
/// program does to them before they meet computed values happens at compile time. What is documented as uninitialised
/// (empty_like) holds zeros. Results of more than 2^24 elements are refused, and so run as the generic op.
void define_creation(OpSet& ops);

}  // namespace torchweld
