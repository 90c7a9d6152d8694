#include "kernels/cuda/launch_chain.h"

#include <ATen/core/Tensor.h>

#include <algorithm>

namespace torchweld::cuda {

LaunchChain::LaunchChain(std::vector<Link> links, int64_t workspace_bytes, size_t inputs)
    : links_(std::move(links)), workspace_bytes_(workspace_bytes) {
  for (size_t i = 0; i < inputs; ++i) {
    bool read = std::any_of(links_.begin(), links_.end(), [i](const Link& link) {
      return std::any_of(link.pointers.begin(), link.pointers.end(),
                         [i](const Pointer& p) { return p.kind == Pointer::kInput && p.index == i; });
    });
    if (!read) packed_.push_back(i);
  }
}

void LaunchChain::run(const StepArgs& args) const {
  for (const Link& link : links_) {
    std::vector<void*> pointers;
    for (const Pointer& p : link.pointers) {
      pointers.push_back(p.kind == Pointer::kInput    ? args.in[p.index]->data_ptr()
                         : p.kind == Pointer::kOutput ? args.out[p.index]->data_ptr()
                                                      : static_cast<char*>(args.workspace) + p.index);
    }
    bool is_first = &link == &links_.front();
    enqueue(link.launch, pointers.data(), static_cast<CUstream>(args.stream), args.early_start || !is_first);
  }
}

std::vector<at::Tensor> LaunchChain::constants() const {
  std::vector<at::Tensor> all;
  for (const Link& link : links_) all.insert(all.end(), link.constants.begin(), link.constants.end());
  return all;
}

std::vector<const Launch*> LaunchChain::launches() const {
  std::vector<const Launch*> all;
  for (const Link& link : links_) all.push_back(&link.launch);
  return all;
}

}  // namespace torchweld::cuda
