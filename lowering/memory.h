// Which values of a graph may share memory, and which memory the graph writes in place.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <map>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "lowering/lower.h"

namespace torchweld {

/// True for a tuple that nothing reads but the return of its block: it is as good as its elements there.
bool only_gives_back(const torch::jit::Node* node);

/// An alias analysis by unification: values that may share memory are in one class, whatever the order of execution.
/// A container (list, dict, tuple, at any depth) has a second class, for all that is inside it. Attributes are told
/// apart by type and name; the tensors and containers that a caller hands in are taken to share memory with each other,
/// but not with the module. The graph must be inlined; what is known of operators is in their schemas.
class Memory {
 public:
  using Class = size_t;

  explicit Memory(const torch::jit::Graph& graph);

  /// Classes that hold memory of the value: its own, and that of what is inside it. None for numbers and modules, nor
  /// for a tuple that only carries the graph's results.
  std::vector<Class> classes_of(const torch::jit::Value* value) const;
  /// True when some node of the graph may write memory of this class.
  bool is_written(Class memory) const { return written_.count(find(memory)) > 0; }
  bool is_written(const torch::jit::Value* value) const;
  /// True when a tensor of this class may change its sizes too (unsqueeze_, resize_).
  bool is_reshaped(Class memory) const { return reshaped_.count(find(memory)) > 0; }
  /// Attributes of `module` that may be written in place, those among them that share memory with one included.
  WrittenAttributes written_attributes(const torch::jit::Module& module) const;

 private:
  struct Memories {
    Class own;
    Class inside;
  };

  Memories make();
  Memories& of(const torch::jit::Value* value);
  Memories& of_attribute(const torch::jit::Node* node);
  Class find(Class memory) const;
  void unify(Class a, Class b);
  void unify(const Memories& a, const Memories& b);
  void visit(const torch::jit::Block* block);
  void visit(const torch::jit::Node* node);
  void visit_blocks(const torch::jit::Node* node);
  void visit_operator(const torch::jit::Node* node, const c10::FunctionSchema& schema);
  /// Results that may be views of arguments.
  void share_results_of_tensors(const torch::jit::Node* node, const c10::FunctionSchema& schema);
  /// What is put into a container, taken out of it, or goes from one into another.
  void move_elements(const torch::jit::Node* node, const c10::FunctionSchema& schema);
  void visit_unknown(const torch::jit::Node* node);

  mutable std::vector<Class> parent_;
  std::unordered_map<const torch::jit::Value*, Memories> values_;
  std::map<std::pair<const c10::ClassType*, std::string>, Memories> attributes_;
  std::unordered_set<Class> written_;
  std::unordered_set<Class> reshaped_;
};

}  // namespace torchweld
