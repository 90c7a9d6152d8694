#include "runtime/run_context.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty.h>
#include <ATen/record_function.h>

#include "core/environment.h"
#include "core/error.h"
#include "runtime/recorded_graph.h"

namespace torchweld {
namespace {

at::Tensor view_of(const at::Tensor& base, const Slot& slot) {
  return base.as_strided(slot.type.shape, slot.type.strides, base.storage_offset() + slot.element_offset);
}

}  // namespace

RunContext::RunContext(std::shared_ptr<const Plan> plan)
    : plan_(std::move(plan)),
      slots_(plan_->slots.size()),
      owner_(plan_->storages.size(), -1),
      views_(plan_->storages.size()) {
  for (size_t i = 0; i < plan_->slots.size(); ++i) {
    const Slot& slot = plan_->slots[i];
    if (slot.is_view) {
      views_[slot.storage].push_back(static_cast<int>(i));
    } else {
      owner_[slot.storage] = static_cast<int>(i);
    }
  }
  bind_arena();
  bind_steps();
}

RunContext::~RunContext() = default;

void RunContext::bind_arena() {
  at::TensorOptions options = at::TensorOptions(c10::kByte).device(plan_->device);
  arena_ = at::empty({plan_->arena_bytes}, options);
  for (size_t i = 0; i < plan_->storages.size(); ++i) {
    const Storage& storage = plan_->storages[i];
    at::Tensor& slot = slots_[owner_[i]];
    if (storage.kind == Storage::Kind::kConstant) {
      slot = plan_->constants[storage.index];
      if (!slot.defined()) continue;
    } else if (storage.kind == Storage::Kind::kArena) {
      auto element = static_cast<int64_t>(c10::elementSize(storage.type.dtype));
      slot = at::empty({0}, options.dtype(storage.type.dtype));
      slot.set_(arena_.storage(), storage.offset / element, storage.type.shape, storage.type.strides);
    } else {
      continue;
    }
    set_views_of(static_cast<int>(i));
  }
}

void RunContext::bind_steps() {
  char* arena = static_cast<char*>(arena_.mutable_data_ptr());
  steps_.resize(plan_->steps.size());
  for (size_t i = 0; i < plan_->steps.size(); ++i) {
    const Step& step = plan_->steps[i];
    BoundStep& bound = steps_[i];
    for (int slot : step.inputs) bound.in.push_back(&slots_[slot]);
    for (int slot : step.outputs) bound.out.push_back(&slots_[slot]);
    bound.workspace = step.kernel->workspace_bytes() > 0 ? arena + step.workspace_offset : nullptr;
    for (int slot : step.outputs) {
      int storage = plan_->slots[slot].storage;
      if (plan_->storages[storage].kind != Storage::Kind::kKernel) continue;
      for (int view : views_[storage]) bound.views_to_refresh.push_back(view);
    }
  }
  for (size_t i = 0; i < plan_->storages.size(); ++i) {
    const Storage& storage = plan_->storages[i];
    if (storage.kind != Storage::Kind::kKernel || storage.last_step < 0) continue;
    auto& released = steps_[storage.last_step].slots_to_release;
    released.push_back(owner_[i]);
    released.insert(released.end(), views_[i].begin(), views_[i].end());
  }
}

void RunContext::set_views_of(int storage) {
  for (int view : views_[storage]) slots_[view] = view_of(slots_[owner_[storage]], plan_->slots[view]);
}

void RunContext::bind_inputs(const std::vector<at::Tensor>& inputs) {
  check(inputs.size() == plan_->inputs.size(), "a plan is run with a wrong number of inputs");
  for (size_t i = 0; i < inputs.size(); ++i) {
    int slot = plan_->inputs[i];
    slots_[slot] = inputs[i];
    set_views_of(plan_->slots[slot].storage);
  }
}

void RunContext::bind_outputs() {
  for (size_t i = 0; i < plan_->storages.size(); ++i) {
    if (plan_->storages[i].kind != Storage::Kind::kOutput) continue;
    slots_[owner_[i]] = empty_tensor(plan_->storages[i].type);
    set_views_of(static_cast<int>(i));
  }
}

void RunContext::execute(size_t i, void* stream, bool early_start) {
  const Step& step = plan_->steps[i];
  BoundStep& bound = steps_[i];
  step.kernel->run(
      {.in = bound.in, .out = bound.out, .workspace = bound.workspace, .stream = stream, .early_start = early_start});
  for (int view : bound.views_to_refresh) {
    slots_[view] = view_of(slots_[owner_[plan_->slots[view].storage]], plan_->slots[view]);
  }
}

std::vector<at::Tensor> RunContext::run_steps(const std::vector<at::Tensor>& inputs, void* stream) {
  static const bool verify = environment("TORCHWELD_VERIFY") == "1";
  bind_inputs(inputs);
  bind_outputs();
  for (size_t i = 0; i < steps_.size(); ++i) {
    RECORD_FUNCTION(plan_->steps[i].tactic, c10::ArrayRef<const c10::IValue>{});
    execute(i, stream);
    if (verify) verify_step(plan_->steps[i], i, steps_[i].in, steps_[i].out);
    for (int slot : steps_[i].slots_to_release) slots_[slot].reset();
  }
  return take_outputs();
}

std::vector<at::Tensor> RunContext::run_graph(const std::vector<at::Tensor>& inputs, void* stream) {
  if (!has_run_ || !why_not_recorded_.empty()) {
    has_run_ = true;
    return run_steps(inputs, stream);
  }
  if (!recorded_) {
    try {
      recorded_ = RecordedGraph::record(*this, inputs);
    } catch (const c10::Error& error) {
      why_not_recorded_ = error.what_without_backtrace();
    } catch (const std::exception& error) {
      why_not_recorded_ = error.what();
    }
    if (!recorded_) {
      log(1, "a plan cannot be recorded as CUDA graph and runs launch by launch: " + why_not_recorded_);
      return run_steps(inputs, stream);
    }
  }
  return recorded_->launch(inputs, stream);
}

const std::string& RunContext::why_not_recorded() const { return why_not_recorded_; }

int64_t RunContext::recorded_launches() const { return recorded_ ? recorded_->launches() : 0; }

std::vector<at::Tensor> RunContext::take_outputs() {
  std::vector<at::Tensor> outputs;
  for (int slot : plan_->outputs) {
    bool shared = plan_->storages[plan_->slots[slot].storage].kind == Storage::Kind::kConstant;
    outputs.push_back(shared ? slots_[slot].clone() : slots_[slot]);
  }
  for (size_t i = 0; i < plan_->storages.size(); ++i) {
    auto kind = plan_->storages[i].kind;
    if (kind == Storage::Kind::kArena || kind == Storage::Kind::kConstant) continue;
    slots_[owner_[i]].reset();
    for (int view : views_[i]) slots_[view].reset();
  }
  return outputs;
}

void verify_step(const Step& step, size_t number, const std::vector<const at::Tensor*>& in,
                 const std::vector<at::Tensor*>& out) {
  std::vector<at::Tensor> inputs;
  for (const at::Tensor* t : in) inputs.push_back(*t);
  std::vector<at::Tensor> wanted = step.attrs.def().aten(step.attrs.data(), inputs);
  for (size_t k = 0; k < wanted.size(); ++k) {
    at::Tensor reference = wanted[k].to(c10::kDouble);
    at::Tensor difference = (out[k]->to(c10::kDouble) - reference).abs().nan_to_num(0.0, 0.0, 0.0);
    if (difference.numel() == 0) continue;
    bool coarse = out[k]->scalar_type() == c10::kHalf || out[k]->scalar_type() == c10::kBFloat16 ||
                  (out[k]->is_cuda() && out[k]->scalar_type() == c10::kFloat);
    double scale = reference.nan_to_num(0.0, 0.0, 0.0).abs().max().item<double>() + 1e-6;
    double worst = difference.max().item<double>();
    bool same_nans = out[k]->isnan().equal(wanted[k].isnan());
    if (same_nans && worst <= scale * (coarse ? 2e-2 : 1e-4)) continue;
    throw Error("step " + std::to_string(number) + " differs from its meaning: " + step.op() + " run by " +
                step.tactic + (step.origin.empty() ? "" : " (" + step.origin + ")") + ": output " + std::to_string(k) +
                ", element " + std::to_string(difference.argmax().item<int64_t>()) + " is off by " +
                std::to_string(worst) + " where values reach " + std::to_string(scale) +
                (same_nans ? "" : "; NaNs differ") + "; leave the tactic out with TORCHWELD_DISABLE and report it");
  }
}

}  // namespace torchweld
