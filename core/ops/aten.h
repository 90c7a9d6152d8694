// The generic op: any functional ATen operator, run as itself.
#pragma once

#include <ATen/core/ivalue.h>

#include "core/graph.h"

namespace torchweld {

/// A call of a functional operator through LibTorch's dispatcher. `arguments` follow the schema's order; where the call
/// has a tensor stands "$", and the node's inputs fill these places in order (inside lists too).
struct Aten {
  std::string op;  ///< Qualified name with overload: "aten::cumsum", "aten::sort.stable".
  std::vector<c10::IValue> arguments;
  /// Types of the tensor results, flattened. They come from a run on meta tensors or on the caller's example.
  std::vector<TensorType> results;

  void fields(auto&& f) {
    f("op", op);
    f("arguments", arguments);
    f("results", results);
  }
};

/// Why the operator cannot join an engine; empty when it can: its schema must be functional (writes
/// nothing), have no side effect, draw no random numbers, and give tensors whose sizes do not depend on data. Operators
/// that are all this only for some arguments (dropout_p, train) pass here and are judged by infer_by_meta_run.
std::string why_not_generic(const std::string& op);
/// Calls the operator with `inputs` in the places of "$"; tensor results flattened.
std::vector<at::Tensor> call_aten(const Aten& op, Tensors inputs);
/// Types of the tensor results (flattened) of a call whose tensors are meta tensors of the right types, as seen on
/// `device`. Throws Unsupported with the reason when the operator has no meta kernel, reads data, gives something
/// other than dense tensors, or is called in training mode.
std::vector<TensorType> infer_by_meta_run(const std::string& op, const std::vector<c10::IValue>& arguments,
                                          c10::Device device);

void define_aten(OpSet& ops);

}  // namespace torchweld
