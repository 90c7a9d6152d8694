#include "partitioning/reads.h"

#include <algorithm>
#include <functional>

namespace torchweld {

namespace jit = torch::jit;

namespace {

bool is_takable(const c10::Type& type) {
  switch (type.kind()) {
    case c10::TypeKind::TensorType:
    case c10::TypeKind::IntType:
    case c10::TypeKind::FloatType:
    case c10::TypeKind::BoolType:
    case c10::TypeKind::StringType:
    case c10::TypeKind::DeviceObjType:
    case c10::TypeKind::NoneType:
      return true;
    case c10::TypeKind::OptionalType:
      return is_takable(*type.castRaw<c10::OptionalType>()->getElementType());
    case c10::TypeKind::ListType:
    case c10::TypeKind::TupleType:
      return std::all_of(type.containedTypes().begin(), type.containedTypes().end(), [](const c10::TypePtr& element) {
        return element->kind() != c10::TypeKind::TensorType && is_takable(*element);
      });
    default:
      return false;
  }
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
