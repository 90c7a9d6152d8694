#include "conversion/traffic.h"

#include <algorithm>
#include <set>

#include "conversion/place.h"
#include "core/ops/constant.h"
#include "core/ops/index.h"

namespace torchweld {
namespace {

/// Expanded tensors have less memory than elements, slices more.
int64_t bytes_of_type(const TensorType& type) {
  return std::min(type.numel() * static_cast<int64_t>(c10::elementSize(type.dtype)), type.storage_bytes());
}

int64_t bytes_read(const Node& node, size_t i) {
  int64_t all = bytes_of_type(node.input(i)->type);
  if (i > 0) return all;
  if (node.as<Take>() || node.as<Gather>()) return std::min(all, bytes_of_type(node.output()->type));
  if (node.as<EmbeddingBag>() && node.input(0)->type.shape[0] > 0) {
    return std::min(all, all / node.input(0)->type.shape[0] * node.input(1)->type.numel());
  }
  return all;
}

bool is_weight(const Value* value) { return constant_of(memory_of(value)) != nullptr; }

}  // namespace

Traffic traffic_of(const Node& node) {
  Traffic traffic;
  std::set<const Value*> seen;
  for (size_t i = 0; i < node.inputs().size(); ++i) {
    if (!seen.insert(node.input(i)).second) continue;
    (is_weight(node.input(i)) ? traffic.weights : traffic.others) += bytes_read(node, i);
  }
  for (const auto& output : node.outputs()) traffic.others += bytes_of_type(output->type);
  return traffic;
}

int64_t weight_bytes(const Graph& graph) {
  int64_t sum = 0;
  std::set<const Value*> seen;
  for (const auto& node : graph.nodes()) {
    if (node->attrs.def().is_view) continue;
    for (size_t i = 0; i < node->inputs().size(); ++i) {
      if (is_weight(node->input(i)) && seen.insert(memory_of(node->input(i))).second) sum += bytes_read(*node, i);
    }
  }
  return sum;
}

}  // namespace torchweld
