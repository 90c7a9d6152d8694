// How kernels reach oneDNN: operators of LibTorch's dispatcher.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>
#include <vector>

namespace torchweld::cpu {

/// The operator as a function of type F. Throws Unsupported when this LibTorch lacks it.
template <class F>
c10::TypedOperatorHandle<F> onednn_op(const char* name, const char* overload);

/// The operator by name; throws Unsupported when this LibTorch lacks it.
c10::OperatorHandle find_op(const char* name, const char* overload);
/// True when oneDNN computes convolutions and products of this dtype on this processor.
bool onednn_takes(c10::ScalarType dtype);
c10::List<std::optional<at::Scalar>> scalar_list(const std::vector<std::optional<at::Scalar>>& scalars);

template <class F>
c10::TypedOperatorHandle<F> onednn_op(const char* name, const char* overload) {
  return find_op(name, overload).typed<F>();
}

}  // namespace torchweld::cpu
