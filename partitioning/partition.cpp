#include "partitioning/partition.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <unordered_set>

#include "partitioning/levels.h"
#include "partitioning/reads.h"
#include "partitioning/written_memory.h"

namespace torchweld {

namespace jit = torch::jit;
using Kind = NodeOutcome::Kind;

namespace {

/// Two segments that follow each other, and the nodes of LibTorch between them.
struct Neighbours {
  size_t first = 0;
  size_t second = 0;
  std::vector<const jit::Node*> between;
};

/// Cuts up one block.
class BlockPartitioner {
 public:
  BlockPartitioner(jit::Block* block, const Memory& memory, const Probe& probe, const Options& options,
                   Partition& result, std::vector<Neighbours>& neighbours)
      : block_(block), memory_(memory), probe_(probe), options_(options), result_(result), neighbours_(neighbours) {
    for (jit::Node* node : block->nodes()) nodes_.push_back(node);
  }

  void run() {
    for (jit::Node* node : nodes_) classify(node);
    group_written();
    dependencies_ = dependencies_of(block_, nodes_, chains_);
    // Each round takes nodes out of engines; it ends when none has to go.
    do {
      find_live();
      levels_ = assign_levels(nodes_, roles(), dependencies_);
    } while (demote_untakable() || demote_split_groups() || demote_escaping() || demote_small());
    emit();
  }

 private:
  std::unordered_map<const jit::Node*, Role>& roles() { return result_.roles; }
  const std::unordered_map<const jit::Node*, Role>& roles() const { return result_.roles; }
  Role role(const jit::Node* node) const { return result_.roles.at(node); }

  void classify(jit::Node* node) {
    Role role = Role::kNeutral;
    if (!is_reached(node)) {
      role = Role::kTorch;
    } else if (const NodeOutcome& outcome = probe_.outcomes.at(node); outcome.kind == Kind::kFailed) {
      role = Role::kTorch;
      if (node->blocks().empty()) reasons_[node] = {node, outcome.reason};
    } else if (node->kind() == c10::prim::Constant || node->kind() == c10::prim::GetAttr) {
      role = Role::kFree;
    } else if (outcome.kind != Kind::kConcrete || gives_symbolic(node) || !only_computes_numbers(node)) {
      role = Role::kEngine;
    }
    roles()[node] = role;
  }

  /// True for all but control flow in which something else happens than numbers and lists being computed.
  bool only_computes_numbers(const jit::Node* node) const {
    for (const jit::Block* block : node->blocks()) {
      for (const jit::Node* inner : block->nodes()) {
        auto outcome = probe_.outcomes.find(inner);
        bool is_number =
            outcome == probe_.outcomes.end() || (outcome->second.kind == Kind::kConcrete && !gives_symbolic(inner));
        if (!is_number || inner->hasSideEffects() || touches_written(inner, memory_) || !only_computes_numbers(inner)) {
          return false;
        }
      }
    }
    return true;
  }

  bool gives_symbolic(const jit::Node* node) const {
    return std::any_of(node->outputs().begin(), node->outputs().end(),
                       [&](const jit::Value* v) { return probe_.symbolic.count(v) > 0; });
  }

