#include "partitioning/partition.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "partitioning/levels.h"

namespace torchweld {

namespace jit = torch::jit;
using Kind = NodeOutcome::Kind;

namespace {

bool is_tensor(const jit::Value* value) { return value->type()->isSubtypeOf(*c10::TensorType::get()); }

/// Operator calls in a node and in its blocks that were imported.
int64_t count_operations(const jit::Node* node, const Probe& probe) {
  int64_t count = 0;
  auto outcome = probe.outcomes.find(node);
  if (outcome != probe.outcomes.end() &&
      (outcome->second.kind == Kind::kNative || outcome->second.kind == Kind::kGeneric)) {
    ++count;
  }
  for (const jit::Block* block : node->blocks()) {
    for (const jit::Node* inner : block->nodes()) count += count_operations(inner, probe);
  }
  return count;
}

double count_flops(const jit::Node* node, const Probe& probe) {
  auto outcome = probe.outcomes.find(node);
  double flops = outcome == probe.outcomes.end() ? 0 : outcome->second.flops;
  for (const jit::Block* block : node->blocks()) {
    for (const jit::Node* inner : block->nodes()) flops += count_flops(inner, probe);
  }
  return flops;
}

/// Cuts up one block.
class BlockPartitioner {
 public:
  BlockPartitioner(jit::Block* block, const jit::AliasDb& aliases, const Probe& probe, const Options& options,
                   Partition& result)
      : block_(block), aliases_(aliases), probe_(probe), options_(options), result_(result) {
    for (jit::Node* node : block->nodes()) nodes_.push_back(node);
  }

  void run() {
    for (jit::Node* node : nodes_) classify(node);
    group_containers();
    // Each round takes nodes out of engines; it ends when none has to go.
    do {
      find_live();
      levels_ = assign_levels(block_, nodes_, roles(), chains());
    } while (demote_untakable() || demote_split_containers() || demote_escaping() || demote_small());
    emit();
  }

 private:
  std::unordered_map<const jit::Node*, Role>& roles() { return result_.roles; }
  Role role(const jit::Node* node) const { return result_.roles.at(node); }

  void classify(jit::Node* node) {
    auto found = probe_.outcomes.find(node);
    Role role = Role::kNeutral;
    if (found == probe_.outcomes.end()) {
      role = Role::kTorch;  // never reached for these inputs
    } else if (const NodeOutcome& outcome = found->second; outcome.kind == Kind::kFailed) {
      role = Role::kTorch;
      if (node->blocks().empty()) reasons_[node] = outcome.reason;
    } else if (node->kind() == c10::prim::Constant || node->kind() == c10::prim::GetAttr) {
      role = Role::kFree;
    } else if (touches_written_tensor(node)) {
      role = Role::kTorch;
      if (outcome.kind != Kind::kConcrete) reasons_[node] = "touches memory that is written in place";
    } else if (outcome.kind != Kind::kConcrete || !node->blocks().empty() || gives_symbolic(node)) {
      role = Role::kEngine;
    }
    roles()[node] = role;
  }

  bool gives_symbolic(const jit::Node* node) const {
    return std::any_of(node->outputs().begin(), node->outputs().end(),
                       [&](const jit::Value* v) { return probe_.symbolic.count(v) > 0; });
  }

  bool touches_written_tensor(const jit::Node* node) const {
    auto written = [&](const jit::Value* v) { return is_tensor(v) && aliases_.hasWriters(v); };
    std::vector<const jit::Value*> read = values_read(node);
    return std::any_of(read.begin(), read.end(), written) ||
           std::any_of(node->outputs().begin(), node->outputs().end(), written);
  }

  /// Lists and dicts that are written (append): when everything that touches one is fine and in this block, it lives
  /// inside a segment; else LibTorch keeps it.
  void group_containers() {
    std::vector<std::vector<const jit::Value*>> groups;
    std::map<const jit::Node*, std::set<size_t>> touched;
    std::set<size_t> outside;
    auto group_of = [&](const jit::Value* value) -> std::optional<size_t> {
      auto kind = value->type()->kind();
      bool is_container = kind == c10::TypeKind::ListType || kind == c10::TypeKind::DictType;
      if (!is_container || !aliases_.hasWriters(value)) return std::nullopt;
      for (size_t g = 0; g < groups.size(); ++g) {
        if (!aliases_.mayAlias(groups[g].front(), value)) continue;
        groups[g].push_back(value);
        return g;
      }
      groups.push_back({value});
      return groups.size() - 1;
    };
    for (jit::Node* node : nodes_) {
      std::vector<const jit::Value*> values = values_read(node);
      values.insert(values.end(), node->outputs().begin(), node->outputs().end());
      for (const jit::Value* value : values) {
        auto group = group_of(value);
        if (!group) continue;
        touched[node].insert(*group);
        if (value->node()->owningBlock() != block_ || role(node) == Role::kTorch) outside.insert(*group);
      }
    }
    for (const jit::Value* value : block_->outputs()) {
      if (auto group = group_of(value)) outside.insert(*group);
    }
    chains_.assign(groups.size(), {});
    for (jit::Node* node : nodes_) {
      for (size_t group : touched[node]) {
        bool stays = outside.count(group) > 0;
        if (stays) {
          roles()[node] = Role::kTorch;
        } else if (role(node) != Role::kTorch) {
          roles()[node] = Role::kEngine;
        }
        chains_[group].push_back(node);
      }
    }
    // Whatever LibTorch does to memory or the outside world keeps its order.
    std::vector<jit::Node*> ordered;
    for (jit::Node* node : nodes_) {
      if (role(node) == Role::kTorch && (node->hasSideEffects() || aliases_.hasWriters(node) ||
                                         !node->blocks().empty() || node->kind() == c10::prim::GetAttr)) {
        ordered.push_back(node);
      }
    }
    chains_.push_back(std::move(ordered));
  }

