// cudnn_frontend.h names NVRTC functions directly, for an engine that we do not use. These hidden ones keep the library
// from needing libnvrtc when it is loaded.
#pragma GCC visibility push(hidden)
#include <nvrtc.h>
#pragma GCC visibility pop

#include "kernels/cuda/driver.h"

using torchweld::cuda::nvrtc;

nvrtcResult nvrtcCreateProgram(nvrtcProgram* program, const char* text, const char* name, int headers,
                               const char* const* texts, const char* const* names) {
  return nvrtc().create_program(program, text, name, headers, texts, names);
}
nvrtcResult nvrtcDestroyProgram(nvrtcProgram* program) { return nvrtc().destroy_program(program); }
nvrtcResult nvrtcCompileProgram(nvrtcProgram program, int count, const char* const* options) {
  return nvrtc().compile_program(program, count, options);
}
nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram program, size_t* size) {
  return nvrtc().get_program_log_size(program, size);
}
nvrtcResult nvrtcGetProgramLog(nvrtcProgram program, char* log) { return nvrtc().get_program_log(program, log); }
nvrtcResult nvrtcGetCUBINSize(nvrtcProgram program, size_t* size) { return nvrtc().get_cubin_size(program, size); }
nvrtcResult nvrtcGetCUBIN(nvrtcProgram program, char* code) { return nvrtc().get_cubin(program, code); }