  /// When everything that touches a written group is fine and in this block, it lives inside a segment; else LibTorch
  /// keeps all of it, and segments only read it.
  void group_written() {
    std::vector<WrittenGroup> groups = find_written(block_, memory_);
    for (bool changed = true; changed;) {
      changed = false;
      for (WrittenGroup& group : groups) {
        auto in_torch = [&](const jit::Node* node) { return role(node) == Role::kTorch; };
        group.stays = group.stays || std::any_of(group.nodes.begin(), group.nodes.end(), in_torch);
        if (!group.stays) continue;
        const char* what = group.is_tensor ? "memory" : "a list or dict";
        for (const jit::Node* node : group.nodes) {
          if (in_torch(node) || (role(node) == Role::kEngine && only_reads(node, group.memory, memory_))) continue;
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
      if (!group.stays) undivided_.push_back(nodes);
      chains_.push_back(nodes);
    }
    // Whatever LibTorch does to memory, attributes, random generators or the outside world keeps its order.
    std::vector<jit::Node*> ordered;
    for (jit::Node* node : nodes_) {
      bool is_attribute = node->kind() == c10::prim::GetAttr || node->kind() == c10::prim::SetAttr;
      bool has_order = is_attribute || node->hasSideEffects() || node->isNondeterministic() ||
                       touches_written(node, memory_) || !node->blocks().empty();
      if (has_order && role(node) == Role::kTorch) ordered.push_back(node);
    }
    chains_.push_back(std::move(ordered));
  }

  /// The node of this block in or under which `node` stands.
  const jit::Node* ancestor(const jit::Node* node) const {
    while (node->owningBlock() != block_) node = node->owningBlock()->owningNode();
    return node;
  }

  /// Neutral nodes that something outside segments reads, and those that segments read and cannot have copies of.
  void find_live() {
    live_.clear();
    std::set<const jit::Node*> copied;  // into segments
    for (auto it = nodes_.rbegin(); it != nodes_.rend(); ++it) {
      jit::Node* node = *it;
      if (role(node) != Role::kNeutral) continue;
      const bool can_copy = can_be_copied(node, result_);
      for (const jit::Value* output : node->outputs()) {
        for (const jit::Use& use : output->uses()) {
          if (use.user == block_->return_node()) {
            live_.insert(node);
            continue;
          }
          const jit::Node* user = ancestor(use.user);
          if (role(user) == Role::kEngine || copied.count(user)) (can_copy ? copied : live_).insert(node);
          if (role(user) == Role::kTorch || live_.count(user)) live_.insert(node);
        }
      }
    }
  }

  bool demote(const jit::Node* node, const std::string& reason, bool is_small = false, int64_t segment_size = 0) {
    roles()[node] = Role::kTorch;
    if (node->blocks().empty() && probe_.outcomes.at(node).kind != Kind::kConcrete) {
      reasons_[node] = {node, reason, is_small, segment_size};
    }
    return true;
  }

  std::string described(const jit::Value* value) const {
    return value->type()->str() + (result_.elsewhere.count(value) ? " on another device" : "");
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
        // A list that is changed would be changed in a segment's own copy.
        bool takable = can_be_input(value, result_) && (is_tensor(value) || !memory_.is_written(value));
        if (inside || r == Role::kFree || is_module || takable) continue;
        if (r == Role::kNeutral && can_be_copied(producer, result_)) continue;
        changed = demote(node, "takes a " + described(value) + " that LibTorch makes");
        break;
      }
    }
    return changed;
  }

  bool demote_split_groups() {
    bool changed = false;
    for (const std::vector<jit::Node*>& nodes : undivided_) {
      std::set<std::pair<Role, int>> places;
      for (const jit::Node* node : nodes) places.emplace(role(node), levels_.at(node).level);
      if (places.size() < 2) continue;
      for (const jit::Node* node : nodes) {
        if (role(node) == Role::kEngine) changed = demote(node, "works on memory or a list that LibTorch must see");
      }
    }
    return changed;
  }

  /// Engine nodes whose lists or numbers, or tensors on another device, are needed outside their segment: only tensors
  /// on its own device come out of one.
  bool demote_escaping() {
    bool changed = false;
    for (jit::Node* node : nodes_) {
      if (role(node) != Role::kEngine) continue;
      for (const jit::Value* output : node->outputs()) {
        if (is_tensor(output) && !result_.elsewhere.count(output)) continue;
        bool escapes = std::any_of(output->uses().begin(), output->uses().end(), [&](const jit::Use& use) {
          if (use.user == block_->return_node()) return true;
          const jit::Node* user = ancestor(use.user);
          if (role(user) == Role::kEngine) return levels_.at(user).level != levels_.at(node).level;
          return role(user) == Role::kTorch || live_.count(user) > 0;
        });
        if (!escapes) continue;
        changed = demote(node, "gives a " + described(output) + " that LibTorch needs");
        break;
      }
    }
    return changed;
  }

