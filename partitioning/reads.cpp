#include "partitioning/reads.h"

#include <functional>

#include "core/plain_value.h"

namespace torchweld {

namespace jit = torch::jit;

namespace {

bool is_takable(const c10::Type& type) {
  const auto* optional = type.castRaw<c10::OptionalType>();
  const c10::Type& given = optional ? *optional->getElementType() : type;
  return given.kind() == c10::TypeKind::TensorType || is_plain(given);
}

}  // namespace

bool is_tensor(const jit::Value* value) { return value->type()->isSubtypeOf(*c10::TensorType::get()); }

bool can_be_input(const jit::Value* value, const Partition& partition) {
  return is_takable(*value->type()) && !partition.elsewhere.count(value);
}

bool can_be_copied(const jit::Node* node, const Partition& partition) {
  for (const jit::Value* value : values_read(node)) {
    auto known = partition.roles.find(value->node());
    Role role = known == partition.roles.end() ? Role::kTorch : known->second;
    if (role == Role::kFree || role == Role::kEngine || can_be_input(value, partition)) continue;
    if (value->type()->cast<c10::ClassType>()) continue;
    if (role != Role::kNeutral || !can_be_copied(value->node(), partition)) return false;
  }
  return true;
}

std::vector<const jit::Value*> values_read(const jit::Node* node) {
  std::vector<const jit::Value*> values(node->inputs().begin(), node->inputs().end());
  std::function<void(const jit::Block*)> walk = [&](const jit::Block* block) {
    auto outside = [&](const jit::Value* value) {
      for (const jit::Block* b = value->node()->owningBlock(); b;
           b = b->owningNode() ? b->owningNode()->owningBlock() : nullptr) {
        if (b->owningNode() == node) return false;
      }
      return true;
    };
    for (const jit::Node* inner : block->nodes()) {
      for (const jit::Value* value : inner->inputs()) {
        if (outside(value)) values.push_back(value);
      }
      for (const jit::Block* deeper : inner->blocks()) walk(deeper);
    }
    for (const jit::Value* value : block->outputs()) {
      if (outside(value)) values.push_back(value);
    }
  };
  for (const jit::Block* block : node->blocks()) walk(block);
  return values;
}

}  // namespace torchweld
