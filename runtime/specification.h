// The caller's inputs, checked and filled in.
#pragma once

#include "runtime/torchweld.h"

namespace torchweld {

/// Arguments of a method for the shapes that matter: opt first, then, when a dimension has a range, min and max. Every
/// tensor is a meta tensor of the right sizes and dtype.
struct Specification {
  c10::Device device = c10::kCPU;
  std::vector<std::vector<c10::IValue>> arguments;
};

/// Checks `signature` against the method's arguments and the module's device. Throws Error saying what is wrong and
/// what to change: too few or too many inputs, empty or differing ranks, min > opt, opt > max, sizes below 1, an
/// unknown device, weights elsewhere than the inputs, a precision that the device lacks.
Specification specify(const torch::jit::Module& module, const std::string& method, const Signature& signature,
                      const Options& options);

/// A copy that can be rewritten, with weights of its own: what shares memory in `module` does so in the copy. A module
/// in training mode is copied in eval mode, with a warning. Throws Error for a module with forward hooks of its own.
torch::jit::Module clone_for_inference(const torch::jit::Module& module);

}  // namespace torchweld