  bool demote_small() {
    std::map<int, std::vector<jit::Node*>> segments;
    for (jit::Node* node : nodes_) {
      if (role(node) == Role::kEngine) segments[levels_.at(node).level].push_back(node);
    }
    bool changed = false;
    for (auto& [level, members] : segments) {
      int64_t count = count_operations(members);
      std::string reason;
      bool is_small = false;
      if (!has_output(members)) {
        reason = "nothing outside its segment reads a tensor of it";
      } else if (count < options_.min_block_size) {
        is_small = true;
        reason = "its segment has " + std::to_string(count) + " operation" + (count == 1 ? "" : "s") +
                 ", fewer than min_block_size=" + std::to_string(options_.min_block_size);
      } else if (std::vector<jit::Node*> unsure = unsure_of(members); !unsure.empty() && !is_heavy(members)) {
        // Where most is sure, that makes an engine without the rest.
        if (2 * count_operations(unsure) < count) members = std::move(unsure);
        reason = "sizes in its segment depend on data, and planning for all of them would cost more than it saves";
      }
      if (reason.empty()) continue;
      for (jit::Node* node : members) changed = demote(node, reason, is_small, count);
    }
    return changed;
  }

  /// For min_block_size: one call of a fast path does as much as the operators that it stands for, and a large
  /// convolution as much as many small operators.
  int64_t count_operations(const std::vector<jit::Node*>& members) const {
    constexpr double kFlopsOfAnOperation = 1e7;
    int64_t count = 0;
    for (const jit::Node* node : members) {
      probe_.visit_imported(node, [&](const NodeOutcome& outcome) {
        count += std::max(outcome.computations, static_cast<int64_t>(outcome.flops / kFlopsOfAnOperation));
      });
    }
    return count;
  }

  bool is_heavy(const std::vector<jit::Node*>& members) const {
    bool heavy = false;
    for (const jit::Node* node : members) {
      probe_.visit_imported(node, [&](const NodeOutcome& outcome) { heavy = heavy || outcome.is_heavy; });
    }
    return heavy;
  }

  /// Nodes of a segment that compute with tensors given to it whose types are not known before the program runs.
  std::vector<jit::Node*> unsure_of(const std::vector<jit::Node*>& members) const {
    std::set<const jit::Node*> inside(members.begin(), members.end());
    std::set<const jit::Node*> unsure;
    auto is_unsure = [&](const jit::Value* value) {
      if (probe_.types.count(value)) return false;
      if (inside.count(value->node())) return unsure.count(value->node()) > 0;
      auto known = roles().find(value->node());
      return is_tensor(value) &&
             (known == roles().end() || known->second == Role::kTorch || known->second == Role::kEngine);
    };
    std::vector<jit::Node*> result;
    for (jit::Node* node : members) {
      std::vector<const jit::Value*> values = values_read(node);
      if (std::none_of(values.begin(), values.end(), is_unsure)) continue;
      unsure.insert(node);
      result.push_back(node);
    }
    return result;
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
        Segment& segment = segments[levels_.at(node).level];
        segment.nodes.push_back(node);
        segment.flops += probe_.flops_of(node);
        probe_.visit_imported(node, [&](const NodeOutcome&) { ++segment.operations; });
      } else if (role(node) == Role::kNeutral && !live_.count(node)) {
        out.dead.push_back(node);
      }
      if (auto reason = reasons_.find(node); reason != reasons_.end()) result_.fallbacks.push_back(reason->second);
      if (live_.count(node) || !is_reached(node)) list_unreached(node);
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
    size_t number = result_.segments().size();
    for (auto& [level, segment] : segments) {
      segment.number = number++;
      if (!out.segments.empty()) {
        neighbours_.push_back({segment.number - 1, segment.number, nodes_between(level, segment)});
      }
      out.segments.push_back(std::move(segment));
    }
    result_.blocks.push_back(std::move(out));
  }

  bool is_reached(const jit::Node* node) const { return probe_.outcomes.count(node) > 0; }

