// One launch of our own device code, ready to be enqueued or put into a CUDA graph.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

namespace at::cuda {
struct CUDAGraph;
}

namespace torchweld::cuda {

/// Ends the capture of a graph in whose midst something was thrown, so that the stream takes work again. Throws
/// nothing: the first error is the one to report.
void end_failed_capture(at::cuda::CUDAGraph& graph) noexcept;

/// The by-value struct that follows the data pointers in our kernels' parameters, laid out as the compiler lays it out.
/// Members are added in the order of the device struct and are 4 or 8 bytes wide.
class Arguments {
 public:
  template <class T>
  void add(T value) {
    static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
    size_t at = (bytes_.size() + sizeof(T) - 1) / sizeof(T) * sizeof(T);
    bytes_.resize(at + sizeof(T));
    std::memcpy(bytes_.data() + at, &value, sizeof(T));
  }
  /// Fills up to the alignment of the whole struct; nothing may be added after it.
  void finish() { bytes_.resize((bytes_.size() + 7) / 8 * 8); }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

/// A kernel with everything but its data pointers. Parameters of the device function: `pointers` data pointers (the
/// node's inputs that are not packed, in order, then its outputs), then one struct by value unless `arguments` is
/// empty.
struct Launch {
  CUfunction function = nullptr;
  std::string cubin;  ///< Key of the machine code in the CubinStore (see jit.h).
  unsigned grid[3] = {1, 1, 1};
  unsigned block[3] = {1, 1, 1};
  unsigned cluster = 1;  ///< Blocks per cluster along x.
  unsigned shared_bytes = 0;
  size_t pointers = 0;
  Arguments arguments;
  /// The kernel waits for the kernel before it by itself (griddepcontrol.wait), so it may start early.
  bool programmatic_dependent = false;
};

/// Enqueues `launch` on `stream` with these data pointers. Nothing happens when the grid is empty. Throws InternalError
/// when the driver refuses. `early_start`: use programmatic dependent launch where the kernel is made for it.
void enqueue(const Launch& launch, void* const* pointers, CUstream stream, bool early_start = true);

/// Parameters of a CUDA graph's kernel node for (launch, pointers). Points into `launch` and `pointers`: both must
/// outlive the use of `params`.
class NodeParams {
 public:
  NodeParams(const Launch& launch, void* const* pointers);
  NodeParams(const NodeParams&) = delete;
  NodeParams& operator=(const NodeParams&) = delete;
  const CUDA_KERNEL_NODE_PARAMS& params() const { return params_; }

 private:
  std::vector<void*> slots_;
  CUDA_KERNEL_NODE_PARAMS params_{};
};

}  // namespace torchweld::cuda
