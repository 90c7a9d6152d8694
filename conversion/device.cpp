#include "conversion/device.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#ifdef TORCHWELD_WITH_CUDA
#include <ATen/cuda/CUDAContext.h>
#endif

namespace torchweld {

std::string device_name(c10::Device device) {
#ifdef TORCHWELD_WITH_CUDA
  if (device.is_cuda()) {
    const cudaDeviceProp* properties = at::cuda::getDeviceProperties(device.index());
    return std::string(properties->name) + ", sm_" + std::to_string(properties->major) +
           std::to_string(properties->minor);
  }
#endif
  (void)device;
  return "cpu, " + at::get_cpu_capability() + ", " + std::to_string(at::get_num_threads()) + " threads";
}

bool has_tensor_cores(c10::Device device) {
#ifdef TORCHWELD_WITH_CUDA
  if (device.is_cuda()) return at::cuda::getDeviceProperties(device.index())->major >= 8;
#endif
  (void)device;
  return false;
}

void wait_for_current_stream(c10::Device device) {
  if (device.is_cpu()) return;
  c10::impl::VirtualGuardImpl guard(device.type());
  guard.synchronizeStream(guard.getStream(device));
}

}  // namespace torchweld
