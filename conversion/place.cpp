#include "conversion/place.h"

#include <ATen/ops/empty_strided.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "conversion/device.h"
#include "conversion/precedents.h"
#include "core/environment.h"
#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

constexpr int64_t kAlignment = 256;

int64_t align(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

/// Builds a plan from a graph, in three walks: slots and storages, lifetimes, offsets.
class Placer {
 public:
  Placer(const Graph& graph, const Selection& selection, c10::Device device) : graph_(graph), selection_(selection) {
    plan_->device = device;
  }

  std::shared_ptr<Plan> run() {
    for (const auto& input : graph_.inputs()) {
      int storage = add_storage(Storage::Kind::kInput, input->type);
      plan_->storages[storage].index = input->index();
      plan_->inputs.push_back(add_slot(input.get(), storage, 0, false));
    }
    for (const auto& node : graph_.nodes()) find_places_in(*node);
    for (const auto& node : graph_.nodes()) add_node(*node);
    mark_outputs();
    find_lifetimes();
    assign_arena(*plan_);
    for (const Step& step : plan_->steps) plan_->flops += step.flops;
    if (has_computed_) wait_for_current_stream(plan_->device);
    return std::move(plan_);
  }

 private:
  int add_storage(Storage::Kind kind, const TensorType& type) {
    Storage storage;
    storage.kind = kind;
    storage.type = type;
    storage.bytes = type.storage_bytes();
    plan_->storages.push_back(storage);
    return static_cast<int>(plan_->storages.size()) - 1;
  }

  int add_slot(const Value* value, int storage, int64_t element_offset, bool is_view) {
    plan_->slots.push_back({value->type, storage, element_offset, is_view});
    return slots_[value] = static_cast<int>(plan_->slots.size()) - 1;
  }

  /// Notes where in a concatenation's result its inputs are written, when they are.
  void find_places_in(const Node& node) {
    auto* concat = node.as<Concat>();
    if (!concat || selection_.at(&node).kernel) return;
    int64_t offset = 0;
    for (const Value* input : node.inputs()) {
      places_[input] = {node.output(), offset};
      offset += input->type.shape[concat->axis] * node.output()->type.strides[concat->axis];
    }
  }

  /// The slot of a step's output, in memory of its own or where a concatenation wants it.
  int add_output(const Value* value, Storage::Kind kind) {
    auto place = places_.find(value);
    if (place == places_.end()) {
      int storage = add_storage(kind, value->type);
      return add_slot(value, storage, 0, false);
    }
    auto [whole, offset] = place->second;
    if (!slots_.count(whole)) add_output(whole, Storage::Kind::kArena);
    const Slot slot = plan_->slots[slots_.at(whole)];
    return add_slot(value, slot.storage, slot.element_offset + offset, true);
  }

  void add_node(const Node& node) {
    if (auto* constant = node.as<Constant>()) {
      int storage = add_storage(Storage::Kind::kConstant, node.output()->type);
      plan_->storages[storage].index = static_cast<int>(plan_->constants.size());
      bool read = is_read(node.output());
      has_computed_ = has_computed_ || (read && !constant->value.is_computed());
      plan_->constants.push_back(read ? constant->value.tensor() : at::Tensor());
      add_slot(node.output(), storage, 0, false);
      return;
    }
    int64_t offset = 0;
    if (is_free_view(node, &offset)) {
      const Slot source = plan_->slots[slots_.at(node.input(0))];
      add_slot(node.output(), source.storage, source.element_offset + offset, true);
      return;
    }
    const Choice& choice = selection_.at(&node);
    if (!choice.kernel) return;
    Step step{.kernel = choice.kernel,
              .inputs = {},
              .outputs = {},
              .likeness = likeness_of(node),
              .waits = {},
              .tactic = choice.tactic + (choice.config.empty() ? "" : " " + choice.config),
              .origin = node.origin,
              .microseconds = choice.microseconds,
              .flops = flops_of(node),
              .traffic = traffic_of(node),
              .attrs = node.attrs};
    for (const Value* input : node.inputs()) step.inputs.push_back(slots_.at(input));
    auto kind = choice.kernel->allocates_outputs() ? Storage::Kind::kKernel : Storage::Kind::kArena;
    for (const auto& output : node.outputs()) step.outputs.push_back(add_output(output.get(), kind));
    plan_->steps.push_back(std::move(step));
  }

  /// Whether the plan has to hold a constant: kernels do without what they have packed.
  bool is_read(const Value* constant) const {
    if (graph_.is_output(constant) || environment("TORCHWELD_VERIFY") == "1") return true;
    return std::any_of(constant->users().begin(), constant->users().end(), [&](const Node* user) {
      auto choice = selection_.find(user);
      if (choice == selection_.end() || !choice->second.kernel) return true;
      std::vector<size_t> packed = choice->second.kernel->packed_inputs();
      for (size_t i = 0; i < user->inputs().size(); ++i) {
        if (user->input(i) == constant && std::find(packed.begin(), packed.end(), i) == packed.end()) return true;
      }
      return false;
    });
  }

  void mark_outputs() {
    for (const Value* output : graph_.outputs()) {
      int slot = slots_.at(output);
      plan_->outputs.push_back(slot);
      Storage& storage = plan_->storages[plan_->slots[slot].storage];
      if (storage.kind == Storage::Kind::kArena) storage.kind = Storage::Kind::kOutput;
    }
  }

  void find_lifetimes() {
    for (size_t i = 0; i < plan_->steps.size(); ++i) {
      const Step& step = plan_->steps[i];
      for (int slot : step.inputs) plan_->storages[plan_->slots[slot].storage].last_step = static_cast<int>(i);
      for (int slot : step.outputs) {
        int& last = plan_->storages[plan_->slots[slot].storage].last_step;
        last = std::max(last, static_cast<int>(i));
      }
    }
    for (int slot : plan_->outputs) plan_->storages[plan_->slots[slot].storage].last_step = -1;
  }

  const Graph& graph_;
  const Selection& selection_;
  std::shared_ptr<Plan> plan_ = std::make_shared<Plan>();
  std::unordered_map<const Value*, int> slots_;
  struct Place {
    const Value* whole = nullptr;
    int64_t element_offset = 0;
  };
  std::unordered_map<const Value*, Place> places_;
  bool has_computed_ = false;  // constants, on the current stream
};

/// Whether `a` is of no more use when `b` begins.
bool is_before(const Buffer& a, const Buffer& b) {
  for (size_t lane = 0; lane < a.end.size(); ++lane) {
    if (a.end[lane] > b.begin[lane]) return false;
  }
  return true;
}

/// Puts each of the buffers, in this order, at the lowest offset where it overlaps none that may be alive at the same
/// time. Returns the arena's size.
int64_t place_in_order(std::vector<Buffer>& buffers, const std::vector<size_t>& order) {
  std::vector<const Buffer*> placed;  // by offset
  int64_t size = 0;
  for (size_t i : order) {
    Buffer& buffer = buffers[i];
    buffer.offset = 0;
    for (const Buffer* other : placed) {
      if (buffer.offset + buffer.bytes <= other->offset) break;
      if (is_before(*other, buffer) || is_before(buffer, *other)) continue;
      buffer.offset = std::max(buffer.offset, other->offset + other->bytes);
    }
    placed.insert(std::upper_bound(placed.begin(), placed.end(), &buffer,
                                   [](const Buffer* a, const Buffer* b) { return a->offset < b->offset; }),
                  &buffer);
    size = std::max(size, buffer.offset + buffer.bytes);
  }
  return size;
}

/// What no arena is smaller than: with one lane the most that is alive at one step, else the largest buffer.
int64_t smallest_arena(const std::vector<Buffer>& buffers) {
  int64_t most = 0;
  for (const Buffer& buffer : buffers) most = std::max(most, buffer.bytes);
  bool one_lane = std::all_of(buffers.begin(), buffers.end(), [](const Buffer& buffer) {
    return std::all_of(buffer.end.begin() + 1, buffer.end.end(), [](int end) { return end == 0; });
  });
  if (!one_lane) return most;
  for (const Buffer& buffer : buffers) {
    int64_t alive = 0;
    for (const Buffer& other : buffers) {
      bool together = other.begin[0] <= buffer.begin[0] && buffer.begin[0] < other.end[0];
      alive += together ? other.bytes : 0;
    }
    most = std::max(most, alive);
  }
  return most;
}

}  // namespace

