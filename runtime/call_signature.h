// What a call's arguments must be for a plan to run it.
#pragma once

#include <ATen/core/ivalue.h>

#include <string>
#include <vector>

#include "core/fields.h"
#include "core/types.h"

namespace torchweld {

/// Sizes that calls may have, for one argument of an engine; nothing is known of plain ones.
struct Range {
  bool is_known = true;
  Dims min;
  Dims max;
  void fields(auto&& f) {
    f("is_known", is_known);
    f("min", min);
    f("max", max);
  }
};
void print_field(std::string& out, const Range& range);
void parse_field(TextReader& in, Range& range);

/// The types of tensor inputs, and the values of scalar inputs, that one plan is for.
struct CallSignature {
  std::vector<TensorType> tensors;
  std::vector<c10::IValue> scalars;
  /// 't' or 's' for each argument, tensor or not: an optional one may be either. Empty when all are tensors.
  std::string kinds;
  /// Takes the arguments of torchweld::run apart.
  static CallSignature of(c10::ArrayRef<c10::IValue> arguments);
  /// The next argument.
  void add(const TensorType& tensor);
  void add(const c10::IValue& scalar);
  bool matches(c10::ArrayRef<c10::IValue> arguments) const;
  /// Whether the arguments that are no tensors are the same.
  bool has_scalars_of(const CallSignature& other) const;
  /// Calls `tensor` with a TensorType or `scalar` with a value, for each argument in the order of the call.
  void visit(auto&& tensor, auto&& scalar) const {
    size_t passed = 0;  // tensors
    for (size_t i = 0; i < tensors.size() + scalars.size(); ++i) {
      if (kinds.empty() || kinds.at(i) == 't') {
        tensor(tensors.at(passed++));
      } else {
        scalar(scalars.at(i - passed));
      }
    }
  }
  bool operator==(const CallSignature& other) const;
  void fields(auto&& f) {
    f("tensors", tensors);
    f("scalars", scalars);
    f("kinds", kinds);
  }
};
void print_field(std::string& out, const CallSignature& signature);
void parse_field(TextReader& in, CallSignature& signature);

}  // namespace torchweld
