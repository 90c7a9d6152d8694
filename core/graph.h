// The engine's program: an ordered list of typed operations on tensors of known size.
#pragma once

#include <list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <typeindex>
#include <vector>

#include "core/fields.h"
#include "core/types.h"

namespace torchweld {

class Graph;
class Node;
struct OpDef;

/// Which op, and its typed attributes. Immutable and cheap to copy.
class Attrs {
 public:
  template <class A>
  Attrs(A op);  // NOLINT(google-explicit-constructor): `graph.add(Softmax{.axis = 1}, {x})`
  Attrs(const OpDef* def, std::shared_ptr<const void> data) : def_(def), data_(std::move(data)) {}

  /// The attributes as op type A; null when it is another op.
  template <class A>
  const A* as() const;
  const OpDef& def() const { return *def_; }
  const void* data() const { return data_.get(); }
  /// `softmax{axis=1}`
  std::string text() const;
  bool operator==(const Attrs& other) const;

 private:
  static const OpDef* find_def(std::type_index type);

  const OpDef* def_;
  std::shared_ptr<const void> data_;
};

/// A tensor that flows between nodes. Owned by its node, or by the graph when it is an input.
class Value {
 public:
  TensorType type;

  /// The node that computes it; null for a graph input.
  Node* producer() const { return producer_; }
  /// Which output of the producer, or which graph input, it is.
  int index() const { return index_; }
  /// Every node that reads it, once for each time it is read. Being a graph output is no use by a node.
  const std::vector<Node*>& users() const { return users_; }
  /// The attributes of the producer as op type A; null for a graph input or another op.
  template <class A>
  const A* from() const;

 private:
  friend class Graph;
  friend class Node;
  Node* producer_ = nullptr;
  int index_ = 0;
  std::vector<Node*> users_;
};

/// One operation.
class Node {
 public:
  Attrs attrs;
  std::string origin;  ///< The user's own source line, for reports; may be empty.

  explicit Node(Attrs a) : attrs(std::move(a)) {}

  std::span<Value* const> inputs() const { return inputs_; }
  std::span<const std::unique_ptr<Value>> outputs() const { return outputs_; }
  Value* input(size_t i) const { return inputs_.at(i); }
  Value* output(size_t i = 0) const { return outputs_.at(i).get(); }
  std::vector<TensorType> input_types() const;
  template <class A>
  const A* as() const {
    return attrs.as<A>();
  }
  /// Name of the op, e.g. "softmax".
  const std::string& op() const;

 private:
  friend class Graph;
  std::vector<Value*> inputs_;
  std::vector<std::unique_ptr<Value>> outputs_;
  std::list<std::unique_ptr<Node>>::iterator place_;
};

/// Floating-point operations of one run of a node; one per output element unless its op says otherwise.
double flops_of(const Node& node);
/// True for a node that computes much with each element that it reads or writes: a convolution, a product.
bool is_heavy(const Node& node);

/// An ordered program. Nodes stand in an order in which every value is computed before it is read.
class Graph {
 public:
  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  Graph(Graph&&) = default;

  Value* add_input(TensorType type);
  /// Appends a node before the insertion point (the end unless an InsertBefore is alive). Types of the outputs are
  /// inferred at once. Throws Unsupported when the op does not take these inputs.
  Node* add_node(Attrs attrs, const std::vector<Value*>& inputs);
  /// The same for an op with one output.
  Value* add(Attrs attrs, const std::vector<Value*>& inputs) { return add_node(std::move(attrs), inputs)->output(); }
  void add_output(Value* value) { outputs_.push_back(value); }

  const std::list<std::unique_ptr<Node>>& nodes() const { return nodes_; }
  /// The nodes as they stand now, safe to walk while the graph changes, as long as no node is erased under way.
  std::vector<Node*> node_list() const;
  std::span<const std::unique_ptr<Value>> inputs() const { return inputs_; }
  std::span<Value* const> outputs() const { return outputs_; }
  bool is_output(const Value* value) const;
  /// Number of node reads plus number of times it is a graph output.
  size_t use_count(const Value* value) const;

  /// Every reader of `from`, and the outputs of the graph, get `to` instead.
  void replace_uses(Value* from, Value* to);
  void set_input(Node* node, size_t i, Value* value);
  void set_output(size_t i, Value* value) {
    outputs_.at(i) = value;
    ++changes_;
  }
  /// Other attributes for a node with the same number of outputs; output types stay as they are.
  void set_attrs(Node* node, Attrs attrs) {
    node->attrs = std::move(attrs);
    ++changes_;
  }
  /// Infers the output types of a node again from its inputs.
  void infer_again(Node* node);
  /// Removes a node that nothing reads.
  void erase(Node* node);
  /// Removes every node whose results nothing reads. Returns how many went.
  int sweep();
  /// Moves `node` to stand right before `position`. The caller keeps the order valid.
  void move_before(Node* node, Node* position);

  /// Grows with every change of nodes, their order and their edges (not of types that are set by hand).
  int64_t changes() const { return changes_; }

  /// While alive, new nodes are placed before `position`.
  class InsertBefore {
   public:
    InsertBefore(Graph& graph, Node* position) : graph_(graph), saved_(graph.insert_point_) {
      graph.insert_point_ = position;
    }
    ~InsertBefore() { graph_.insert_point_ = saved_; }
    InsertBefore(const InsertBefore&) = delete;
    InsertBefore& operator=(const InsertBefore&) = delete;

   private:
    Graph& graph_;
    Node* saved_;
  };

  /// Source line given to nodes added from now on.
  std::string origin;

  /// Throws InternalError when an edge, the order, or an inferred dtype or shape is wrong.
  void verify() const;
  /// The text form; `parse` reads it back.
  std::string text() const;
  static std::unique_ptr<Graph> parse(TextReader& in);
  static std::unique_ptr<Graph> parse(std::string_view text);
  /// A copy that shares constant tensors.
  std::unique_ptr<Graph> clone() const;

 private:
  std::list<std::unique_ptr<Node>> nodes_;
  std::vector<std::unique_ptr<Value>> inputs_;
  std::vector<Value*> outputs_;
  Node* insert_point_ = nullptr;
  int64_t changes_ = 0;
};

template <class A>
Attrs::Attrs(A op) : def_(find_def(typeid(A))), data_(std::make_shared<const A>(std::move(op))) {}

template <class A>
const A* Value::from() const {
  return producer_ ? producer_->as<A>() : nullptr;
}

}  // namespace torchweld

#include "core/op_set.h"  // IWYU pragma: export, Attrs::as needs OpDef
