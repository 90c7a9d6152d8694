// The pointwise nodes after a product, as device code that reads its operands long before it uses them.
#pragma once

#include <string>

#include "kernels/cuda/codegen.h"

namespace torchweld::cuda {

/// `struct Elements` with the pointers to the operands of `loops` and, for V neighbouring positions of the last loop:
///   Early<V>                                    the inputs of these positions as they lie in memory
///   fetch<V>(early, position, last)             starts reading them; nothing waits for them yet
///   run<V>(acc, early, position, last)          computes the outputs from the values `acc` of `given`, writes them,
///                                               and leaves the first in acc
/// `position` counts the positions of all loops but the last. V is at most loops.width, and starts at a multiple of V.
/// An output of some positions of the last loop (Operand::begin) is written where V of them begin; the bounds must be
/// multiples of loops.width. Make the object by emit_elements_object. The parameter struct must be called Params, the
/// index type I, and Params needs `tw::Size<I> size[loops.sizes.size() - 1]` for the loops but the last.
std::string emit_staged_elements(const Body& body, const Loops& loops, const Value* given);

}  // namespace torchweld::cuda
