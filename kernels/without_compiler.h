// Kernels built from the machine code that is there, for calls that wait for a plan.
#pragma once

namespace torchweld {

/// While one is alive on a thread, no kernel that is built there waits for a compiler: what has not been compiled, or
/// is being compiled by another thread, throws Unsupported.
class WithoutCompiler {
 public:
  WithoutCompiler();
  ~WithoutCompiler();
  WithoutCompiler(const WithoutCompiler&) = delete;
  WithoutCompiler& operator=(const WithoutCompiler&) = delete;
  /// Whether one is alive on this thread.
  static bool is_alive();

 private:
  bool before_;
};

}  // namespace torchweld
