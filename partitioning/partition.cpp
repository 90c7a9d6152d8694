#include "partitioning/partition.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <unordered_set>

#include "partitioning/levels.h"

namespace torchweld {

namespace jit = torch::jit;
using Kind = NodeOutcome::Kind;

namespace {

bool is_tensor(const jit::Value* value) { return value->type()->isSubtypeOf(*c10::TensorType::get()); }

bool is_container(const jit::Value* value) {
  auto kind = value->type()->kind();
  return kind == c10::TypeKind::ListType || kind == c10::TypeKind::DictType;
}

/// True for nodes that ask for a tensor's sizes or dtype, which writing its elements does not change.
bool is_about_type(const jit::Node* node) {
  static const std::unordered_set<std::string> names{
      "aten::size",       "aten::dim",     "aten::numel",  "aten::len",     "aten::stride",
      "prim::device",     "prim::dtype",   "prim::layout", "prim::is_cuda", "aten::is_floating_point",
      "aten::is_complex", "aten::sym_size"};
  return names.count(node->kind().toQualString()) > 0;
}

bool is_graph_input(const jit::Value* value) {
  return value->node()->kind() == c10::prim::Param && !value->node()->owningBlock()->owningNode();
}

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

/// What is known about memory that is written.
struct Writes {
  const jit::AliasDb& aliases;
  const std::optional<std::unordered_set<const jit::Value*>>& inputs;  ///< Of the graph; nothing: perhaps every one.
};

/// Cuts up one block.
class BlockPartitioner {
 public:
  BlockPartitioner(jit::Block* block, const Writes& writes, const Probe& probe, const Options& options,
                   Partition& result)
      : block_(block), writes_(writes), aliases_(writes.aliases), probe_(probe), options_(options), result_(result) {
    for (jit::Node* node : block->nodes()) nodes_.push_back(node);
  }

  void run() {
    for (jit::Node* node : nodes_) classify(node);
    group_written();
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
    } else if (outcome.kind != Kind::kConcrete || !node->blocks().empty() || gives_symbolic(node)) {
      role = Role::kEngine;
    }
    roles()[node] = role;
  }

  bool gives_symbolic(const jit::Node* node) const {
    return std::any_of(node->outputs().begin(), node->outputs().end(),
                       [&](const jit::Value* v) { return probe_.symbolic.count(v) > 0; });
  }

  /// Values that may share memory which is written, and the nodes that touch it.
  struct WrittenGroup {
    std::vector<const jit::Value*> values;
    std::vector<jit::Node*> nodes;
    bool stays = false;  ///< LibTorch keeps it.
    bool may_hold(const jit::Value* value, const jit::AliasDb& aliases) const {
      return std::any_of(values.begin(), values.end(),
                         [&](const jit::Value* v) { return v == value || aliases.mayAlias(v, value); });
    }
  };

  /// Every written list, dict and tensor that a node of this block touches, or that it gives back.
  std::vector<WrittenGroup> find_written() const {
    std::vector<WrittenGroup> groups;
    auto touch = [&](const jit::Value* value, jit::Node* node) {
      if (!(is_container(value) || is_tensor(value)) || !aliases_.hasWriters(value)) return;
      WrittenGroup merged{{value}, {}, false};
      if (node) merged.nodes.push_back(node);
      // A segment hands out the tensors it wrote, but no lists; what comes from elsewhere it cannot write.
      bool comes_in = value->node()->owningBlock() != block_ || value->node()->kind() == c10::prim::Param;
      bool only_read = writes_.inputs && is_graph_input(value) && !writes_.inputs->count(value);
      merged.stays = (comes_in && !only_read) || (!node && !is_tensor(value));
      for (auto group = groups.begin(); group != groups.end();) {
        if (!group->may_hold(value, aliases_)) {
          ++group;
          continue;
        }
        for (const jit::Value* v : group->values) {
          if (v != value) merged.values.push_back(v);
        }
        merged.nodes.insert(merged.nodes.end(), group->nodes.begin(), group->nodes.end());
        merged.stays = merged.stays || group->stays;
        group = groups.erase(group);
      }
      groups.push_back(std::move(merged));
    };
    for (jit::Node* node : nodes_) {
      bool asks_for_type = is_about_type(node);
      std::vector<const jit::Value*> values = values_read(node);
      values.insert(values.end(), node->outputs().begin(), node->outputs().end());
      for (const jit::Value* value : values) {
        if (!asks_for_type || !is_tensor(value)) touch(value, node);
      }
    }
    for (const jit::Value* value : block_->outputs()) touch(value, nullptr);
    return groups;
  }

  /// When everything that touches a written group is fine and in this block, it lives inside a segment; else LibTorch
  /// keeps all of it.
  void group_written() {
    std::vector<WrittenGroup> groups = find_written();
    for (bool changed = true; changed;) {
      changed = false;
      for (WrittenGroup& group : groups) {
        auto in_torch = [&](const jit::Node* node) { return role(node) == Role::kTorch; };
        group.stays = group.stays || std::any_of(group.nodes.begin(), group.nodes.end(), in_torch);
        if (!group.stays) continue;
        const char* what = is_tensor(group.values.front()) ? "memory" : "a list or dict";
        for (const jit::Node* node : group.nodes) {
          if (in_torch(node)) continue;
          changed = demote(node, std::string("touches ") + what + " that is written in place");
        }
      }
    }
    std::unordered_map<const jit::Node*, size_t> place;
    for (jit::Node* node : nodes_) place.emplace(node, place.size());
    for (WrittenGroup& group : groups) {
      std::vector<jit::Node*>& nodes = group.nodes;
      std::sort(nodes.begin(), nodes.end(), [&](auto* a, auto* b) { return place.at(a) < place.at(b); });
      nodes.erase(std::unique(nodes.begin(), nodes.end()), nodes.end());
      for (const jit::Node* node : nodes) {
        if (!group.stays) roles()[node] = Role::kEngine;
      }
      chains_.push_back(nodes);
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
  const Writes& writes_;
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

void partition_block(jit::Block* block, const Writes& writes, const Probe& probe, const Options& options,
                     Partition& result) {
  BlockPartitioner(block, writes, probe, options, result).run();
  for (jit::Node* node : block->nodes()) {
    bool reached = probe.outcomes.count(node) > 0;
    if (result.roles.at(node) != Role::kTorch || !reached) continue;
    for (jit::Block* inner : node->blocks()) partition_block(inner, writes, probe, options, result);
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

Partition partition(jit::Graph& graph, const jit::AliasDb& aliases,
                    const std::optional<std::unordered_set<const jit::Value*>>& written_inputs, const Probe& probe,
                    const Options& options) {
  Partition result;
  partition_block(graph.block(), {aliases, written_inputs}, probe, options, result);
  return result;
}

}  // namespace torchweld
