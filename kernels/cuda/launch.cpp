#include "kernels/cuda/launch.h"

#include <ATen/cuda/CUDAGraph.h>

#include "kernels/cuda/driver.h"

namespace torchweld::cuda {
namespace {

/// Addresses of all parameters, as cuLaunchKernel wants them.
void fill_slots(const Launch& launch, void* const* pointers, void** slots) {
  for (size_t i = 0; i < launch.pointers; ++i) slots[i] = const_cast<void**>(&pointers[i]);
  if (!launch.arguments.bytes().empty()) {
    slots[launch.pointers] = const_cast<std::byte*>(launch.arguments.bytes().data());
  }
}

}  // namespace

void end_failed_capture(at::cuda::CUDAGraph& graph) noexcept {
  try {
    graph.capture_end();
  } catch (const std::exception&) {
  }
}

void enqueue(const Launch& launch, void* const* pointers, CUstream stream, bool early_start) {
  if (launch.grid[0] == 0 || launch.grid[1] == 0 || launch.grid[2] == 0) return;
  constexpr size_t kUsual = 16;
  void* few[kUsual];
  std::vector<void*> many(launch.pointers + 1 > kUsual ? launch.pointers + 1 : 0);
  void** slots = many.empty() ? few : many.data();
  fill_slots(launch, pointers, slots);

  CUlaunchAttribute attributes[2];
  CUlaunchConfig config{};
  config.gridDimX = launch.grid[0];
  config.gridDimY = launch.grid[1];
  config.gridDimZ = launch.grid[2];
  config.blockDimX = launch.block[0];
  config.blockDimY = launch.block[1];
  config.blockDimZ = launch.block[2];
  config.sharedMemBytes = launch.shared_bytes;
  config.hStream = stream;
  config.attrs = attributes;
  if (launch.programmatic_dependent && early_start) {
    CUlaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attribute.value.programmaticStreamSerializationAllowed = 1;
  }
  if (launch.cluster > 1) {
    CUlaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attribute.value.clusterDim.x = launch.cluster;
    attribute.value.clusterDim.y = 1;
    attribute.value.clusterDim.z = 1;
  }
  check_driver(driver().launch_kernel_ex(&config, launch.function, slots, nullptr), "launch a kernel");
}

NodeParams::NodeParams(const Launch& launch, void* const* pointers) : slots_(launch.pointers + 1) {
  fill_slots(launch, pointers, slots_.data());
  params_.func = launch.function;
  params_.gridDimX = launch.grid[0];
  params_.gridDimY = launch.grid[1];
  params_.gridDimZ = launch.grid[2];
  params_.blockDimX = launch.block[0];
  params_.blockDimY = launch.block[1];
  params_.blockDimZ = launch.block[2];
  params_.sharedMemBytes = launch.shared_bytes;
  params_.kernelParams = slots_.data();
}

}  // namespace torchweld::cuda
