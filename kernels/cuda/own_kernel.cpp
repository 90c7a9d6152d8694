#include "kernels/cuda/own_kernel.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>

#include <algorithm>

#include "core/environment.h"
#include "core/error.h"
#include "kernels/without_compiler.h"

namespace torchweld::cuda {
namespace {

ProgramSink& sink() {
  thread_local ProgramSink current;
  return current;
}

}  // namespace

OwnKernel::OwnKernel(Launch launch, std::vector<size_t> packed, std::vector<at::Tensor> constants)
    : launch_(std::move(launch)), packed_(std::move(packed)), constants_(std::move(constants)) {}

void OwnKernel::run(const StepArgs& args) const {
  constexpr size_t kUsual = 16;
  void* few[kUsual];
  std::vector<void*> many(launch_.pointers > kUsual ? launch_.pointers : 0);
  void** pointers = many.empty() ? few : many.data();
  size_t count = 0;
  for (size_t i = 0; i < args.in.size(); ++i) {
    bool skipped = std::find(packed_.begin(), packed_.end(), i) != packed_.end();
    if (!skipped) pointers[count++] = args.in[i]->data_ptr();
  }
  for (const at::Tensor* out : args.out) pointers[count++] = out->data_ptr();
  check(count == launch_.pointers, "number of data pointers of a kernel");
  enqueue(launch_, pointers, static_cast<CUstream>(args.stream), args.early_start);
}

void expect_compiled(const Program& program, const Node& node) {
  if (!WithoutCompiler::is_alive() || is_collecting()) return;
  int device = device_of(node);
  if (!is_loaded(program, device)) compile(program, arch_of_device(device));
}

Launch make_launch(const Program& program, const Shape& shape, Arguments arguments, size_t pointers, int device) {
  expect(shape.blocks < (int64_t{1} << 31) && shape.blocks_y < (1 << 16),
         "more blocks are needed than a launch can have");
  Launch launch;
  launch.grid[0] = static_cast<unsigned>(shape.blocks);
  launch.grid[1] = static_cast<unsigned>(shape.blocks_y);
  launch.block[0] = shape.threads;
  launch.shared_bytes = shape.shared_bytes;
  launch.cluster = shape.cluster;
  launch.pointers = pointers;
  arguments.finish();
  launch.arguments = std::move(arguments);
  launch.programmatic_dependent = true;
  if (sink()) {
    sink()(program);
    return launch;
  }
  Function function = load(program, device, shape.shared_bytes, shape.cluster);
  launch.function = function.handle;
  launch.cubin = function.cubin;
  int major = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  launch.programmatic_dependent = major >= 9 && environment("TORCHWELD_EARLY_START") != "0";
  return launch;
}

std::unique_ptr<Kernel> make_own_kernel(const Node& node, const Program& program, const Shape& shape,
                                        Arguments arguments, std::vector<size_t> packed,
                                        std::vector<at::Tensor> constants) {
  size_t pointers = node.inputs().size() - packed.size() + node.outputs().size();
  int device = is_collecting() ? 0 : device_of(node);
  return std::make_unique<OwnKernel>(make_launch(program, shape, std::move(arguments), pointers, device),
                                     std::move(packed), std::move(constants));
}

int device_of(const Node& node) {
  c10::Device device = node.output()->type.device;
  return device.has_index() ? device.index() : c10::cuda::current_device();
}

bool lies_channels_last(const TensorType& result, const TensorType& x) {
  if (result.shape[1] == 1 || result.shape[2] * result.shape[3] == 1) return is_channels_last(x);
  size_t pixel = result.shape[3] > 1 ? 3 : 2;
  return result.strides[1] < result.strides[pixel];
}

void* aligned_data(const at::Tensor& tensor) {
  constexpr uintptr_t kAlignment = 16;
  void* data = tensor.data_ptr();
  check(reinterpret_cast<uintptr_t>(data) % kAlignment == 0,
        "an operand of cuDNN or cuBLASLt is not aligned to 16 bytes");
  return data;
}

CollectPrograms::CollectPrograms(ProgramSink to) { sink() = std::move(to); }
CollectPrograms::~CollectPrograms() { sink() = nullptr; }
bool is_collecting() { return static_cast<bool>(sink()); }

}  // namespace torchweld::cuda
