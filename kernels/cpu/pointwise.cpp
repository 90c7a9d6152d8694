#include "kernels/cpu/pointwise.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "core/error.h"
#include "core/ops/fused.h"
#include "core/ops/pointwise.h"
#include "core/ops/shape.h"
#include "kernels/cpu/block_runner.h"

namespace torchweld::cpu {
namespace {

/// Below this many elements another thread costs more than it brings.
constexpr int64_t kElementsPerThread = 16384;

class PointwiseKernel : public Kernel {
 public:
  explicit PointwiseKernel(const Node& node) : runner_(compile_blocks(node)), elements_(node.output()->type.numel()) {}

  void run(const StepArgs& args) const override {
    if (elements_ == 0) return;
    std::vector<const void*> in;
    std::vector<void*> out;
    for (const at::Tensor* tensor : args.in) in.push_back(tensor->defined() ? tensor->const_data_ptr() : nullptr);
    for (const at::Tensor* tensor : args.out) out.push_back(tensor->mutable_data_ptr());
    int64_t block = runner_.program().block;
    int64_t blocks = (elements_ + block - 1) / block;
    int64_t grain = std::max<int64_t>(1, kElementsPerThread / block);
    at::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
      runner_.run(in, out, begin * block, std::min(elements_, end * block));
    });
  }

 private:
  BlockRunner runner_;
  int64_t elements_;
};

}  // namespace

void propose_pointwise(const Node& node, const KernelContext&, Offers& offers) {
  auto* fused = node.as<Fused>();
  bool is_pointwise = node.as<Pointwise>() || node.as<Cast>() || node.as<Copy>() || (fused && !anchor_of(*fused));
  expect(is_pointwise, "not a pointwise op");
  compile_blocks(node);
  offers.add("", [&node] { return std::make_unique<PointwiseKernel>(node); });
}

}  // namespace torchweld::cpu