  const std::vector<std::vector<jit::Node*>>& chains() const { return chains_; }

  /// The node of this block in or under which `node` stands.
  const jit::Node* ancestor(const jit::Node* node) const {
    while (node->owningBlock() != block_) node = node->owningBlock()->owningNode();
    return node;
  }

  /// Neutral nodes that something outside segments reads.
  void find_live() {
    live_.clear();
    for (auto it = nodes_.rbegin(); it != nodes_.rend(); ++it) {
      jit::Node* node = *it;
      if (role(node) != Role::kNeutral) continue;
      bool copied = can_be_copied(node, roles());
      for (const jit::Value* output : node->outputs()) {
        for (const jit::Use& use : output->uses()) {
          if (use.user == block_->return_node()) {
            live_.insert(node);
            continue;
          }
          const jit::Node* user = ancestor(use.user);
          Role r = role(user);
          if (r == Role::kTorch || (r == Role::kNeutral && live_.count(user)) || (r == Role::kEngine && !copied)) {
            live_.insert(node);
          }
        }
      }
    }
  }

  bool demote(const jit::Node* node, const std::string& reason) {
    roles()[node] = Role::kTorch;
    if (node->blocks().empty() && probe_.outcomes.at(node).kind != Kind::kConcrete) reasons_[node] = reason;
    return true;
  }

  /// Engine nodes that need something which cannot be handed to a segment.
  bool demote_untakable() {
    bool changed = false;
    for (jit::Node* node : nodes_) {
      if (role(node) != Role::kEngine) continue;
      for (const jit::Value* value : values_read(node)) {
        const jit::Node* producer = value->node();
        auto known = roles().find(producer);
        Role r = known == roles().end() ? Role::kTorch : known->second;
        bool inside = r == Role::kEngine && producer->owningBlock() == block_;
        bool is_module = value->type()->cast<c10::ClassType>() != nullptr;
        if (inside || r == Role::kFree || is_module || can_be_input(value)) continue;
        if (r == Role::kNeutral && can_be_copied(producer, roles())) continue;
        changed = demote(node, "takes a " + value->type()->str() + " that LibTorch makes");
        break;
      }
    }
    return changed;
  }

  bool demote_split_containers() {
    bool changed = false;
    for (size_t i = 0; i + 1 < chains_.size(); ++i) {
      std::set<int> levels;
      for (const jit::Node* node : chains_[i]) {
        if (role(node) == Role::kEngine) levels.insert(levels_.at(node).level);
      }
      if (levels.size() < 2) continue;
      for (const jit::Node* node : chains_[i]) {
        if (role(node) == Role::kEngine) changed = demote(node, "works on a list that LibTorch must see");
      }
    }
    return changed;
  }

  /// Engine nodes whose lists or numbers are needed outside their segment: only tensors come out of one.
  bool demote_escaping() {
    bool changed = false;
    for (jit::Node* node : nodes_) {
      if (role(node) != Role::kEngine) continue;
      for (const jit::Value* output : node->outputs()) {
        if (is_tensor(output)) continue;
        bool escapes = std::any_of(output->uses().begin(), output->uses().end(), [&](const jit::Use& use) {
          if (use.user == block_->return_node()) return true;
          const jit::Node* user = ancestor(use.user);
          if (role(user) == Role::kEngine) return levels_.at(user).level != levels_.at(node).level;
          return role(user) == Role::kTorch || live_.count(user) > 0;
        });
        if (!escapes) continue;
        changed = demote(node, "gives a " + output->type()->str() + " that LibTorch needs");
        break;
      }
    }
    return changed;
  }

