// What was compiled, kept with the module.
#pragma once

#include "runtime/torchweld.h"

namespace torchweld {

/// Keeps fallbacks, share of flops and build time as an attribute of the module, so that they are saved with it.
void store_report(torch::jit::Module& module, const Report& report);
/// Throws Error for a module that Torchweld has not compiled, nor a part of it.
void require_compiled_part(const torch::jit::Module& module);
/// Reads them back. Throws Error for a module that Torchweld has not compiled.
Report stored_report(const torch::jit::Module& module);

}  // namespace torchweld
