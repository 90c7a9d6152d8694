#include "partitioning/splice.h"

#include <torch/csrc/jit/api/function_impl.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "partitioning/reads.h"

namespace torchweld {

namespace jit = torch::jit;

namespace {

/// The attribute of a segment's module under which its engine hangs; a user's attribute of that name gets another one.
std::string attribute_name(const std::string& name) { return name == "engine" ? "module_engine" : name; }

/// Copies a segment's nodes, and what they read that is free or neutral, into a graph of its own.
class SegmentBuilder {
 public:
  SegmentBuilder(const Segment& segment, const Partition& partition, const jit::Module& owner, const jit::Value* self,
                 std::string name)
      : segment_(segment),
        partition_(partition),
        owner_(owner),
        self_(self),
        members_(segment.nodes.begin(), segment.nodes.end()),
        name_(std::move(name)),
        module_(c10::QualifiedName("__torch__.torchweld." + name_), owner._ivalue()->compilation_unit(),
                /*shouldMangle=*/true) {}

  SegmentModule build(const std::vector<const jit::Value*>& outputs) {
    map_[self_] = graph_->addInput("self");
    for (jit::Node* node : segment_.nodes) copy(node);
    std::vector<jit::Value*> results;
    for (const jit::Value* output : outputs) results.push_back(map_.at(output));
    jit::Node* list = graph_->insertNode(graph_->createList(c10::TensorType::get(), results));
    graph_->registerOutput(list->output());
    map_[self_]->setType(module_.type());
    auto unit = module_._ivalue()->compilation_unit();
    jit::Function* function = unit->create_function(c10::QualifiedName(*module_.type()->name(), "forward"), graph_);
    module_.type()->addMethod(function);
    return {name_, module_, inputs_};
  }

 private:
  void copy(const jit::Node* node) {
    for (const jit::Value* value : values_read(node)) resolve(value);
    jit::Node* clone = graph_->createClone(const_cast<jit::Node*>(node), [&](jit::Value* v) { return map_.at(v); });
    if (node->kind() == c10::prim::GetAttr && node->input() == self_) {
      const std::string& name = node->s(c10::attr::name);
      adopt_attribute(name);
      clone->s_(c10::attr::name, attribute_name(name));
    }
    for (jit::Block* block : clone->blocks()) adopt_read_attributes(block);
    graph_->insertNode(clone);
    for (size_t i = 0; i < node->outputs().size(); ++i) map_[node->outputs()[i]] = clone->outputs()[i];
  }

  /// The same for reads inside a copied body.
  void adopt_read_attributes(jit::Block* block) {
    for (jit::Node* node : block->nodes()) {
      if (node->kind() == c10::prim::GetAttr && node->input() == map_.at(self_)) {
        std::string name = node->s(c10::attr::name);
        adopt_attribute(name);
        node->s_(c10::attr::name, attribute_name(name));
      }
      for (jit::Block* inner : node->blocks()) adopt_read_attributes(inner);
    }
  }

  void resolve(const jit::Value* value) {
    if (map_.count(value)) return;
    auto known = partition_.roles.find(value->node());
    Role role = known == partition_.roles.end() ? Role::kTorch : known->second;
    bool copied = role == Role::kFree || (role == Role::kNeutral && can_be_copied(value->node(), partition_));
    if (copied) {
      copy(value->node());
      return;
    }
    check(!members_.count(value->node()), "a segment's node is read before it is copied");
    check(can_be_input(value, partition_), "a segment reads a value that it cannot be given: " + value->type()->str());
    map_[value] = graph_->addInput()->setType(value->type());
    inputs_.push_back(value);
  }

  /// The segment refers to the same submodules and tensors as the module, so nothing is held or saved twice.
  void adopt_attribute(const std::string& name) {
    std::string own = attribute_name(name);
    if (module_.type()->hasAttribute(own)) return;
    auto type = owner_.type();
    size_t slot = type->getAttributeSlot(name);
    module_.type()->addAttribute(own, type->getAttribute(slot), type->is_parameter(slot), type->is_buffer(slot));
    module_._ivalue()->setAttr(own, owner_._ivalue()->getSlot(slot));
  }

