#include "runtime/recorded_graph.h"

#include "core/error.h"
#include "runtime/run_context.h"

#ifdef TORCHWELD_WITH_CUDA

#include <ATen/cuda/CUDAContextLight.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <deque>
#include <mutex>

#include "kernels/cuda/driver.h"
#include "kernels/cuda/launch.h"

namespace torchweld {
namespace {

/// The node that the last launch on a capturing stream has become.
cudaGraphNode_t last_node(cudaStream_t stream) {
  cudaStreamCaptureStatus status{};
  const cudaGraphNode_t* nodes = nullptr;
  size_t count = 0;
#if CUDART_VERSION >= 13000
  C10_CUDA_CHECK(cudaStreamGetCaptureInfo(stream, &status, nullptr, nullptr, &nodes, nullptr, &count));
#else
  C10_CUDA_CHECK(cudaStreamGetCaptureInfo_v2(stream, &status, nullptr, nullptr, &nodes, &count));
#endif
  check(status == cudaStreamCaptureStatusActive && count == 1, "a recorded launch is not the last of its stream");
  return nodes[0];
}

/// A stream to record on that nobody else has. LibTorch keeps a workspace of cuBLAS for each stream: here it is first
/// asked for during the recording, so that it comes from the graph's own memory. Forgotten behind the recording, it
/// stays there for this graph alone, where other graphs run beside it and whatever becomes of LibTorch's workspaces.
class RecordingStream {
 public:
  explicit RecordingStream(c10::DeviceIndex device) : device_(device) {
    C10_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  ~RecordingStream() {
    forget(at::cuda::cublas_handle_stream_to_workspace());
    forget(at::cuda::cublaslt_handle_stream_to_workspace());
    C10_CUDA_IGNORE_ERROR(cudaStreamDestroy(stream_));
  }
  RecordingStream(const RecordingStream&) = delete;
  RecordingStream& operator=(const RecordingStream&) = delete;
  c10::cuda::CUDAStream get() const { return c10::cuda::getStreamFromExternal(stream_, device_); }

 private:
  void forget(at::cuda::WorkspaceMapWithMutex& workspaces) {
    std::unique_lock lock(workspaces.mutex);
    std::erase_if(workspaces.map, [&](const auto& entry) { return std::get<1>(entry.first) == stream_; });
  }

  c10::DeviceIndex device_;
  cudaStream_t stream_ = nullptr;
};

bool launches_blocks(const cuda::Launch& launch) {
  return launch.grid[0] > 0 && launch.grid[1] > 0 && launch.grid[2] > 0;
}

/// The streams of a plan's lanes during one recording, which begins and ends on the first.
class RecordingLanes {
 public:
  explicit RecordingLanes(const Plan& plan) : plan_(plan), events_(plan.steps.size()), has_waited_(plan.lanes) {
    for (int i = 0; i < plan.lanes; ++i) {
      owners_.emplace_back(plan.device.index());
      streams_.push_back(owners_.back().get());
    }
    for (const Step& step : plan.steps) {
      for (int earlier : step.waits) {
        if (!events_[earlier]) events_[earlier] = std::make_unique<at::cuda::CUDAEvent>();
      }
    }
  }
  const c10::cuda::CUDAStream& first() const { return streams_.front(); }
  const c10::cuda::CUDAStream& of(size_t step) const { return streams_[plan_.steps[step].lane]; }

  /// The other lanes join the recording that has begun on the first.
  void fork() {
    for (size_t lane = 1; lane < streams_.size(); ++lane) follow(first(), streams_[lane]);
  }
  /// The first lane waits for the others, without which a recording cannot end.
  void join() {
    for (size_t lane = 1; lane < streams_.size(); ++lane) follow(streams_[lane], first());
  }
  /// The same after something was thrown; the first error is the one to report.
  void join_quietly() noexcept {
    try {
      join();
    } catch (const std::exception&) {
    }
  }
  /// Returns whether the step's first launch has only the launch ahead in its lane to wait for.
  bool before(size_t step) {
    for (int earlier : plan_.steps[step].waits) {
      events_[earlier]->block(of(step));
      has_waited_[plan_.steps[step].lane] = true;
    }
    return !has_waited_[plan_.steps[step].lane];
  }
  void after(size_t step) {
    const Kernel& kernel = *plan_.steps[step].kernel;
    bool has_launched = kernel.launch() ? launches_blocks(*kernel.launch()) : kernel.may_overlap();
    if (has_launched) has_waited_[plan_.steps[step].lane] = false;
    if (events_[step]) events_[step]->record(of(step));
  }

