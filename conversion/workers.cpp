#include "conversion/workers.h"

#include <c10/core/GradMode.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#ifdef TORCHWELD_WITH_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#endif

namespace torchweld {

size_t most_workers() {
  static const size_t most = std::clamp(std::thread::hardware_concurrency(), 1u, 32u);  // Read from files.
  return most;
}

void for_each_in_parallel(size_t count, c10::Device device, const std::function<void(size_t)>& work) {
  std::optional<c10::Stream> stream;
  if (!device.is_cpu()) stream = c10::impl::VirtualGuardImpl(device.type()).getStream(device);
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::exception_ptr first_error;
  auto keep_error = [&] {
    std::lock_guard lock(mutex);
    if (!first_error) first_error = std::current_exception();
  };
  auto loop = [&] {
    try {
      c10::NoGradGuard no_grad;
      c10::OptionalStreamGuard on_stream(stream);
#ifdef TORCHWELD_WITH_CUDA
      // A program may capture a CUDA graph in another thread meanwhile.
      std::optional<c10::cuda::CUDAStreamCaptureModeGuard> beside_captures;
      if (device.is_cuda()) beside_captures.emplace(cudaStreamCaptureModeRelaxed);
#endif
      for (size_t i = next++; i < count; i = next++) {
        try {
          work(i);
        } catch (...) {
          keep_error();
        }
      }
      // Kernels may run on other streams.
      if (stream) stream->synchronize();
    } catch (...) {
      keep_error();
    }
  };
  size_t workers = std::min(count, most_workers());
  std::vector<std::thread> threads;
  try {
    for (size_t i = 1; i < workers; ++i) threads.emplace_back(loop);
  } catch (const std::system_error&) {
    // The threads that there are do it.
  }
  loop();
  for (std::thread& thread : threads) thread.join();
  if (first_error) std::rethrow_exception(first_error);
}

}  // namespace torchweld
