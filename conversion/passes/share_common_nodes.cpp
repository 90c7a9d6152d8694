#include <algorithm>
#include <map>

#include "conversion/passes/passes.h"
#include "core/ops/constant.h"

namespace torchweld {
namespace {

/// Equal for constants that hold the same numbers in the same form; large ones only when they are the same memory.
std::string constant_key(const LazyTensor& value) {
  if (!value.is_computed() && value.numel() > 16)
    return "lazy tensor " + std::to_string(reinterpret_cast<uintptr_t>(value.identity()));
  const at::Tensor& tensor = value.tensor();
  std::string key = tensor.unsafeGetTensorImpl()->is_wrapped_number() ? "number " : "tensor ";
  print_field(key, tensor);
  if (tensor.numel() > 16) key += " at " + std::to_string(reinterpret_cast<uintptr_t>(tensor.const_data_ptr()));
  return key;
}

}  // namespace

void share_common_nodes(Graph& graph, const PassContext&) {
  std::map<std::pair<std::string, std::vector<const Value*>>, Node*> known;
  for (Node* node : graph.node_list()) {
    auto* constant = node->as<Constant>();
    std::string text = constant ? constant_key(constant->value) : node->attrs.text();
    std::vector<const Value*> inputs(node->inputs().begin(), node->inputs().end());
    auto [slot, added] = known.emplace(std::pair(std::move(text), std::move(inputs)), node);
    if (added) continue;
    Node* first = slot->second;
    for (size_t i = 0; i < node->outputs().size(); ++i) {
      if (node->output(i)->type == first->output(i)->type) graph.replace_uses(node->output(i), first->output(i));
    }
  }
}

}  // namespace torchweld
