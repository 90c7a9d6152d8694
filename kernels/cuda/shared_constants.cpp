#include "kernels/cuda/shared_constants.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/sum.h>

#include <map>
#include <mutex>
#include <tuple>
#include <vector>

namespace torchweld::cuda {
namespace {

using Weak = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;

struct Known {
  std::mutex mutex;
  std::map<std::tuple<int, size_t, int64_t>, std::vector<Weak>> tensors;  // by device, bytes and their sum
};

at::Tensor bytes_of(const at::Tensor& tensor) { return tensor.view({-1}).view(c10::kByte); }

}  // namespace

at::Tensor shared_constant(at::Tensor packed) {
  if (!packed.defined() || !packed.is_cuda() || packed.numel() == 0) return packed;
  static Known& known = *new Known;  // never destroyed: kernels may be released after it
  int64_t sum = at::sum(bytes_of(packed), c10::kLong).item<int64_t>();
  std::lock_guard lock(known.mutex);
  std::vector<Weak>& alike = known.tensors[{packed.get_device(), packed.nbytes(), sum}];
  std::erase_if(alike, [](const Weak& weak) { return weak.expired(); });
  for (const Weak& weak : alike) {
    at::Tensor other(weak.lock());
    bool same = other.defined() && other.scalar_type() == packed.scalar_type() && other.sizes() == packed.sizes() &&
                at::equal(bytes_of(other), bytes_of(packed));
    if (same) return other;
  }
  alike.emplace_back(packed.getIntrusivePtr());
  return packed;
}

}  // namespace torchweld::cuda