  void list_unreached(const jit::Node* node) {
    bool computes = !node->kind().is_prim() && std::any_of(node->outputs().begin(), node->outputs().end(), is_tensor);
    if (computes && !is_reached(node)) result_.unreached.push_back(node);
    for (const jit::Block* block : node->blocks()) {
      for (const jit::Node* inner : block->nodes()) list_unreached(inner);
    }
  }

  /// Nodes of LibTorch that the segment of this level waits for and that wait for the one before, in program order.
  std::vector<const jit::Node*> nodes_between(int level, const Segment& segment) const {
    std::unordered_set<const jit::Node*> seen(segment.nodes.begin(), segment.nodes.end());
    std::vector<const jit::Node*> todo(segment.nodes.begin(), segment.nodes.end());
    std::vector<const jit::Node*> between;
    while (!todo.empty()) {
      const jit::Node* node = todo.back();
      todo.pop_back();
      for (const jit::Node* earlier : dependencies_.at(node)) {
        const Level& place = levels_.at(earlier);
        bool is_between = place.engine == level - 1 && role(earlier) != Role::kEngine;
        if (!is_between || !seen.insert(earlier).second) continue;
        todo.push_back(earlier);
        if (role(earlier) == Role::kTorch) between.push_back(earlier);
      }
    }
    std::sort(between.begin(), between.end(), [](auto* a, auto* b) { return a->isBefore(b); });
    return between;
  }

  int position(const jit::Node* node) const {
    // LibTorch takes a write for idle that comes after the only tuple in which its tensor is given back.
    if (only_gives_back(node)) return std::numeric_limits<int>::max();
    return role(node) == Role::kFree ? kBeforeEverything : levels_.at(node).level;
  }

  jit::Block* block_;
  const Memory& memory_;
  const Probe& probe_;
  const Options& options_;
  Partition& result_;
  std::vector<Neighbours>& neighbours_;
  std::vector<jit::Node*> nodes_;
  std::vector<std::vector<jit::Node*>> chains_;     // keep their order
  std::vector<std::vector<jit::Node*>> undivided_;  // those that are in one segment or none: written inside of it
  std::set<const jit::Node*> live_;
  Dependencies dependencies_;
  std::unordered_map<const jit::Node*, Level> levels_;
  std::unordered_map<const jit::Node*, Partition::Reason> reasons_;
};

void partition_block(jit::Block* block, const Memory& memory, const Probe& probe, const Options& options,
                     Partition& result, std::vector<Neighbours>& neighbours) {
  BlockPartitioner(block, memory, probe, options, result, neighbours).run();
  for (jit::Node* node : block->nodes()) {
    if (result.roles.at(node) != Role::kTorch || probe.outcomes.count(node) == 0) continue;
    for (jit::Block* inner : node->blocks()) partition_block(inner, memory, probe, options, result, neighbours);
  }
}

bool is_in_or_under(const jit::Node* node, const jit::Node* outer) {
  for (; node; node = node->owningBlock()->owningNode()) {
    if (node == outer) return true;
  }
  return false;
}

}  // namespace

std::vector<const Segment*> Partition::segments() const {
  std::vector<const Segment*> result;
  for (const BlockPartition& block : blocks) {
    for (const Segment& segment : block.segments) result.push_back(&segment);
  }
  return result;
}

Partition partition(jit::Graph& graph, const Memory& memory, const Probe& probe, const Options& options) {
  Partition result;
  result.elsewhere = probe.elsewhere;
  std::vector<Neighbours> neighbours;
  partition_block(graph.block(), memory, probe, options, result, neighbours);
  for (const Neighbours& pair : neighbours) {
    Partition::Separation separation{pair.first, pair.second, {}};
    for (size_t i = 0; i < result.fallbacks.size(); ++i) {
      auto holds = [&](const jit::Node* node) { return is_in_or_under(result.fallbacks[i].node, node); };
      if (std::any_of(pair.between.begin(), pair.between.end(), holds)) separation.because.push_back(i);
    }
    if (!separation.because.empty()) result.separations.push_back(std::move(separation));
  }
  return result;
}

}  // namespace torchweld
