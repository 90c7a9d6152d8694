// Kernels that are one launch of our own device code.
#pragma once

#include "kernels/cuda/codegen.h"
#include "kernels/cuda/jit.h"
#include "kernels/cuda/launch.h"
#include "kernels/kernel.h"

namespace torchweld::cuda {

/// A launch with the constants that its arguments point to.
class OwnKernel : public Kernel {
 public:
  /// `packed`: inputs of the node whose pointers are not passed. `constants`: device memory that `launch.arguments`
  /// hold addresses of.
  OwnKernel(Launch launch, std::vector<size_t> packed, std::vector<at::Tensor> constants = {});
  void run(const StepArgs& args) const override;
  const Launch* launch() const override { return &launch_; }
  std::vector<size_t> packed_inputs() const override { return packed_; }
  std::vector<at::Tensor> constants() const override { return constants_; }

 private:
  Launch launch_;
  std::vector<size_t> packed_;
  std::vector<at::Tensor> constants_;
};

/// How a program is launched.
struct Shape {
  int64_t blocks = 1;  ///< Along x; at most 2^31 - 1.
  int64_t blocks_y = 1;
  unsigned threads = 256;
  unsigned shared_bytes = 0;
  unsigned cluster = 1;  ///< Blocks per cluster along x, at most 16; divides `blocks`. More than 1 needs sm_90.
};

/// Throws Unsupported where make_launch would because of a WithoutCompiler: to be asked before weights are packed for
/// the program.
void expect_compiled(const Program& program, const Node& node);

/// Compiles and loads `program` for the device, to be launched with so many data pointers.
Launch make_launch(const Program& program, const Shape& shape, Arguments arguments, size_t pointers, int device);

/// The same for the device of `node`, as a kernel of the node.
std::unique_ptr<Kernel> make_own_kernel(const Node& node, const Program& program, const Shape& shape,
                                        Arguments arguments, std::vector<size_t> packed,
                                        std::vector<at::Tensor> constants = {});

/// The CUDA device of the node's outputs; the current one where the type does not say.
int device_of(const Node& node);

/// Whether a 4-D result lies channels-last, be it with gaps (in a slice of the channels). Where its sizes leave that
/// open, what it is computed from decides.
bool lies_channels_last(const TensorType& result, const TensorType& x);

/// The data of a tensor for a library that moves 16 bytes at once; throws InternalError when it is not aligned to that,
/// since the library would leave the device in an error state.
void* aligned_data(const at::Tensor& tensor);

/// a / b rounded up.
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
/// n rounded up to a multiple of `to`.
inline int64_t round_up(int64_t n, int64_t to) { return ceil_div(n, to) * to; }

/// The text of a program while its device code is only wanted for checking (tests): what `propose` would compile for
/// the node, without compiling.
using ProgramSink = std::function<void(const Program&)>;
/// While alive on this thread, make_launch hands its programs to `sink` and makes launches that cannot run.
class CollectPrograms {
 public:
  explicit CollectPrograms(ProgramSink sink);
  ~CollectPrograms();
  CollectPrograms(const CollectPrograms&) = delete;
  CollectPrograms& operator=(const CollectPrograms&) = delete;
};
/// True while a CollectPrograms is alive on this thread: packing stays on the host.
bool is_collecting();

}  // namespace torchweld::cuda
