// Objects that a program makes for itself become the values that it puts into them.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace torchweld {

/// Removes every object (an instance of a TorchScript class) whose attributes are each set once, where it is made, and
/// of which nothing but attributes is read afterwards: readers get the value itself. Tuples that are only taken apart
/// again go with them. `graph` must be inlined.
void replace_local_objects(const std::shared_ptr<torch::jit::Graph>& graph);

}  // namespace torchweld
