#include "kernels/shared_constants.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "core/plain_aten.h"
#include "core/sweeper.h"
#include "kernels/without_compiler.h"

namespace torchweld {
namespace {

using Weak = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;

bool is_expired(const Weak& weak) { return weak.expired(); }

struct Known {
  std::mutex mutex;
  std::map<std::tuple<int, size_t, int64_t>, std::vector<Weak>> tensors;  // by device, bytes and their sum
  Sweeper sweeper;
};

/// What plans hold, by origin.
struct Packed {
  std::mutex mutex;
  std::unordered_map<std::string, Weak> tensors;
  Sweeper sweeper;

  at::Tensor find(const std::string& origin) {
    std::lock_guard lock(mutex);
    auto found = tensors.find(origin);
    return found == tensors.end() ? at::Tensor() : at::Tensor(found->second.lock());
  }
  void add(const std::string& origin, const at::Tensor& tensor) {
    std::lock_guard lock(mutex);
    tensors.insert_or_assign(origin, Weak(tensor.getIntrusivePtr()));
    sweeper.sweep(tensors, is_expired);
  }
};

at::Tensor bytes_of(const at::Tensor& tensor) { return tensor.view({-1}).view(c10::kByte); }

}  // namespace

at::Tensor shared_constant(at::Tensor packed) {
  if (!packed.defined() || !packed.is_cuda() || packed.numel() == 0) return packed;
  static Known& known = *new Known;  // never destroyed: kernels may be released after it
  int64_t sum = at::sum(bytes_of(packed), c10::kLong).item<int64_t>();
  std::lock_guard lock(known.mutex);
  known.sweeper.sweep(known.tensors, [](const std::vector<Weak>& alike) {
    return std::all_of(alike.begin(), alike.end(), is_expired);
  });
  std::vector<Weak>& alike = known.tensors[{packed.get_device(), packed.nbytes(), sum}];
  std::erase_if(alike, is_expired);
  for (const Weak& weak : alike) {
    at::Tensor other(weak.lock());
    bool same = other.defined() && other.scalar_type() == packed.scalar_type() && other.sizes() == packed.sizes() &&
                at::equal(bytes_of(other), bytes_of(packed));
    if (same) return other;
  }
  alike.emplace_back(packed.getIntrusivePtr());
  return packed;
}

at::Tensor shared_constant(const std::string& origin, const std::function<at::Tensor()>& pack) {
  static Packed& packed = *new Packed;  // never destroyed: kernels may be released after it
  if (WithoutCompiler::is_alive() && !origin.empty()) {
    if (at::Tensor known = packed.find(origin); known.defined()) return known;
  }
  PlainAten plain;
  at::Tensor shared = shared_constant(pack());
  if (shared.defined() && !origin.empty()) packed.add(origin, shared);
  return shared;
}

}  // namespace torchweld
