// Kernels that are several launches of our own device code, one after the other.
#pragma once

#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/kernel.h"

namespace torchweld::cuda {

/// Launches that hand on what lies between them in the workspace. All but the first start early: each waits for the
/// one ahead by itself.
class LaunchChain : public Kernel {
 public:
  /// A data pointer of a launch: an operand of the node, or a place in the workspace, `index` bytes from its beginning.
  struct Pointer {
    enum Kind { kInput, kOutput, kWorkspace } kind;
    size_t index = 0;
  };
  struct Link {
    Launch launch;
    std::vector<at::Tensor> constants;  ///< Device memory that the launch's arguments hold addresses of.
    std::vector<Pointer> pointers;
  };
  /// `inputs`: how many the node has; those that no link reads count as packed.
  LaunchChain(std::vector<Link> links, int64_t workspace_bytes, size_t inputs);

  void run(const StepArgs& args) const override;
  int64_t workspace_bytes() const override { return workspace_bytes_; }
  bool may_overlap() const override { return true; }
  std::vector<const Launch*> launches() const override;
  std::vector<size_t> packed_inputs() const override { return packed_; }
  std::vector<at::Tensor> constants() const override;

 private:
  std::vector<Link> links_;
  int64_t workspace_bytes_;
  std::vector<size_t> packed_;
};

/// Where the next tensor after `bytes` bytes of workspace begins.
inline int64_t aligned_workspace(int64_t bytes) {
  constexpr int64_t kAlignment = 256;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace torchweld::cuda
