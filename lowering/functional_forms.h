// In-place operators become functional ones where nothing can tell the difference.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace torchweld {

/// Rewrites `x.relu_()` to `relu(x)` when x is new memory that an operator of the same block gave, and until the write
/// nobody keeps it or looks into it; later readers of x read the result. Stricter than an alias analysis in what it
/// looks at, so it also works for values that go into lists, dicts or attributes afterwards.
void use_functional_forms(torch::jit::Graph& graph);

}  // namespace torchweld
