// What looks at constants have shown, by where their numbers come from.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "core/lazy_tensor.h"

namespace torchweld {

/// Whether something holds of numbers of this origin, as remember_fact() was told; nothing where it was not, where the
/// origin is not known (empty), and for a plan that no call waits for (see WithoutCompiler): that one looks itself.
std::optional<bool> known_fact(const std::string& origin, const std::string& question);
void remember_fact(const std::string& origin, const std::string& question, bool answer);

/// The answer of `look` at the tensor, or the one remembered. On a GPU a look waits for the device.
bool fact(const LazyTensor& constant, const std::string& question, const std::function<bool(const at::Tensor&)>& look);

}  // namespace torchweld
