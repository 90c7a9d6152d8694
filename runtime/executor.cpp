#include "runtime/executor.h"

#include "core/environment.h"
#include "runtime/run_context.h"

#ifdef TORCHWELD_WITH_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace torchweld {

#ifdef TORCHWELD_WITH_CUDA
namespace {

/// A plan may be let go while `stream` still runs it. What it packed was allocated on other streams, which must not get
/// that memory back before.
void keep_constants_for(const Plan& plan, c10::cuda::CUDAStream stream) {
  std::vector<at::Tensor> constants = plan.constants;
  for (const Step& step : plan.steps) {
    std::vector<at::Tensor> packed = step.kernel->constants();
    constants.insert(constants.end(), packed.begin(), packed.end());
  }
  for (const at::Tensor& tensor : constants) {
    if (tensor.defined() && tensor.is_cuda())
      c10::cuda::CUDACachingAllocator::recordStream(tensor.storage().data_ptr(), stream);
  }
}

}  // namespace
#endif

Executor::Executor(std::shared_ptr<const Plan> plan, bool cuda_graphs) : plan_(std::move(plan)) {
  if (!plan_->device.is_cuda() || plan_->steps.empty()) return;
  if (!cuda_graphs) why_not_ = "cuda_graphs is off";
  if (environment("TORCHWELD_VERIFY") == "1") why_not_ = "TORCHWELD_VERIFY is set";
  for (const Step& step : plan_->steps) {
    if (step.kernel->capturable()) continue;
    why_not_ = step.tactic + " needs the host between launches" + (step.origin.empty() ? "" : " (" + step.origin + ")");
  }
  records_ = why_not_.empty();
}

Executor::~Executor() = default;

std::vector<at::Tensor> Executor::run(const std::vector<at::Tensor>& inputs) {
#ifdef TORCHWELD_WITH_CUDA
  if (plan_->device.is_cuda()) {
    c10::cuda::CUDAGuard guard(plan_->device);
    cudaStream_t stream = c10::cuda::getCurrentCUDAStream(plan_->device.index()).stream();
    std::unique_lock lock(mutex_);
    OfStream& own = by_stream_[stream];  // stays where it is when others come
    lock.unlock();
    std::lock_guard stream_lock(own.mutex);
    if (!own.context) {
      own.context = std::make_unique<RunContext>(plan_);
      keep_constants_for(*plan_, c10::cuda::getCurrentCUDAStream(plan_->device.index()));
    }
    // Being recorded already (torch.cuda.graph round the whole model): the steps join that recording.
    bool captured = c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
    if (!records_ || captured) return own.context->run_steps(inputs, stream);
    return own.context->run_graph(inputs, stream);
  }
#endif
  std::unique_ptr<RunContext> context = take_context();
  std::vector<at::Tensor> outputs = context->run_steps(inputs, nullptr);
  give_back(std::move(context));
  return outputs;
}

std::string Executor::why_not_recorded() const {
  std::lock_guard lock(mutex_);
  for (const auto& [stream, own] : by_stream_) {
    std::lock_guard stream_lock(own.mutex);
    if (own.context && !own.context->why_not_recorded().empty()) return own.context->why_not_recorded();
  }
  return why_not_;
}

int64_t Executor::launches() const {
  std::lock_guard lock(mutex_);
  for (const auto& [stream, own] : by_stream_) {
    std::lock_guard stream_lock(own.mutex);
    if (own.context && own.context->recorded_launches() > 0) return own.context->recorded_launches();
  }
  return static_cast<int64_t>(plan_->steps.size());
}

std::unique_ptr<RunContext> Executor::take_context() {
  {
    std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      auto context = std::move(idle_.back());
      idle_.pop_back();
      return context;
    }
  }
  return std::make_unique<RunContext>(plan_);
}

void Executor::give_back(std::unique_ptr<RunContext> context) {
  std::lock_guard lock(mutex_);
  idle_.push_back(std::move(context));
}

}  // namespace torchweld