bool is_free_view(const Node& node, int64_t* element_offset) {
  if (!node.attrs.def().is_view) return false;
  const TensorType& type = node.input(0)->type;
  if (type.numel() == 0) return false;
  // The op's own meaning, run on a tensor without data, tells whether it is a view and where it starts.
  at::Tensor input = at::empty_strided(type.shape, type.strides, at::TensorOptions(type.dtype).device(c10::kMeta));
  at::Tensor output = node.attrs.def().aten(node.attrs.data(), std::vector<at::Tensor>{input})[0];
  if (!output.is_alias_of(input)) return false;
  const TensorType& wanted = node.output()->type;
  if (!same_layout(wanted.shape, wanted.strides, output.strides().vec())) return false;
  *element_offset = output.storage_offset();
  return true;
}

const Value* memory_of(const Value* value) {
  int64_t offset = 0;
  while (value->producer() && is_free_view(*value->producer(), &offset)) value = value->producer()->input(0);
  return value;
}

void assign_arena(Plan& plan) {
  std::vector<LaneCounts> ended = ended_before(plan);
  auto touch = [&](Buffer& buffer, size_t step) {
    int lane = plan.steps[step].lane;
    for (size_t l = 0; l < buffer.begin.size(); ++l) buffer.begin[l] = std::min(buffer.begin[l], ended[step][l]);
    buffer.end[lane] = std::max(buffer.end[lane], ended[step][lane] + 1);
  };
  Buffer untouched;
  untouched.begin.fill(std::numeric_limits<int>::max());
  std::vector<Buffer> of_storages(plan.storages.size(), untouched);
  std::vector<Buffer> buffers;
  std::vector<int64_t*> offsets;
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    for (int slot : plan.steps[i].inputs) touch(of_storages[plan.slots[slot].storage], i);
    for (int slot : plan.steps[i].outputs) touch(of_storages[plan.slots[slot].storage], i);
  }
  for (size_t i = 0; i < plan.storages.size(); ++i) {
    Storage& storage = plan.storages[i];
    if (storage.kind != Storage::Kind::kArena || storage.bytes == 0) continue;
    buffers.push_back(of_storages[i]);
    buffers.back().bytes = align(storage.bytes);
    offsets.push_back(&storage.offset);
  }
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    int64_t bytes = plan.steps[i].kernel->workspace_bytes();
    if (bytes == 0) continue;
    touch(buffers.emplace_back(untouched), i);
    buffers.back().bytes = align(bytes);
    offsets.push_back(&plan.steps[i].workspace_offset);
  }
  plan.arena_bytes = assign_offsets(buffers);
  for (size_t i = 0; i < buffers.size(); ++i) *offsets[i] = buffers[i].offset;
}

