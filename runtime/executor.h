// Runs a plan: binds memory once, then only launches.
#pragma once

#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "conversion/plan.h"

namespace torchweld {

class RunContext;

/// Runs one plan for any number of threads and streams at once. Each run works in a context (an arena and everything
/// bound to it) that no other run uses at the same time: on the CPU contexts are handed round, on CUDA there is one per
/// stream, whose own order keeps runs apart.
class Executor {
 public:
  Executor(std::shared_ptr<const Plan> plan, bool cuda_graphs);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  /// `inputs` have exactly the plan's input types. Returns tensors of their own that later calls do not touch, except
  /// that an output which is an input, or a view of it, is returned as such. On CUDA everything is enqueued on the
  /// current stream of the plan's device. Throws what a kernel throws.
  std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs);
  const Plan& plan() const { return *plan_; }
  /// Whether the plan is recorded as CUDA graph.
  bool records() const { return records_; }
  /// On CUDA: why it is not, such as "cuda_graphs is off", a step that needs the host, or what went wrong in recording.
  std::string why_not_recorded() const;
  /// Launches per call, as recorded: the nodes of the CUDA graph, else the steps.
  int64_t launches() const;

 private:
  std::unique_ptr<RunContext> take_context();
  void give_back(std::unique_ptr<RunContext> context);

  std::shared_ptr<const Plan> plan_;
  bool records_ = false;
  std::string why_not_;  // as known before the first run
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<RunContext>> idle_;
  struct OfStream {
    mutable std::mutex mutex;
    std::unique_ptr<RunContext> context;
  };
  std::unordered_map<void*, OfStream> by_stream_;
};

}  // namespace torchweld
