#include "kernels/split.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"

namespace torchweld {
namespace {

constexpr int64_t kAlignment = 256;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

/// One part of a body as a graph of a single node.
struct Part {
  std::unique_ptr<Graph> graph;
  std::vector<const Value*> in;   ///< Values of the body that it reads.
  std::vector<const Value*> out;  ///< Values of the body that it computes.
  const Node* node() const { return graph->nodes().back().get(); }
};

/// Nodes of the body that `value` depends on, itself included.
void collect_sources(const Value* value, std::unordered_set<const Node*>& found) {
  const Node* node = value->producer();
  if (!node || !found.insert(node).second) return;
  for (const Value* input : node->inputs()) collect_sources(input, found);
}

/// Stands for `v` in a part's graph: weights stay visible as constants, so that kernels can pack them.
Value* add_source(Graph& graph, const Value* v, const Node& fused) {
  const Graph& body = *fused.as<Fused>()->body;
  if (!v->producer() && v == body.inputs()[v->index()].get()) {
    const Value* outer = fused.input(v->index());
    if (outer->from<Constant>()) return graph.add(outer->producer()->attrs, {});
  }
  return graph.add_input(v->type);
}

/// A fused node of those nodes of `body` that `chosen` holds; constants come along where they are read.
Part pointwise_part(const Node& fused, const std::unordered_set<const Node*>& chosen,
                    const std::unordered_set<const Value*>& wanted) {
  Part part;
  const Graph& body = *fused.as<Fused>()->body;
  auto inner = std::make_shared<Graph>();
  std::unordered_map<const Value*, Value*> values;
  auto find = [&](const Value* v) {
    Value*& known = values[v];
    if (known) return known;
    if (v->from<Constant>()) return known = inner->add(v->producer()->attrs, {});
    part.in.push_back(v);
    return known = inner->add_input(v->type);
  };
  for (const auto& node : body.nodes()) {
    if (!chosen.count(node.get()) || node->as<Constant>()) continue;
    std::vector<Value*> inputs;
    for (const Value* v : node->inputs()) inputs.push_back(find(v));
    Value* result = inner->add(node->attrs, inputs);
    result->type = node->output()->type;
    values[node->output()] = result;
    if (!wanted.count(node->output())) continue;
    part.out.push_back(node->output());
    inner->add_output(result);
  }
  part.graph = std::make_unique<Graph>();
  std::vector<Value*> inputs;
  for (const Value* v : part.in) inputs.push_back(add_source(*part.graph, v, fused));
  part.graph->add_node(Fused{inner}, inputs);
  return part;
}

Part anchor_part(const Node& fused, const Node& anchor) {
  Part part;
  part.graph = std::make_unique<Graph>();
  std::vector<Value*> inputs;
  for (const Value* v : anchor.inputs()) {
    part.in.push_back(v);
    inputs.push_back(add_source(*part.graph, v, fused));
  }
  Node* copy = part.graph->add_node(anchor.attrs, inputs);
  for (size_t i = 0; i < anchor.outputs().size(); ++i) {
    copy->output(i)->type = anchor.output(i)->type;
    part.out.push_back(anchor.output(i));
  }
  return part;
}

/// The parts in the order in which they run.
std::vector<Part> split_body(const Node& fused, const Node& anchor) {
  const Graph& body = *fused.as<Fused>()->body;
  std::unordered_set<const Node*> before;
  for (const Value* v : anchor.inputs()) collect_sources(v, before);
  std::unordered_set<const Node*> after;
  std::unordered_set<const Value*> wanted(body.outputs().begin(), body.outputs().end());
  for (const auto& node : body.nodes()) {
    if (node.get() == &anchor || before.count(node.get()) || node->as<Constant>()) continue;
    after.insert(node.get());
    wanted.insert(node->inputs().begin(), node->inputs().end());
  }
  wanted.insert(anchor.inputs().begin(), anchor.inputs().end());
  std::erase_if(before, [](const Node* node) { return node->as<Constant>() != nullptr; });
  std::vector<Part> parts;
  if (!before.empty()) parts.push_back(pointwise_part(fused, before, wanted));
  parts.push_back(anchor_part(fused, anchor));
  std::unordered_set<const Value*> results(body.outputs().begin(), body.outputs().end());
  if (!after.empty()) parts.push_back(pointwise_part(fused, after, results));
  return parts;
}

/// The first offer that builds; null when none does.
std::unique_ptr<Kernel> build_first(const Node& node, const KernelContext& context, std::string& name) {
  Offers offers = offers_for(node, context);
  for (const Offers::Offer& offer : offers.offers()) {
    try {
      auto kernel = offer.build();
      name += (name.empty() ? "" : " + ") + offer.tactic;
      return kernel;
    } catch (const std::exception&) {
      continue;  // the next offer may build; the last one, ATen, always does
    }
  }
  throw Unsupported("no part of the table takes " + node.attrs.text());
}

class SplitKernel : public Kernel {
 public:
  SplitKernel(const Graph& body, std::vector<Part> parts, const KernelContext& context) {
    for (const Value* v : body.outputs()) output_types_.push_back(v->type);
    std::unordered_map<const Value*, Slot> slots;
    for (size_t i = 0; i < body.inputs().size(); ++i)
      slots[body.inputs()[i].get()] = {Slot::kInput, static_cast<int>(i)};
    for (size_t i = 0; i < body.outputs().size(); ++i) slots[body.outputs()[i]] = {Slot::kOutput, static_cast<int>(i)};
    std::string name;
    for (const Part& part : parts) {
      Step& step = steps_.emplace_back();
      step.kernel = build_first(*part.node(), context, name);
      for (const Value* v : part.in) step.in.push_back(slots.at(v));
      for (const Value* v : part.out) {
        auto [slot, added] = slots.emplace(v, Slot{Slot::kTemporary, static_cast<int>(types_.size())});
        if (added) {
          offsets_.push_back(temporary_bytes_);
          types_.push_back(v->type);
          temporary_bytes_ += aligned(v->type.storage_bytes());
        }
        step.out.push_back(slot->second);
      }
      kernel_bytes_ = std::max(kernel_bytes_, step.kernel->workspace_bytes());
    }
    find_packed(body.inputs().size());
  }