std::shared_ptr<Plan> with_parallel_branches(const Plan& plan) {
  auto parallel = std::make_shared<Plan>(plan);
  assign_lanes(*parallel);
  if (parallel->lanes == 1) return nullptr;
  assign_arena(*parallel);
  return parallel;
}

int64_t assign_offsets(std::vector<Buffer>& buffers) {
  constexpr size_t kMostRounds = 64;
  constexpr size_t kMostComparisons = 1'000'000;  // a few ms: calls may wait
  const size_t rounds =
      std::clamp(kMostComparisons / std::max<size_t>(buffers.size() * buffers.size(), 1), size_t{1}, kMostRounds);
  const int64_t bound = smallest_arena(buffers);
  int64_t smallest = std::numeric_limits<int64_t>::max();
  std::vector<Buffer> trial = buffers;
  for (bool by_size : {true, false}) {
    std::vector<size_t> order(buffers.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return by_size ? buffers[a].bytes > buffers[b].bytes : buffers[a].begin < buffers[b].begin;
    });
    for (size_t round = 0; round < rounds && smallest > bound; ++round) {
      int64_t size = place_in_order(trial, order);
      if (size < smallest) {
        smallest = size;
        buffers = trial;
      }
      // What lies at the very end comes first in the next round.
      auto last =
          std::find_if(order.begin(), order.end(), [&](size_t i) { return trial[i].offset + trial[i].bytes == size; });
      if (last != order.end()) std::rotate(order.begin(), last, last + 1);
    }
  }
  return smallest;
}

std::shared_ptr<Plan> place(const Graph& graph, const Selection& selection, c10::Device device) {
  return Placer(graph, selection, device).run();
}

}  // namespace torchweld
