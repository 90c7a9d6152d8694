// What an importer sees: the arguments of one TorchScript operator call, by schema name, and the graph it adds to.
#pragma once

#include <ATen/core/ivalue.h>
#include <c10/core/Scalar.h>

#include <string>
#include <vector>

#include "core/graph.h"

namespace torchweld {

/// Gives tensors of the call their graph values. Implemented by the interpreter in conversion/.
class ValueSource {
 public:
  virtual ~ValueSource() = default;
  /// The graph value of a tensor: one computed in the engine, or a constant that is added to the graph.
  virtual Value* value_of(const at::Tensor& tensor) = 0;
};

/// The arguments of one operator call. Readers throw Unsupported when an argument is not of the kind asked for;
/// arguments left out of the call carry their schema defaults.
class ImportArgs {
 public:
  struct Argument {
    std::string name;
    c10::IValue value;
  };
  ImportArgs(Graph& graph, ValueSource& source, std::vector<Argument> arguments, c10::Device device)
      : graph(graph), source_(source), arguments_(std::move(arguments)), device_(device) {}

  Graph& graph;

  /// True when the schema has the argument and it is not None.
  bool has(const std::string& name) const;
  const c10::IValue& raw(const std::string& name) const;

  /// A tensor argument; a number becomes an immediate (see ops/constant.h).
  Value* value(const std::string& name);
  /// The same, but a known 0-d tensor keeps its dtype, for ops to which it is more than a number.
  Value* exact_value(const std::string& name);
  Value* exact_value_of(const at::Tensor& tensor);
  /// value(), null when the argument is None or absent.
  Value* optional_value(const std::string& name);
  /// A list of tensors, each as by exact_value.
  std::vector<Value*> values(const std::string& name);
  /// The tensor of an argument as TorchScript sees it, for its dtype and dimension count in type promotion.
  bool is_number(const std::string& name) const;

  int64_t integer(const std::string& name) const;
  int64_t integer_or(const std::string& name, int64_t otherwise) const;
  double real(const std::string& name) const;
  bool boolean(const std::string& name) const;
  c10::Scalar scalar(const std::string& name) const;
  std::string string(const std::string& name) const;
  Dims ints(const std::string& name) const;
  /// A dimension number of `x`, made non-negative.
  int64_t axis(const std::string& name, const Value* x) const;
  /// Several dimension numbers of `x`, made non-negative; None or an empty list means every dimension.
  Dims axes(const std::string& name, const Value* x) const;
  /// A dtype argument; nothing when None or absent.
  std::optional<c10::ScalarType> dtype(const std::string& name) const;
  /// Where results live.
  c10::Device device() const { return device_; }

  Value* emit(Attrs attrs, const std::vector<Value*>& inputs) { return graph.add(std::move(attrs), inputs); }
  /// A scalar that takes no part in type promotion.
  Value* immediate(const c10::Scalar& number);
  /// `x` itself when it has the dtype already, else a cast.
  Value* cast(Value* x, c10::ScalarType dtype);
  /// The dtype that ATen would compute in for these arguments (tensors or numbers, by name).
  c10::ScalarType promoted(std::initializer_list<const char*> names) const;

 private:
  ValueSource& source_;
  std::vector<Argument> arguments_;
  c10::Device device_;
};

}  // namespace torchweld