  void run(const StepArgs& args) const override {
    auto* workspace = static_cast<char*>(args.workspace);
    if (allocates_outputs()) {
      for (size_t i = 0; i < output_types_.size(); ++i) *args.out[i] = empty_tensor(output_types_[i]);
    }
    std::vector<at::Tensor> temporaries(types_.size());
    for (size_t i = 0; i < types_.size(); ++i) {
      at::TensorOptions options = at::TensorOptions(types_[i].dtype).device(types_[i].device);
      temporaries[i] = types_[i].numel() == 0
                           ? empty_tensor(types_[i])
                           : at::from_blob(workspace + offsets_[i], types_[i].shape, types_[i].strides, options);
    }
    for (const Step& step : steps_) {
      std::vector<const at::Tensor*> in;
      std::vector<at::Tensor*> out;
      for (Slot s : step.in) {
        in.push_back(s.kind == Slot::kInput    ? args.in[s.index]
                     : s.kind == Slot::kOutput ? args.out[s.index]
                                               : &temporaries[s.index]);
      }
      for (Slot s : step.out) out.push_back(s.kind == Slot::kOutput ? args.out[s.index] : &temporaries[s.index]);
      // All alike: a first part with nothing to do would not wait for what the whole step waits for.
      step.kernel->run({in, out, workspace + temporary_bytes_, args.stream, args.early_start});
    }
  }

  int64_t workspace_bytes() const override { return temporary_bytes_ + kernel_bytes_; }
  bool capturable() const override {
    return std::all_of(steps_.begin(), steps_.end(), [](const Step& s) { return s.kernel->capturable(); });
  }
  bool allocates_outputs() const override {
    return std::any_of(steps_.begin(), steps_.end(), [](const Step& s) { return s.kernel->allocates_outputs(); });
  }
  bool may_overlap() const override {
    return std::all_of(steps_.begin(), steps_.end(), [](const Step& s) { return s.kernel->may_overlap(); });
  }
  std::vector<size_t> packed_inputs() const override { return packed_; }
  std::vector<at::Tensor> constants() const override {
    std::vector<at::Tensor> all;
    for (const Step& step : steps_) {
      std::vector<at::Tensor> own = step.kernel->constants();
      all.insert(all.end(), own.begin(), own.end());
    }
    return all;
  }
  std::vector<const cuda::Launch*> launches() const override {
    std::vector<const cuda::Launch*> all;
    for (const Step& step : steps_) {
      std::vector<const cuda::Launch*> own = step.kernel->launches();
      all.insert(all.end(), own.begin(), own.end());
    }
    return all;
  }

 private:
  struct Slot {
    enum Kind { kInput, kOutput, kTemporary } kind;
    int index;
  };
  struct Step {
    std::unique_ptr<Kernel> kernel;
    std::vector<Slot> in;
    std::vector<Slot> out;
  };

  /// An input is packed away when every step that reads it packed it.
  void find_packed(size_t inputs) {
    std::vector<int> reads(inputs), packs(inputs);
    for (const Step& step : steps_) {
      for (Slot s : step.in) {
        if (s.kind == Slot::kInput) ++reads[s.index];
      }
      for (size_t i : step.kernel->packed_inputs()) {
        if (step.in[i].kind == Slot::kInput) ++packs[step.in[i].index];
      }
    }
    for (size_t i = 0; i < inputs; ++i) {
      if (reads[i] > 0 && reads[i] == packs[i]) packed_.push_back(i);
    }
  }

  std::vector<Step> steps_;
  std::vector<TensorType> output_types_;
  std::vector<size_t> packed_;
  std::vector<TensorType> types_;  ///< Of the temporaries.
  std::vector<int64_t> offsets_;
  int64_t temporary_bytes_ = 0;
  int64_t kernel_bytes_ = 0;
};

}  // namespace

void propose_split(const Node& node, const KernelContext& context, Offers& offers) {
  auto* fused = node.as<Fused>();
  const Node* anchor = fused ? anchor_of(*fused) : nullptr;
  if (!anchor) return offers.refuse("split: only fused nodes with an anchor have parts");
  offers.add("", [&node, anchor, context] {
    const Graph& body = *node.as<Fused>()->body;
    return std::make_unique<SplitKernel>(body, split_body(node, *anchor), context);
  });
}

}  // namespace torchweld
