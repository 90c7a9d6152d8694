// TorchScript -> Graph: an interpreter of TorchScript in which tensors are symbolic and everything else is concrete.
//
// A symbolic tensor travels inside IValues as a meta tensor of its exact sizes, strides and dtype, with a side table
// from that tensor to its Value. So sizes, lists, tuples, conditions and loops are executed by LibTorch's own operators
// and need no code here; an operator on symbolic tensors is handed to its importer, or joins as the generic op.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <functional>
#include <map>
#include <unordered_map>
#include <unordered_set>

#include "core/graph.h"
#include "core/import_args.h"

namespace torchweld {

/// What became of one TorchScript node.
struct NodeOutcome {
  enum class Kind {
    kConcrete,  ///< Computes no tensor in the engine: sizes, lists, constants, control flow whose body is all fine.
    kNative,    ///< Became nodes of the instruction set.
    kGeneric,   ///< Became a generic ATen op.
    kFailed,    ///< Stays in LibTorch, for `reason`.
  };
  Kind kind = Kind::kConcrete;
  std::string reason;
  double flops = 0;
  /// Nodes of the instruction set that it became; views count as one, recurrent layers as more.
  int64_t computations = 0;
  bool is_heavy = false;  ///< One of them computes much with each element: a convolution, a product.
};

/// Watches an interpretation that goes on after failures (the partitioner's). Without an observer the first failure
/// throws Unsupported.
class ImportObserver {
 public:
  virtual ~ImportObserver() = default;
  /// A reason to leave this node to LibTorch though it could be imported.
  virtual std::optional<std::string> excluded(const torch::jit::Node* node) = 0;
  /// True for a node that reads memory (an attribute) which the module writes: its value is not known.
  virtual bool written(const torch::jit::Node* node) = 0;
  /// True where only elements of that attribute are written: it is a tensor of the same type whenever it is read.
  virtual bool keeps_type(const torch::jit::Node* node) = 0;
  /// Called once each time a node has been interpreted (nodes in loop bodies: once per iteration).
  virtual void note(const torch::jit::Node* node, const NodeOutcome& outcome) = 0;
  /// After a node that fails, the interpretation goes on with what is known about its results: the types of random
  /// numbers, say. True: with likely results too, where nothing is known. These are as many elements as there can be
  /// where data decides how many, what the first branch that does not raise gives, and written attributes as they were
  /// last written. Whatever depends on them must be looked at again when the program runs.
  virtual bool wants_likely_results() const = 0;
};

/// "aten::add.Tensor": the operator with its overload, or the kind of a node that is none.
std::string op_name(const torch::jit::Node* node);
std::string op_name(const c10::FunctionSchema& schema);
/// Calls `visit` for every tensor that `value` is or holds at any depth.
void for_each_tensor(const c10::IValue& value, const std::function<void(const at::Tensor&)>& visit);
/// A copy of `value` with lists, tuples and dicts of its own, in which what `give` makes of each tensor, defined or
/// not, is in its place; depth first.
c10::IValue with_tensors(const c10::IValue& value, const std::function<c10::IValue(const at::Tensor&)>& give);
/// True when `value` is or holds a tensor in the memory of `tensor`.
bool shares_memory(const c10::IValue& value, const at::Tensor& tensor);

/// What `value` is a view of, through any number of view ops; the value itself when no view op gives it.
Value* base_of(Value* value);

/// One interpretation. The graph must be inlined.
class Interpreter final : public ValueSource {
 public:
  /// New nodes go to `graph` and live on `device`.
  Interpreter(Graph& graph, c10::Device device, ImportObserver* observer = nullptr);

  /// A symbolic tensor that is the next input of the graph.
  at::Tensor add_input(const TensorType& type);
  /// The same value with a symbolic tensor, made by add_input(), in place of every tensor at any depth.
  c10::IValue make_unknown(const c10::IValue& value);
  /// Runs `script` on arguments made of concrete values and symbolic tensors; returns its outputs. With an observer,
  /// an output that is unknown at compile time comes back as None.
  std::vector<c10::IValue> run(const torch::jit::Graph& script, const std::vector<c10::IValue>& arguments);

