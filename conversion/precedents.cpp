#include "conversion/precedents.h"

#include <c10/util/hash.h>

#include <algorithm>

#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "core/ops/pointwise.h"
#include "kernels/kernel.h"

namespace torchweld {
namespace {

size_t hash_of_op(const Node& node) {
  size_t hash = c10::hash_combine(std::hash<std::string>()(node.op()), node.inputs().size());
  if (auto* pointwise = node.as<Pointwise>()) hash = c10::hash_combine(hash, std::hash<std::string>()(pointwise->fn));
  if (auto* fused = node.as<Fused>()) {
    for (const auto& inner : fused->body->nodes()) hash = c10::hash_combine(hash, hash_of_op(*inner));
  }
  return hash;
}

size_t hash_of_type(const TensorType& type) {
  return c10::hash_combine(static_cast<size_t>(type.dtype), static_cast<size_t>(type.rank()));
}

size_t hash_of_constant(const LazyTensor& value) {
  if (!value.origin().empty()) return std::hash<std::string>()(value.origin());
  size_t hash = hash_of_type(value.type());
  for (int64_t size : value.type().shape) hash = c10::hash_combine(hash, static_cast<size_t>(size));
  return hash;
}

/// Whether calls that wait may take such kernels, and want to: of LibTorch's, only where there are no others.
bool may_be_taken_at_once(const std::string& name) {
  return !is_in_torch(name) && std::any_of(tactics().begin(), tactics().end(), [&](const Tactic& tactic) {
    return tactic.name == name && tactic.pays_from == 0;
  });
}

}  // namespace

size_t likeness_of(const Node& node) {
  size_t hash = hash_of_op(node);
  for (const Value* input : node.inputs()) {
    const LazyTensor* constant = lazy_constant_of(input);
    hash = c10::hash_combine(hash, constant ? hash_of_constant(*constant) : hash_of_type(input->type));
  }
  for (const auto& output : node.outputs()) hash = c10::hash_combine(hash, hash_of_type(output->type));
  return hash;
}

void Precedents::add(const Plan& plan) {
  for (const Step& step : plan.steps) {
    size_t end = step.tactic.find(' ');
    std::string tactic = step.tactic.substr(0, end);
    if (!may_be_taken_at_once(tactic)) continue;
    std::vector<Known>& tactics = known_[step.likeness];
    auto found =
        std::find_if(tactics.begin(), tactics.end(), [&](const Known& known) { return known.tactic == tactic; });
    if (found == tactics.end()) found = tactics.insert(tactics.end(), {std::move(tactic), {}});
    found->configs.insert(end == std::string::npos ? "" : step.tactic.substr(end + 1));
  }
}

const std::vector<Precedents::Known>* Precedents::find(const Node& node) const {
  if (known_.empty()) return nullptr;
  auto found = known_.find(likeness_of(node));
  return found == known_.end() ? nullptr : &found->second;
}

}  // namespace torchweld
