#include "core/ops/aten_memory.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <string>
#include <unordered_set>

namespace torchweld {

bool may_return_argument(const c10::FunctionSchema& schema) {
  static const std::unordered_set<std::string> names{
      "aten::type_as",      "aten::einsum",        "aten::atleast_1d",      "aten::atleast_2d",
      "aten::atleast_3d",   "aten::conj_physical", "aten::pixel_shuffle",   "aten::pixel_unshuffle",
      "aten::sum_to_size",  "aten::meshgrid",      "aten::channel_shuffle", "aten::broadcast_tensors",
      "aten::chain_matmul", "aten::to_dense",      "aten::cartesian_prod",  "aten::data",
      "aten::_unsafe_view", "aten::unsafe_chunk",  "aten::unsafe_split",    "aten::unsafe_split_with_sizes"};
  return names.count(schema.name()) > 0 || schema.name().find("dropout") != std::string::npos;
}

bool surely_gives_views(const c10::FunctionSchema& schema) {
  static const std::unordered_set<std::string> names{
      "aten::alias",     "aten::chunk",    "aten::detach",      "aten::expand",    "aten::expand_as",
      "aten::mT",        "aten::moveaxis", "aten::movedim",     "aten::narrow",    "aten::numpy_T",
      "aten::permute",   "aten::select",   "aten::slice",       "aten::split",     "aten::split_with_sizes",
      "aten::squeeze",   "aten::swapaxes", "aten::swapdims",    "aten::t",         "aten::tensor_split",
      "aten::transpose", "aten::type_as",  "aten::unbind",      "aten::unflatten", "aten::unsqueeze",
      "aten::view",      "aten::view_as",  "aten::broadcast_to"};
  return names.count(schema.name()) > 0;
}

bool gives_views_where_it_can(const c10::FunctionSchema& schema) {
  static const std::unordered_set<std::string> names{"aten::contiguous",
                                                     "aten::flatten",
                                                     "aten::reshape",
                                                     "aten::reshape_as",
                                                     "aten::to",
                                                     "aten::_autocast_to_reduced_precision",
                                                     "aten::_autocast_to_full_precision"};
  return names.count(schema.name()) > 0;
}

bool changes_shape(const c10::FunctionSchema& schema) {
  auto handle = c10::Dispatcher::singleton().findOp(schema.operator_name());
  return (handle && handle->hasTag(at::Tag::inplace_view)) || schema.name().rfind("aten::resize", 0) == 0 ||
         schema.name() == "aten::set_";
}

}  // namespace torchweld