  Value* value_of(const at::Tensor& tensor) override;
  /// The same for a result, which keeps its dtype where an operand is only a number.
  Value* result_of(const at::Tensor& tensor);
  bool is_symbolic(const at::Tensor& tensor) const { return symbolic_.count(tensor.unsafeGetTensorImpl()) > 0; }
  c10::Device device() const { return device_; }
  /// Called with each tensor that is read from the module, ahead of its numbers; returns where these come from, see
  /// LazyTensor::origin.
  using NoteWeight = std::function<std::string(const at::Tensor&)>;
  void note_weights(NoteWeight note) { note_weight_ = std::move(note); }
  /// Whether nodes get the lines of the user's source that they come from, and constants the names of attributes; they
  /// do unless told otherwise.
  void note_origins(bool on) { notes_origins_ = on; }
  /// What a TorchScript value held when last computed; null when unknown or not computed.
  const c10::IValue* find(const torch::jit::Value* value) const;

 private:
  using Stack = std::vector<c10::IValue>;

  bool run_block(const torch::jit::Block* block);
  NodeOutcome run_node(const torch::jit::Node* node);
  NodeOutcome try_node(const torch::jit::Node* node);
  NodeOutcome run_structure(const torch::jit::Node* node);
  NodeOutcome run_if(const torch::jit::Node* node);
  NodeOutcome run_loop(const torch::jit::Node* node);
  NodeOutcome run_get_attr(const torch::jit::Node* node);
  NodeOutcome run_operator(const torch::jit::Node* node);
  NodeOutcome run_concrete(const torch::jit::Node* node);
  NodeOutcome run_importer(const torch::jit::Node* node, const ImportFn& importer, bool in_place);
  /// Runs the node as the generic op `name`, which is its own operator or (in_place) the functional form of it.
  NodeOutcome run_generic(const torch::jit::Node* node, const std::string& name, bool in_place);
  /// Ends an in-place operator: its first argument holds the one result from now on.
  void write_result(const torch::jit::Node* node, const std::vector<Value*>& results);
  /// The symbolic tensor that takes the place of a known one, no part of the module, in the whole program; so it is
  /// with all that shares its memory and may be read after `writer`.
  at::Tensor make_computed(const at::Tensor& known, const torch::jit::Node* writer);
  /// True when an operator gave the known tensors that `name` holds as views of its first argument, and gives the same
  /// ones if it is run again now.
  bool takes_view(const torch::jit::Value* name) const;
  /// What holds a value for which `condition` is true, in an order that is always the same.
  std::vector<const torch::jit::Value*> names_where(const std::function<bool(const c10::IValue&)>& condition) const;
  /// Both branches, for reports, when the condition is unknown; a loop body once when its trip count is.
  void probe_blocks(const torch::jit::Node* node);
  /// Sets the results of a node that failed, as far as the observer wants.
  void assume_results(const torch::jit::Node* node);
  void assume_from_operator(const torch::jit::Node* node);
  /// A known tensor, and all that shares its memory, has elements from now on that are known only at run time.
  void forget_elements(const at::Tensor& known);
  void assume_attribute(const torch::jit::Node* node);
  void assume_from_blocks(const torch::jit::Node* node);
  /// The one type of symbolic tensors; null when they have several, or one of the values is something else.
  const TensorType* common_type(const std::vector<const c10::IValue*>& values);
  /// True when every tensor that a loop carries, whose body has been looked at once, has the type that it had before.
  bool keeps_types(const torch::jit::Node* loop);
  /// Lists and dicts that the node (or one under it) changes, it is unknown how, are no longer known.
  void forget_written_containers(const torch::jit::Node* node);

