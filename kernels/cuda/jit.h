// Device code from source text to a function on a device: NVRTC, an on-disk cache of machine code, loaded modules.
#pragma once

#include <cuda.h>

#include <string>
#include <utility>
#include <vector>

namespace torchweld::cuda {

/// A kernel as text. It may include the embedded headers (kernels/cuda/device) and nothing else; its entry point is
/// `extern "C" __global__ void kernel(...)`. Equal texts are compiled once.
struct Program {
  std::string name;  ///< What reports call it, e.g. "pointwise".
  std::string text;
  /// Results are rounded to 16 bits: divisions and square roots may be 2 units of f32 off, and cost less.
  bool coarse = false;

  bool operator==(const Program&) const = default;
};

/// The name by which NVRTC knows an architecture, from a device's compute capability: "sm_80", "sm_90a".
std::string arch_name(int major, int minor);
/// The same for a CUDA device of this machine.
std::string arch_of_device(int device);

/// Machine code for `arch`: from memory, else from the folder of TORCHWELD_CACHE, else compiled and stored in both.
/// Threads that ask for the same program wait for one compilation. Throws InternalError with the compiler's log,
/// UnavailableError without NVRTC, or Unsupported where it would have to wait beside a WithoutCompiler. Returns the key
/// under which the code is kept.
std::string compile(const Program& program, const std::string& arch);
/// The key of the program's machine code for a CUDA device of this machine, whether there is any or not.
std::string key_of(const Program& program, int device);
/// True when machine code of the program for a CUDA device of this machine is in memory. Waits for no compiler.
bool is_compiled(const Program& program, int device);
/// True when load() has been called for the program on that device.
bool is_loaded(const Program& program, int device);
/// Compiles without any cache and returns the log of the assembler (registers, spills) beside the machine code.
struct Compiled {
  std::string cubin;
  std::string log;
};
Compiled compile_afresh(const Program& program, const std::string& arch);

/// The entry point of the program on a device, which stays loaded until the process ends. `shared_bytes` is the dynamic
/// shared memory it will be launched with, `cluster` the number of blocks per cluster.
struct Function {
  CUfunction handle = nullptr;
  std::string cubin;
};
Function load(const Program& program, int device, unsigned shared_bytes = 0, unsigned cluster = 1);

/// Machine code of these keys, for a saved module; unknown keys are left out.
std::vector<std::pair<std::string, std::string>> export_cubins(const std::vector<std::string>& keys);
/// Makes machine code of a saved module known. Keys name source, compiler and architecture, so code of another version
/// or GPU is never asked for. An entry that is known already stays.
void import_cubins(const std::vector<std::pair<std::string, std::string>>& cubins);

}  // namespace torchweld::cuda
