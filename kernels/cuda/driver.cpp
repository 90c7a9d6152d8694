#include "kernels/cuda/driver.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "core/error.h"

namespace torchweld::cuda {
namespace {

namespace fs = std::filesystem;

template <class F>
void resolve(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (!function) throw UnavailableError(std::string("the CUDA library at hand lacks the function ") + name);
}

Driver load_driver() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  if (!library)
    throw UnavailableError("no CUDA driver is installed (libcuda.so.1 cannot be loaded); install the NVIDIA driver");
  Driver d{};
  resolve(library, "cuGetErrorString", d.get_error_string);
  resolve(library, "cuModuleLoadData", d.module_load_data);
  resolve(library, "cuModuleGetFunction", d.module_get_function);
  resolve(library, "cuFuncSetAttribute", d.func_set_attribute);
  resolve(library, "cuFuncGetAttribute", d.func_get_attribute);
  resolve(library, "cuLaunchKernelEx", d.launch_kernel_ex);
  resolve(library, "cuGraphExecKernelNodeSetParams_v2", d.graph_exec_kernel_node_set_params);
  return d;
}

/// The folder of the CUDA runtime that LibTorch uses; NVRTC comes in the same one.
fs::path runtime_folder() {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<void*>(&cudaRuntimeGetVersion), &info) || !info.dli_fname) return {};
  return fs::path(info.dli_fname).parent_path();
}

/// Files of `folder` whose names start with `prefix` and hold ".so", the newest version last.
std::vector<std::string> libraries_in(const fs::path& folder, const std::string& prefix) {
  std::vector<std::string> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    std::string name = entry.path().filename().string();
    bool alternative = name.find(".alt.") != std::string::npos;
    if (name.starts_with(prefix) && name.find(".so") != std::string::npos && !alternative)
      found.push_back(entry.path().string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// NVRTC opens its libnvrtc-builtins by bare name, which finds it only when it is loaded already.
void load_builtins(const fs::path& folder) {
  for (const std::string& path : libraries_in(folder, "libnvrtc-builtins"))
    dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
}

void* open_nvrtc() {
  fs::path folder = runtime_folder();
  std::vector<std::string> candidates;
  for (const std::string& path : libraries_in(folder, "libnvrtc")) {
    if (path.find("builtins") == std::string::npos) candidates.insert(candidates.begin(), path);
  }
  std::string wanted = "libnvrtc.so." + std::to_string(CUDART_VERSION / 1000);
  candidates.push_back(wanted);
  for (const std::string& name : candidates) {
    void* library = dlopen(name.c_str(), RTLD_NOW);
    if (!library) continue;
    Dl_info info{};
    if (dladdr(dlsym(library, "nvrtcVersion"), &info) && info.dli_fname)
      load_builtins(fs::path(info.dli_fname).parent_path());
    return library;
  }
  throw UnavailableError("device code cannot be compiled: " + wanted +
                         " was found neither beside the CUDA runtime in " + folder.string() +
                         " nor by the dynamic loader");
}

Nvrtc load_nvrtc() {
  void* library = open_nvrtc();
  Nvrtc n{};
  resolve(library, "nvrtcVersion", n.version);
  resolve(library, "nvrtcGetErrorString", n.get_error_string);
  resolve(library, "nvrtcGetNumSupportedArchs", n.get_num_supported_archs);
  resolve(library, "nvrtcGetSupportedArchs", n.get_supported_archs);
  resolve(library, "nvrtcCreateProgram", n.create_program);
  resolve(library, "nvrtcDestroyProgram", n.destroy_program);
  resolve(library, "nvrtcCompileProgram", n.compile_program);
  resolve(library, "nvrtcGetProgramLogSize", n.get_program_log_size);
  resolve(library, "nvrtcGetProgramLog", n.get_program_log);
  resolve(library, "nvrtcGetCUBINSize", n.get_cubin_size);
  resolve(library, "nvrtcGetCUBIN", n.get_cubin);
  return n;
}

}  // namespace

const Driver& driver() {
  static const Driver instance = load_driver();
  return instance;
}

const Nvrtc& nvrtc() {
  static const Nvrtc instance = load_nvrtc();
  return instance;
}

void check_driver(CUresult result, const std::string& doing) {
  if (result == CUDA_SUCCESS) return;
  const char* words = nullptr;
  driver().get_error_string(result, &words);
  throw InternalError("the CUDA driver failed to " + doing + ": " + (words ? words : "unknown error"));
}

}  // namespace torchweld::cuda