 private:
  static void follow(const c10::cuda::CUDAStream& ahead, const c10::cuda::CUDAStream& behind) {
    at::cuda::CUDAEvent event;
    event.record(ahead);
    event.block(behind);
  }

  const Plan& plan_;
  std::deque<RecordingStream> owners_;
  std::vector<c10::cuda::CUDAStream> streams_;
  std::vector<std::unique_ptr<at::cuda::CUDAEvent>> events_;  // of steps for which others wait
  std::vector<bool> has_waited_;                              // lanes that have launched nothing since
};

/// A kernel node that reads an input or writes an output in place: the addresses to write before each launch.
struct Patch {
  CUgraphNode node = nullptr;
  const cuda::Launch* launch = nullptr;
  std::vector<int> slots;                    // of each pointer parameter
  std::vector<void*> pointers;               // as last set
  std::unique_ptr<cuda::NodeParams> params;  // reads `pointers`, whose memory stays where it is
};

class RecordedCudaGraph final : public RecordedGraph {
 public:
  explicit RecordedCudaGraph(std::shared_ptr<const Plan> plan)
      : plan_(std::move(plan)), base_(plan_->storages.size()), graph_(/*keep_graph=*/true) {}

  std::vector<at::Tensor> launch(const std::vector<at::Tensor>& inputs, void* stream) override;
  int64_t launches() const override { return launches_; }

 private:
  friend class RecordedGraph;
  void* address(int slot) const {
    const Slot& s = plan_->slots[slot];
    auto element = static_cast<int64_t>(c10::elementSize(s.type.dtype));
    return static_cast<char*>(base_[s.storage]) + s.element_offset * element;
  }

