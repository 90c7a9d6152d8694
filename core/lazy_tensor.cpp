#include "core/lazy_tensor.h"

#include <c10/util/hash.h>

#include <atomic>
#include <mutex>

#include "core/error.h"
#include "core/plain_aten.h"

namespace torchweld {

struct LazyTensor::State {
  TensorType type;
  std::string origin;
  std::function<at::Tensor()> compute;
  std::once_flag once;
  at::Tensor tensor;
  std::atomic<bool> is_computed{false};
};

LazyTensor::LazyTensor(at::Tensor tensor, std::string origin) {
  if (!tensor.defined()) return;
  state_ = std::make_shared<State>();
  state_->type = type_of(tensor);
  state_->origin = std::move(origin);
  state_->tensor = std::move(tensor);
  state_->is_computed = true;
}

LazyTensor LazyTensor::derived(const std::string& what, std::vector<LazyTensor> sources, TensorType type,
                               std::function<at::Tensor(const std::vector<at::Tensor>&)> compute) {
  LazyTensor result;
  result.state_ = std::make_shared<State>();
  result.state_->origin = origin_of(what + " " + to_string(type), sources);
  result.state_->type = std::move(type);
  result.state_->compute = [sources = std::move(sources), compute = std::move(compute)] {
    std::vector<at::Tensor> tensors;
    for (const LazyTensor& source : sources) tensors.push_back(source.tensor());
    return compute(tensors);
  };
  return result;
}

const at::Tensor& LazyTensor::tensor() const {
  static const auto& undefined = *new const at::Tensor;
  if (!state_) return undefined;
  State& state = *state_;
  if (state.is_computed.load(std::memory_order_acquire)) return state.tensor;
  std::call_once(state.once, [&] {
    PlainAten plain;
    at::Tensor made = state.compute();
    check(made.scalar_type() == state.type.dtype && made.sizes() == at::IntArrayRef(state.type.shape),
          [&] { return "a constant of " + to_string(state.type) + " was computed as " + to_string(type_of(made)); });
    if (!same_layout(state.type.shape, made.strides().vec(), state.type.strides) ||
        made.device() != state.type.device) {
      at::Tensor laid_out = empty_tensor(state.type);
      laid_out.copy_(made);
      made = std::move(laid_out);
    }
    state.tensor = std::move(made);
    state.compute = nullptr;  // Lets its sources go.
    state.is_computed.store(true, std::memory_order_release);
  });
  return state.tensor;
}

const TensorType& LazyTensor::type() const {
  check(state_ != nullptr, "an undefined constant is asked for its type");
  return state_->type;
}

bool LazyTensor::is_computed() const { return !state_ || state_->is_computed; }

bool LazyTensor::is_same(const LazyTensor& other) const {
  if (state_ == other.state_) return true;
  return state_ && other.state_ && is_computed() && other.is_computed() && tensor().is_same(other.tensor());
}

const std::string& LazyTensor::origin() const {
  static const auto& unknown = *new const std::string;
  return state_ ? state_->origin : unknown;
}

std::string origin_of(const std::string& what, const std::vector<LazyTensor>& sources) {
  std::string text = what + "(";
  for (const LazyTensor& source : sources) {
    if (source.defined() && source.origin().empty()) return "";
    text += source.origin() + ";";
  }
  text += ")";
  // What is computed from sums of sums would double at each.
  constexpr size_t kLong = 400;
  return text.size() > kLong ? what.substr(0, what.find_first_of(" {")) + " #" + c10::sha1(text).str() : text;
}

void print_field(std::string& out, const LazyTensor& value) {
  // More than these are not printed, so they need not be computed for it.
  constexpr int64_t kPrinted = 16;
  if (value.is_computed() || value.type().numel() <= kPrinted) return print_field(out, value.tensor());
  out += to_string(value.type());
}

void parse_field(TextReader& in, LazyTensor& value) {
  at::Tensor tensor;
  parse_field(in, tensor);
  value = tensor;
}

}  // namespace torchweld