  const Segment& segment_;
  const Partition& partition_;
  const jit::Module& owner_;
  const jit::Value* self_;
  std::set<const jit::Node*> members_;
  std::string name_;
  jit::Module module_;
  std::shared_ptr<jit::Graph> graph_ = std::make_shared<jit::Graph>();
  std::unordered_map<const jit::Value*, jit::Value*> map_;
  std::vector<const jit::Value*> inputs_;
};

/// Whether something that is not `inside` reads the value, itself or through dead nodes: these are copied to where they
/// are needed.
bool is_read_outside(const jit::Value* value, const jit::Block* block, const std::set<const jit::Node*>& inside,
                     const std::set<const jit::Node*>& dead, std::set<const jit::Node*>& seen) {
  return std::any_of(value->uses().begin(), value->uses().end(), [&](const jit::Use& use) {
    if (use.user == block->return_node()) return true;
    const jit::Node* user = use.user;
    while (user->owningBlock() != block) user = user->owningBlock()->owningNode();
    if (inside.count(user)) return false;
    if (!dead.count(user)) return true;
    if (!seen.insert(user).second) return false;
    return std::any_of(user->outputs().begin(), user->outputs().end(),
                       [&](const jit::Value* output) { return is_read_outside(output, block, inside, dead, seen); });
  });
}

/// Tensors of the segment that something outside it reads.
std::vector<const jit::Value*> outputs_of(const Segment& segment, const std::set<const jit::Node*>& dead) {
  std::set<const jit::Node*> inside(segment.nodes.begin(), segment.nodes.end());
  const jit::Block* block = segment.nodes.front()->owningBlock();
  std::vector<const jit::Value*> outputs;
  for (const jit::Node* node : segment.nodes) {
    for (const jit::Value* output : node->outputs()) {
      if (!is_tensor(output)) continue;
      std::set<const jit::Node*> seen;
      if (is_read_outside(output, block, inside, dead, seen)) outputs.push_back(output);
    }
  }
  return outputs;
}

using Replacements = std::unordered_map<const jit::Value*, jit::Value*>;

/// Puts the call of a segment before `position` and lets everyone outside read its results. `replaced` tells what has
/// become of the results of earlier segments.
void insert_call(jit::Graph& graph, const SegmentModule& segment, const std::vector<const jit::Value*>& outputs,
                 jit::Value* self, jit::Node* position, Replacements& replaced) {
  jit::WithInsertPoint before(position);
  jit::Node* get = graph.create(c10::prim::GetAttr, {self});
  get->s_(c10::attr::name, segment.name);
  get->output()->setType(segment.module.type());
  graph.insertNode(get);
  std::vector<jit::Value*> inputs;
  for (const jit::Value* input : segment.inputs) {
    auto found = replaced.find(input);
    inputs.push_back(found == replaced.end() ? const_cast<jit::Value*>(input) : found->second);
  }
  jit::Node* tuple = graph.insertNode(graph.createTuple(inputs));
  jit::Node* call = graph.create(c10::Symbol::fromQualString("torchweld::run"), {get->output(), tuple->output()});
  call->output()->setType(c10::ListType::ofTensors());
  graph.insertNode(call);
  jit::Node* unpack = graph.insertNode(graph.createListUnpack(call->output(), outputs.size()));
  for (size_t i = 0; i < outputs.size(); ++i) {
    const_cast<jit::Value*>(outputs[i])->replaceAllUsesWith(unpack->outputs()[i]);
    replaced[outputs[i]] = unpack->outputs()[i];
  }
}

}  // namespace

std::vector<SegmentModule> splice(jit::Graph& graph, const Partition& partition, const jit::Module& owner,
                                  size_t first) {
  std::vector<SegmentModule> result;
  jit::Value* self = graph.inputs()[0];
  // Inner blocks first: the nodes that hold them stay, and segments are copied before anything outside them changes.
  for (auto block = partition.blocks.rbegin(); block != partition.blocks.rend(); ++block) {
    std::set<const jit::Node*> dead(block->dead.begin(), block->dead.end());
    std::vector<SegmentModule> modules;
    std::vector<std::vector<const jit::Value*>> outputs;
    for (const Segment& segment : block->segments) {
      outputs.push_back(outputs_of(segment, dead));
      SegmentBuilder builder(segment, partition, owner, self, "segment_" + std::to_string(first + segment.number));
      modules.push_back(builder.build(outputs.back()));
    }
    size_t next = 0;
    Replacements replaced;
    jit::Node* end = block->block->return_node();
    for (jit::Node* node : block->order) {
      if (node) {
        node->moveBefore(end);
        continue;
      }
      insert_call(graph, modules[next], outputs[next], self, end, replaced);
      ++next;
    }
    std::vector<jit::Node*> gone(block->dead.begin(), block->dead.end());
    for (const Segment& segment : block->segments) gone.insert(gone.end(), segment.nodes.begin(), segment.nodes.end());
    std::sort(gone.begin(), gone.end(), [](const jit::Node* a, const jit::Node* b) { return b->isBefore(a); });
    for (jit::Node* node : gone) node->destroy();
    result.insert(result.begin(), modules.begin(), modules.end());
  }
  return result;
}

}  // namespace torchweld