  const c10::IValue& get(const torch::jit::Value* value) const;
  void set(const torch::jit::Value* value, c10::IValue v);
  Stack arguments_of(const torch::jit::Node* node) const;
  void set_outputs(const torch::jit::Node* node, Stack results);
  bool mentions_symbolic(const c10::IValue& value) const;
  at::Tensor make_symbolic(Value* value);
  /// `tensor` may share memory with `of`; `surely` when it does whatever the strides are.
  void mark_alias(const at::Tensor& tensor, const at::Tensor& of, bool surely);
  /// The elements of `result`, which `writer` writes into `tensor`, laid out as `tensor` is and in memory of no other
  /// argument.
  Value* as_elements_of(const at::Tensor& tensor, Value* result, const torch::jit::Node* writer);
  /// `writer` makes `tensor` hold `value`, and with it what shares its memory and may be read again.
  void rebind(const at::Tensor& tensor, Value* value, const torch::jit::Node* writer);
  /// The other tensors of its alias group that may be read after `writer`.
  std::vector<const c10::TensorImpl*> live_aliases(const c10::TensorImpl* impl, const torch::jit::Node* writer) const;
  /// Before the node runs on known tensors: refuses writes into those of the module.
  void prepare_writes(const torch::jit::Node* node, const Stack& arguments);
  /// The memory will be written: constants of the graph that lie in it keep what they hold now.
  void keep_constants(const c10::StorageImpl* storage);
  void learn_concrete(const c10::IValue& value, bool foreign);
  std::vector<ImportArgs::Argument> named_arguments(const torch::jit::Node* node) const;
  void wrap_results(const torch::jit::Node* node, const std::vector<Value*>& values);

  Graph& graph_;
  c10::Device device_;
  ImportObserver* observer_;
  std::unordered_map<const torch::jit::Value*, c10::IValue> environment_;
  std::unordered_map<const torch::jit::Value*, std::string> paths_;          // module values: where they hang
  std::map<std::pair<const void*, std::string>, c10::IValue> last_written_;  // likely values of (object, attribute)
  std::unordered_map<const c10::TensorImpl*, Value*> symbolic_;
  std::unordered_map<const c10::TensorImpl*, Value*> constants_;
  std::unordered_map<const c10::TensorImpl*, std::string> names_;
  // Tensors that share memory in the user's program have one group number.
  std::unordered_map<const c10::TensorImpl*, int> alias_group_;
  std::unordered_map<int, int> group_size_;
  std::unordered_set<const c10::TensorImpl*> maybe_views_;  // of which strides decide whether they share memory
  std::unordered_set<const c10::TensorImpl*> input_tensors_;
  std::unordered_set<const c10::TensorImpl*> assumed_;            // those among them that stand for what LibTorch holds
  std::unordered_set<const c10::StorageImpl*> foreign_storages_;  // of tensors from outside: the module's
  std::unordered_multimap<const c10::StorageImpl*, Node*> constants_in_;  // among the first looked_at_ nodes
  size_t looked_at_ = 0;
  NoteWeight note_weight_;
  bool notes_origins_ = true;
  std::unordered_map<const c10::TensorImpl*, std::string> origins_;
  std::vector<at::Tensor> kept_;  // keeps the addresses in the tables above from being used again
  int64_t steps_ = 0;
};

/// Imports a whole TorchScript graph. `arguments` are concrete values, and a TensorType wherever a symbolic tensor goes
/// in; outputs (tensors, or lists and tuples of them) become the outputs of the graph in order. `note` is called
/// with the tensors that are read from the module. `for_reports`: nodes know their source lines, and constants their
/// names, which takes a while to find. Throws Unsupported.
using ImportArgument = std::variant<TensorType, c10::IValue>;
std::unique_ptr<Graph> import_graph(const torch::jit::Graph& script, const std::vector<ImportArgument>& arguments,
                                    c10::Device device, Interpreter::NoteWeight note = {}, bool for_reports = true);

}  // namespace torchweld
