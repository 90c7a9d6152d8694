// The instruction set: what each op means, its result types, and how TorchScript spells it.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <typeindex>
#include <unordered_map>
#include <vector>

#include "core/graph.h"

namespace torchweld {

class ImportArgs;
using Tensors = std::span<const at::Tensor>;
using Types = std::span<const TensorType>;
/// Translates one call of a TorchScript operator into nodes and returns its results, one value per tensor result (a
/// result of type Tensor[] gives all its elements). Null stands for a result that the call does not ask for.
using ImportFn = std::function<std::vector<Value*>(ImportArgs&)>;

/// What is known about one op. Functions take the op's attributes as erased pointer; OpBuilder hides that.
struct OpDef {
  std::string name;
  std::type_index type = typeid(void);
  /// Result types from input types. Throws Unsupported with the unmet need.
  std::function<std::vector<TensorType>(const void*, Types)> infer;
  /// The meaning: one line of ATen.
  std::function<std::vector<at::Tensor>(const void*, Tensors)> aten;
  std::function<std::string(const void*)> print;
  std::function<std::shared_ptr<const void>(TextReader&)> parse;
  /// The result is the input's memory seen through other sizes and strides, wherever the strides allow it.
  bool is_view = false;
  /// Floating-point operations of one run, for reports. Null means one per output element.
  std::function<double(const void*, Types in, Types out)> flops;
};

/// All ops and all importers.
class OpSet {
 public:
  template <class A>
  class Builder;

  /// Starts the definition of op type A, a copyable struct with `void fields(auto&& f)`.
  template <class A>
  Builder<A> add(std::string name);
  /// `schema` is an operator's qualified name with overload, e.g. "aten::softmax.int".
  void add_import(const std::string& schema, ImportFn fn);

  const OpDef* find(std::type_index type) const;
  const OpDef* find(const std::string& name) const;
  const ImportFn* find_import(const std::string& schema) const;
  const std::map<std::string, ImportFn>& imports() const { return imports_; }
  std::vector<const OpDef*> defs() const;

 private:
  std::map<std::string, std::unique_ptr<OpDef>> defs_;
  std::unordered_map<std::type_index, const OpDef*> by_type_;
  std::map<std::string, ImportFn> imports_;
};

/// The one instruction set; built on first use from the list in ops/all.cpp.
const OpSet& op_set();

template <class A>
class OpSet::Builder {
 public:
  Builder(OpSet* ops, OpDef* def) : ops_(ops), def_(def) {}

  /// `fn(const A&, Types) -> TensorType` or `-> std::vector<TensorType>`.
  template <class F>
  Builder& infer(F fn) {
    def_->infer = [fn](const void* a, Types in) -> std::vector<TensorType> {
      if constexpr (std::is_same_v<decltype(fn(*static_cast<const A*>(a), in)), TensorType>) {
        return {fn(*static_cast<const A*>(a), in)};
      } else {
        return fn(*static_cast<const A*>(a), in);
      }
    };
    return *this;
  }
  /// `fn(const A&, Tensors) -> at::Tensor` or `-> std::vector<at::Tensor>`.
  template <class F>
  Builder& aten(F fn) {
    def_->aten = [fn](const void* a, Tensors in) -> std::vector<at::Tensor> {
      if constexpr (std::is_same_v<decltype(fn(*static_cast<const A*>(a), in)), at::Tensor>) {
        return {fn(*static_cast<const A*>(a), in)};
      } else {
        return fn(*static_cast<const A*>(a), in);
      }
    };
    return *this;
  }
  /// `fn(ImportArgs&) -> Value*` or `-> std::vector<Value*>`.
  template <class F>
  Builder& import(const std::string& schema, F fn) {
    if constexpr (std::is_convertible_v<decltype(fn(std::declval<ImportArgs&>())), Value*>) {
      ops_->add_import(schema, [fn](ImportArgs& a) { return std::vector<Value*>{fn(a)}; });
    } else {
      ops_->add_import(schema, fn);
    }
    return *this;
  }
  Builder& view() {
    def_->is_view = true;
    return *this;
  }
  template <class F>
  Builder& flops(F fn) {
    def_->flops = [fn](const void* a, Types in, Types out) { return fn(*static_cast<const A*>(a), in, out); };
    return *this;
  }

 private:
  OpSet* ops_;
  OpDef* def_;
};

template <class A>
OpSet::Builder<A> OpSet::add(std::string name) {
  auto& slot = defs_[name];
  slot = std::make_unique<OpDef>();
  slot->name = std::move(name);
  slot->type = typeid(A);
  slot->print = [](const void* a) { return print_fields(*static_cast<const A*>(a)); };
  slot->parse = [](TextReader& in) { return std::make_shared<const A>(parse_fields<A>(in)); };
  by_type_[typeid(A)] = slot.get();
  return {this, slot.get()};
}

template <class A>
const A* Attrs::as() const {
  return def_->type == std::type_index(typeid(A)) ? static_cast<const A*>(data_.get()) : nullptr;
}

}  // namespace torchweld
