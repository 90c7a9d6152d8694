// A constant's tensor that is there already, or computed when somebody reads it.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/fields.h"
#include "core/types.h"

namespace torchweld {

/// A tensor known at compile time. What is computed from weights (folded, cast, joined) is so at its first read, and
/// never where a plan finds what it packs of it already made. Copies are the same tensor. Threads may read at once.
class LazyTensor {
 public:
  LazyTensor() = default;
  /// `origin`: see origin().
  // NOLINTNEXTLINE(google-explicit-constructor): Constant{.value = tensor}
  LazyTensor(at::Tensor tensor, std::string origin = "");

  /// What `compute` makes of the tensors of `sources`, in order: a tensor of this dtype and these sizes; strides are
  /// made those of `type`. `what` says, together with `type`, everything that the result depends on beside the sources.
  static LazyTensor derived(const std::string& what, std::vector<LazyTensor> sources, TensorType type,
                            std::function<at::Tensor(const std::vector<at::Tensor>&)> compute);

  bool defined() const { return state_ != nullptr; }
  /// The tensor, computed now unless it has been; undefined where this is.
  const at::Tensor& tensor() const;
  const TensorType& type() const;
  int64_t size(size_t dimension) const { return type().shape.at(dimension); }
  int64_t dim() const { return type().rank(); }
  int64_t numel() const { return type().numel(); }
  bool is_computed() const;
  bool is_same(const LazyTensor& other) const;
  /// Where the numbers come from, as text: the states of the module's weights and what was done with them. Equal texts
  /// mean equal numbers. Empty where that is not known.
  const std::string& origin() const;
  /// Tells one tensor from another while both live.
  const void* identity() const { return state_.get(); }

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// The origin of what is done with numbers of these origins; empty where one of them is. Undefined tensors have one.
std::string origin_of(const std::string& what, const std::vector<LazyTensor>& sources);

void print_field(std::string& out, const LazyTensor& value);
void parse_field(TextReader& in, LazyTensor& value);

}  // namespace torchweld
