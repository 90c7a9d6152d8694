#include "conversion/traffic.h"

#include <algorithm>
#include <set>

#include "conversion/place.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "core/ops/index.h"

namespace torchweld {
namespace {

/// Expanded tensors have less memory than elements, slices more.
int64_t bytes_of_type(const TensorType& type) {
  return std::min(type.numel() * static_cast<int64_t>(c10::elementSize(type.dtype)), type.storage_bytes());
}

/// Bytes of the rows that are picked from an input of a body; of all of it where it is no table.
int64_t bytes_picked(const Graph& body, size_t i) {
  const Value* table = body.inputs()[i].get();
  int64_t picked = 0;
  for (const Node* user : table->users()) {
    bool picks = user->as<Take>() && user->input(0) == table;
    if (!picks) return bytes_of_type(table->type);
    picked += bytes_of_type(user->output()->type);
  }
  return picked;
}

int64_t bytes_read(const Node& node, size_t i) {
  int64_t all = bytes_of_type(node.input(i)->type);
  if (auto* fused = node.as<Fused>()) return std::min(all, bytes_picked(*fused->body, i));
  if (i > 0) return all;
  if (node.as<Take>() || node.as<Gather>()) return std::min(all, bytes_of_type(node.output()->type));
  if (node.as<EmbeddingBag>() && node.input(0)->type.shape[0] > 0) {
    return std::min(all, all / node.input(0)->type.shape[0] * node.input(1)->type.numel());
  }
  return all;
}

bool is_weight(const Value* value) { return memory_of(value)->from<Constant>() != nullptr; }

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

}  // namespace torchweld
