// The CUDA driver and NVRTC, reached at run time: the library loads on machines that have neither.
#pragma once

#include <cuda.h>
#include <nvrtc.h>

#include <string>

namespace torchweld::cuda {

/// Functions of libcuda.
struct Driver {
  decltype(&cuGetErrorString) get_error_string;
  decltype(&cuModuleLoadData) module_load_data;
  decltype(&cuModuleGetFunction) module_get_function;
  decltype(&cuFuncSetAttribute) func_set_attribute;
  decltype(&cuFuncGetAttribute) func_get_attribute;
  decltype(&cuLaunchKernelEx) launch_kernel_ex;
  decltype(&cuGraphExecKernelNodeSetParams) graph_exec_kernel_node_set_params;
};

/// The driver's functions. Throws UnavailableError where no driver is installed.
const Driver& driver();
/// Throws InternalError with the driver's words when `result` is an error. `doing` completes "the CUDA driver failed
/// to".
void check_driver(CUresult result, const std::string& doing);

/// Functions of NVRTC.
struct Nvrtc {
  decltype(&nvrtcVersion) version;
  decltype(&nvrtcGetErrorString) get_error_string;
  decltype(&nvrtcGetNumSupportedArchs) get_num_supported_archs;
  decltype(&nvrtcGetSupportedArchs) get_supported_archs;
  decltype(&nvrtcCreateProgram) create_program;
  decltype(&nvrtcDestroyProgram) destroy_program;
  decltype(&nvrtcCompileProgram) compile_program;
  decltype(&nvrtcGetProgramLogSize) get_program_log_size;
  decltype(&nvrtcGetProgramLog) get_program_log;
  decltype(&nvrtcGetCUBINSize) get_cubin_size;
  decltype(&nvrtcGetCUBIN) get_cubin;
};

/// NVRTC's functions: the library already in the process, else the one beside LibTorch's CUDA runtime. Throws
/// UnavailableError where there is none; a GPU or driver is not needed.
const Nvrtc& nvrtc();

}  // namespace torchweld::cuda
