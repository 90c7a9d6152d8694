#include <algorithm>
#include <optional>

#include "conversion/passes/passes.h"
#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/layout.h"
#include "core/ops/pointwise.h"
#include "core/ops/shape.h"
#include "kernels/aten/aten_kernel.h"

namespace torchweld {
namespace {

constexpr int64_t kAlwaysSmall = 1 << 16;  // bytes
constexpr int64_t kGrowth = 4;

bool is_worth_keeping(const Node& node) {
  int64_t in = 0;
  int64_t out = 0;
  for (const Value* v : node.inputs()) in += v->type.storage_bytes();
  for (const auto& v : node.outputs()) out += v->type.storage_bytes();
  return out <= std::max(kAlwaysSmall, kGrowth * in);
}

bool can_fold(const Graph& graph, const Node& node) {
  if (node.as<Constant>() || node.as<Expand>()) return false;
  bool known =
      std::all_of(node.inputs().begin(), node.inputs().end(), [](const Value* v) { return v->from<Constant>(); });
  // A result that the caller gets must be a tensor of its own at every call.
  bool handed_out = std::any_of(node.outputs().begin(), node.outputs().end(),
                                [&](const auto& v) { return graph.is_output(v.get()); });
  return known && !handed_out && is_worth_keeping(node);
}

/// The node as a constant to compute once somebody reads it; nothing where its attributes may hold more than their text
/// says, or where running it may not work out.
std::optional<LazyTensor> folded_later(const Node& node) {
  bool plain = node.as<Cast>() || node.as<Permute>() || node.as<Reshape>() || node.as<Slice>() || node.as<Concat>() ||
               node.as<Copy>();
  if (!plain) return std::nullopt;
  std::vector<LazyTensor> inputs;
  for (const Value* v : node.inputs()) inputs.push_back(*lazy_constant_of(v));
  return LazyTensor::derived(node.attrs.text(), inputs, node.output()->type,
                             [attrs = node.attrs](const std::vector<at::Tensor>& tensors) {
                               return attrs.def().aten(attrs.data(), tensors).at(0);
                             });
}

}  // namespace

void fold_constants(Graph& graph, const PassContext&) {
  PlainAten plain;
  for (Node* node : graph.node_list()) {
    if (!can_fold(graph, *node)) continue;
    Graph::InsertBefore here(graph, node);
    if (std::optional<LazyTensor> later = folded_later(*node)) {
      graph.replace_uses(node->output(), graph.add(Constant{*std::move(later), ""}, {}));
      continue;
    }
    std::vector<at::Tensor> inputs;
    for (const Value* v : node->inputs()) inputs.push_back(*constant_of(v));
    std::vector<at::Tensor> results = node->attrs.def().aten(node->attrs.data(), inputs);
    check(results.size() == node->outputs().size(), "number of results of " + node->attrs.text());
    for (size_t i = 0; i < results.size(); ++i) {
      const TensorType& type = node->output(i)->type;
      check(results[i].scalar_type() == type.dtype && results[i].sizes() == at::IntArrayRef(type.shape),
            node->attrs.text() + " gave " + to_string(type_of(results[i])) + ", its inputs say " + to_string(type));
      at::Tensor value = results[i];
      if (!same_layout(type.shape, value.strides().vec(), type.strides) || value.device() != type.device) {
        value = empty_tensor(type);
        value.copy_(results[i]);
      }
      graph.replace_uses(node->output(i), graph.add(Constant{value, ""}, {}));
    }
  }
}

}  // namespace torchweld
