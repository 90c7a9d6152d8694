// Who may change LibTorch's types.
#pragma once

#include <functional>
#include <memory>

namespace torchweld {

/// To be held while modules or methods are made: LibTorch's compilation units, which own their types, are not safe for
/// threads, and all modules that Python scripts or traces share one. Released by the last copy, on the same thread.
[[nodiscard]] std::shared_ptr<void> lock_units();

/// What lock_units() takes from now on in place of a mutex of its own. In Python LibTorch changes its unit under the
/// GIL, so that the bindings give that (a Python without a GIL is not supported).
void set_unit_lock(std::function<std::shared_ptr<void>()> take);

}  // namespace torchweld
