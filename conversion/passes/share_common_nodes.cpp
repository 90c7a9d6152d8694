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
  std::map<std::string, Node*> constants;
  std::map<std::pair<const OpDef*, std::vector<const Value*>>, std::vector<Node*>> others;
  for (Node* node : graph.node_list()) {
    Node* first = nullptr;
    if (auto* constant = node->as<Constant>()) {
      first = constants.emplace(constant_key(constant->value), node).first->second;
    } else {
      std::vector<const Value*> inputs(node->inputs().begin(), node->inputs().end());
      std::vector<Node*>& alike = others[{&node->attrs.def(), std::move(inputs)}];
      auto found =
          std::find_if(alike.begin(), alike.end(), [&](const Node* other) { return other->attrs == node->attrs; });
      if (found == alike.end()) found = alike.insert(alike.end(), node);
      first = *found;
    }
    if (first == node) continue;
    for (size_t i = 0; i < node->outputs().size(); ++i) {
      if (node->output(i)->type == first->output(i)->type) graph.replace_uses(node->output(i), first->output(i));
    }
  }
}

}  // namespace torchweld
