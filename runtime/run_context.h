// The memory of one run of a plan at a time, with every step's operands bound.
#pragma once

#include <memory>
#include <vector>

#include "conversion/plan.h"

namespace torchweld {

class RecordedGraph;

/// Not safe for two threads at once.
class RunContext {
 public:
  explicit RunContext(std::shared_ptr<const Plan> plan);
  ~RunContext();

  /// One run on `stream` (null on the CPU), launch by launch.
  std::vector<at::Tensor> run_steps(const std::vector<at::Tensor>& inputs, void* stream);
  /// One run as CUDA graph. The first call runs the steps as they are (libraries load their kernels then), the second
  /// records them. A plan that cannot be recorded goes on being run step by step.
  std::vector<at::Tensor> run_graph(const std::vector<at::Tensor>& inputs, void* stream);
  /// Nodes of the recorded graph; 0 before it is recorded.
  int64_t recorded_launches() const;
  /// What went wrong when the plan was to be recorded; empty before, and when nothing did.
  const std::string& why_not_recorded() const;

 private:
  friend class RecordedGraph;
  struct BoundStep {
    std::vector<const at::Tensor*> in;
    std::vector<at::Tensor*> out;
    void* workspace = nullptr;
    std::vector<int> views_to_refresh;  // slots that look into what the kernel has just brought
    std::vector<int> slots_to_release;  // slots whose kernel-owned memory nothing reads any more
  };

  void bind_arena();
  void bind_steps();
  void bind_inputs(const std::vector<at::Tensor>& inputs);
  void bind_outputs();
  void set_views_of(int storage);
  void execute(size_t step, void* stream, bool early_start = true);
  std::vector<at::Tensor> take_outputs();

  std::shared_ptr<const Plan> plan_;
  at::Tensor arena_;
  std::vector<at::Tensor> slots_;
  std::vector<int> owner_;               // storage -> the slot that owns it
  std::vector<std::vector<int>> views_;  // storage -> slots that look into it
  std::vector<BoundStep> steps_;
  bool has_run_ = false;
  std::string why_not_recorded_;
  std::unique_ptr<RecordedGraph> recorded_;
};

/// Runs a step's ATen meaning on what the step has just read and throws Error naming the step and its worst element
/// when the step's results differ by more than rounding (TORCHWELD_VERIFY=1).
void verify_step(const Step& step, size_t number, const std::vector<const at::Tensor*>& in,
                 const std::vector<at::Tensor*>& out);

}  // namespace torchweld