  std::shared_ptr<const Plan> plan_;
  std::vector<at::Tensor> slots_;  // what each slot was bound to when recording
  std::vector<void*> base_;        // storage -> where its owner's first element is
  std::vector<bool> direct_;       // storage -> addresses are written into nodes
  std::vector<int> fresh_;         // storages that are allocated for each launch
  std::vector<Patch> patches_;
  at::cuda::CUDAGraph graph_;
  CUgraphExec exec_ = nullptr;
  int64_t launches_ = 0;
};

/// Storages of inputs and outputs that only our own launches touch.
std::vector<bool> direct_storages(const Plan& plan) {
  std::vector<bool> direct(plan.storages.size());
  for (size_t i = 0; i < plan.storages.size(); ++i) {
    auto kind = plan.storages[i].kind;
    direct[i] = kind == Storage::Kind::kInput || kind == Storage::Kind::kOutput;
  }
  for (const Step& step : plan.steps) {
    if (step.kernel->launch()) continue;
    for (int slot : step.inputs) direct[plan.slots[slot].storage] = false;
    for (int slot : step.outputs) direct[plan.slots[slot].storage] = false;
  }
  return direct;
}

std::vector<int> pointer_slots(const Step& step) {
  std::vector<size_t> packed = step.kernel->packed_inputs();
  std::vector<int> slots;
  for (size_t i = 0; i < step.inputs.size(); ++i) {
    if (std::find(packed.begin(), packed.end(), i) == packed.end()) slots.push_back(step.inputs[i]);
  }
  slots.insert(slots.end(), step.outputs.begin(), step.outputs.end());
  return slots;
}

}  // namespace

std::unique_ptr<RecordedGraph> RecordedGraph::record(RunContext& context, const std::vector<at::Tensor>& inputs) {
  const Plan& plan = *context.plan_;
  for (const Step& step : plan.steps) {
    check(step.kernel->capturable(), step.tactic + " needs the host between launches");
  }
  c10::cuda::CUDAGuard guard(plan.device);
  RecordingLanes lanes(plan);
  std::vector<bool> direct = direct_storages(plan);
  std::vector<at::Tensor> bound = inputs;
  for (size_t i = 0; i < bound.size(); ++i) {
    if (!direct[plan.slots[plan.inputs[i]].storage]) bound[i] = empty_tensor(plan.slots[plan.inputs[i]].type);
  }
  context.bind_inputs(bound);
  context.bind_outputs();

  auto recorded = std::make_unique<RecordedCudaGraph>(context.plan_);
  for (size_t i = 0; i < plan.storages.size(); ++i) {
    const at::Tensor& owner = context.slots_[context.owner_[i]];
    if (owner.defined()) recorded->base_[i] = owner.data_ptr();
  }
  {
    c10::cuda::CUDAStreamGuard on_stream(lanes.first());
    recorded->graph_.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    try {
      lanes.fork();
      for (size_t i = 0; i < context.steps_.size(); ++i) {
        const Step& step = plan.steps[i];
        cudaStream_t stream = lanes.of(i).stream();
        bool early_start = lanes.before(i);
        context.execute(i, stream, early_start);
        lanes.after(i);
        // A kernel's own memory has its address from here on, also after the tensor is released.
        for (int slot : step.outputs) {
          if (!plan.slots[slot].is_view) recorded->base_[plan.slots[slot].storage] = context.slots_[slot].data_ptr();
        }
        auto touches_direct = [&](int slot) { return direct[plan.slots[slot].storage]; };
        std::vector<int> slots = step.kernel->launch() ? pointer_slots(step) : std::vector<int>{};
        if (std::any_of(slots.begin(), slots.end(), touches_direct) && launches_blocks(*step.kernel->launch())) {
          recorded->patches_.push_back({last_node(stream), step.kernel->launch(), slots, {}, {}});
        }
        for (int slot : context.steps_[i].slots_to_release) context.slots_[slot].reset();
      }
      lanes.join();
    } catch (...) {
      lanes.join_quietly();
      cuda::end_failed_capture(recorded->graph_);
      throw;
    }
    recorded->graph_.capture_end();
    recorded->graph_.instantiate();
  }
  recorded->exec_ = recorded->graph_.raw_cuda_graph_exec();
  size_t nodes = 0;
  C10_CUDA_CHECK(cudaGraphGetNodes(recorded->graph_.raw_cuda_graph(), nullptr, &nodes));
  recorded->launches_ = static_cast<int64_t>(nodes);
  recorded->slots_ = context.slots_;
  recorded->direct_ = direct;
  for (Patch& patch : recorded->patches_) {
    for (int slot : patch.slots) patch.pointers.push_back(recorded->address(slot));
    patch.params = std::make_unique<cuda::NodeParams>(*patch.launch, patch.pointers.data());
  }
  for (size_t i = 0; i < plan.storages.size(); ++i) {
    if (direct[i] && plan.storages[i].kind == Storage::Kind::kOutput) recorded->fresh_.push_back(static_cast<int>(i));
  }
  context.take_outputs();
  return recorded;
}

std::vector<at::Tensor> RecordedCudaGraph::launch(const std::vector<at::Tensor>& inputs, void* stream) {
  const Plan& plan = *plan_;
  for (size_t i = 0; i < inputs.size(); ++i) {
    int slot = plan.inputs[i];
    int storage = plan.slots[slot].storage;
    if (direct_[storage]) {
      base_[storage] = inputs[i].data_ptr();
    } else {
      // All memory from the first to the last element, so that the strides do not matter.
      auto bytes = static_cast<size_t>(plan.slots[slot].type.storage_bytes());
      C10_CUDA_CHECK(cudaMemcpyAsync(slots_[slot].mutable_data_ptr(), inputs[i].const_data_ptr(), bytes,
                                     cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(stream)));
    }
  }
  std::vector<at::Tensor> fresh(fresh_.size());
  for (size_t i = 0; i < fresh.size(); ++i) {
    fresh[i] = empty_tensor(plan.storages[fresh_[i]].type);
    base_[fresh_[i]] = fresh[i].data_ptr();
  }
  for (Patch& patch : patches_) {
    bool changed = false;
    for (size_t k = 0; k < patch.slots.size(); ++k) {
      void* now = address(patch.slots[k]);
      changed = changed || now != patch.pointers[k];
      patch.pointers[k] = now;
    }
    if (!changed) continue;
    cuda::check_driver(cuda::driver().graph_exec_kernel_node_set_params(exec_, patch.node, &patch.params->params()),
                       "write addresses into a CUDA graph");
  }
  C10_CUDA_CHECK(cudaGraphLaunch(exec_, static_cast<cudaStream_t>(stream)));

  std::vector<at::Tensor> outputs;
  for (int slot : plan.outputs) {
    const Slot& s = plan.slots[slot];
    auto kind = plan.storages[s.storage].kind;
    auto made = std::find(fresh_.begin(), fresh_.end(), s.storage);
    at::Tensor base = made != fresh_.end()            ? fresh[made - fresh_.begin()]
                      : kind == Storage::Kind::kInput ? inputs[plan.storages[s.storage].index]
                                                      : at::Tensor();
    if (!base.defined()) {
      outputs.push_back(slots_[slot].clone());
    } else if (s.is_view) {
      outputs.push_back(base.as_strided(s.type.shape, s.type.strides, base.storage_offset() + s.element_offset));
    } else {
      outputs.push_back(base);
    }
  }
  return outputs;
}

}  // namespace torchweld

#else

namespace torchweld {

std::unique_ptr<RecordedGraph> RecordedGraph::record(RunContext&, const std::vector<at::Tensor>&) {
  throw UnavailableError("this build of Torchweld has no CUDA part");
}

}  // namespace torchweld

#endif