  bool demote_small() {
    std::map<int, std::pair<int64_t, std::vector<jit::Node*>>> segments;
    for (jit::Node* node : nodes_) {
      if (role(node) != Role::kEngine) continue;
      auto& [count, members] = segments[levels_.at(node).level];
      count += count_operations(node, probe_);
      members.push_back(node);
    }
    bool changed = false;
    for (auto& [level, segment] : segments) {
      auto& [count, members] = segment;
      if (count >= options_.min_block_size && has_output(members)) continue;
      std::string reason = "its segment has " + std::to_string(count) + " operation" + (count == 1 ? "" : "s") +
                           ", fewer than min_block_size=" + std::to_string(options_.min_block_size);
      for (jit::Node* node : members) changed = demote(node, reason);
    }
    return changed;
  }

  bool has_output(const std::vector<jit::Node*>& members) const {
    std::set<const jit::Node*> inside(members.begin(), members.end());
    for (const jit::Node* node : members) {
      for (const jit::Value* output : node->outputs()) {
        if (!is_tensor(output)) continue;
        for (const jit::Use& use : output->uses()) {
          if (use.user == block_->return_node() || !inside.count(ancestor(use.user))) return true;
        }
      }
    }
    return false;
  }

  void emit() {
    BlockPartition out;
    out.block = block_;
    std::map<int, Segment> segments;
    for (jit::Node* node : nodes_) {
      if (role(node) == Role::kEngine) {
        segments[levels_.at(node).level].nodes.push_back(node);
        result_.flops_in_engines += count_flops(node, probe_);
      } else if (role(node) == Role::kNeutral && !live_.count(node)) {
        out.dead.push_back(node);
      }
      if (auto reason = reasons_.find(node); reason != reasons_.end())
        result_.fallbacks.push_back({node, reason->second});
    }
    std::vector<jit::Node*> staying;
    for (jit::Node* node : nodes_) {
      bool stays = role(node) == Role::kFree || role(node) == Role::kTorch || live_.count(node) > 0;
      if (stays) staying.push_back(node);
    }
    // A segment comes before whatever else has its level; apart from that, program order is kept.
    std::stable_sort(staying.begin(), staying.end(),
                     [&](const jit::Node* a, const jit::Node* b) { return position(a) < position(b); });
    auto next = segments.begin();
    for (jit::Node* node : staying) {
      while (next != segments.end() && next->first <= position(node)) {
        out.order.push_back(nullptr);
        ++next;
      }
      out.order.push_back(node);
    }
    for (; next != segments.end(); ++next) out.order.push_back(nullptr);
    for (auto& [level, segment] : segments) out.segments.push_back(std::move(segment));
    result_.blocks.push_back(std::move(out));
  }

  int position(const jit::Node* node) const {
    return role(node) == Role::kFree ? kBeforeEverything : levels_.at(node).level;
  }

  jit::Block* block_;
  const jit::AliasDb& aliases_;
  const Probe& probe_;
  const Options& options_;
  Partition& result_;
  std::vector<jit::Node*> nodes_;
  std::vector<std::vector<jit::Node*>> chains_;
  std::set<const jit::Node*> live_;
  std::unordered_map<const jit::Node*, Level> levels_;
  std::map<const jit::Node*, std::string> reasons_;
};

void partition_block(jit::Block* block, const jit::AliasDb& aliases, const Probe& probe, const Options& options,
                     Partition& result) {
  BlockPartitioner(block, aliases, probe, options, result).run();
  for (jit::Node* node : block->nodes()) {
    bool reached = probe.outcomes.count(node) > 0;
    if (result.roles.at(node) != Role::kTorch || !reached) continue;
    for (jit::Block* inner : node->blocks()) partition_block(inner, aliases, probe, options, result);
  }
}

}  // namespace

bool can_be_input(const jit::Value* value) {
  switch (value->type()->kind()) {
    case c10::TypeKind::TensorType:
    case c10::TypeKind::IntType:
    case c10::TypeKind::FloatType:
    case c10::TypeKind::BoolType:
    case c10::TypeKind::StringType:
    case c10::TypeKind::DeviceObjType:
    case c10::TypeKind::NoneType:
      return true;
    default:
      return false;
  }
}

bool can_be_copied(const jit::Node* node, const std::unordered_map<const jit::Node*, Role>& roles) {
  for (const jit::Value* value : values_read(node)) {
    auto known = roles.find(value->node());
    Role role = known == roles.end() ? Role::kTorch : known->second;
    if (role == Role::kFree || role == Role::kEngine || can_be_input(value)) continue;
    if (value->type()->cast<c10::ClassType>()) continue;
    if (role != Role::kNeutral || !can_be_copied(value->node(), roles)) return false;
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

Partition partition(jit::Graph& graph, const jit::AliasDb& aliases, const Probe& probe, const Options& options) {
  Partition result;
  partition_block(graph.block(), aliases, probe, options, result);
  return result;
}

}  // namespace torchweld
