// What plans depend on of a device.
#pragma once

#include <c10/core/Device.h>

#include <string>

namespace torchweld {

/// "NVIDIA H100 80GB HBM3, sm_90" or "cpu, AVX512, 2 threads".
std::string device_name(c10::Device device);
/// Whether the device multiplies f16 and bf16 matrices in hardware: CUDA from compute capability 8.0 on.
bool has_tensor_cores(c10::Device device);
/// Waits until a GPU has done what the current stream has been given. What is computed for plans is used on others.
void wait_for_current_stream(c10::Device device);

}  // namespace torchweld
