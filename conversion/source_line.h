// Where in the user's Python source a TorchScript node comes from.
#pragma once

#include <string>

namespace torch::jit {
struct Node;
}

namespace torchweld {

/// "model.py:12" of the innermost frame outside torch's own modules, or of the innermost frame at all; empty when
/// unknown.
std::string source_line(const torch::jit::Node* node);

}  // namespace torchweld
