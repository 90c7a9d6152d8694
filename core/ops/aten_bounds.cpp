#include "core/ops/aten_bounds.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <map>

#include "core/error.h"
#include "core/ops/aten.h"

namespace torchweld {
namespace {

using Call = std::vector<c10::IValue>;
using TypesOf = std::vector<TensorType> (*)(const Call&);

const at::Tensor& tensor_at(const Call& call, size_t i) {
  expect(i < call.size() && call[i].isTensor() && call[i].toTensor().defined(), "an argument is not a tensor");
  return call[i].toTensor();
}

TensorType of(const at::Tensor& like, c10::ScalarType dtype, Dims shape) {
  return contiguous_type(dtype, std::move(shape), like.device());
}

/// (self) -> one row of positions per element
std::vector<TensorType> nonzero(const Call& call) {
  const at::Tensor& x = tensor_at(call, 0);
  return {of(x, c10::kLong, {x.numel(), x.dim()})};
}

/// (condition) -> positions, one tensor per dimension
std::vector<TensorType> positions(const Call& call) {
  const at::Tensor& x = tensor_at(call, 0);
  return std::vector<TensorType>(static_cast<size_t>(std::max<int64_t>(x.dim(), 1)), of(x, c10::kLong, {x.numel()}));
}

/// (self, mask)
std::vector<TensorType> masked_select(const Call& call) {
  const at::Tensor& x = tensor_at(call, 0);
  Dims shape = broadcast_shapes(x.sizes().vec(), tensor_at(call, 1).sizes().vec());
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return {of(x, x.scalar_type(), {count})};
}

/// (self, ...) -> values, the place of each element among them, how often each occurs
std::vector<TensorType> unique(const Call& call) {
  const at::Tensor& x = tensor_at(call, 0);
  return {of(x, x.scalar_type(), {x.numel()}), of(x, c10::kLong, x.sizes().vec()), of(x, c10::kLong, {x.numel()})};
}

/// (self, dim, ...): slices in place of elements
std::vector<TensorType> unique_dim(const Call& call) {
  const at::Tensor& x = tensor_at(call, 0);
  int64_t slices = x.size(call.at(1).toInt());
  return {of(x, x.scalar_type(), x.sizes().vec()), of(x, c10::kLong, {slices}), of(x, c10::kLong, {slices})};
}

/// (boxes, scores, threshold)
std::vector<TensorType> nms(const Call& call) {
  const at::Tensor& boxes = tensor_at(call, 0);
  expect(boxes.dim() == 2, "boxes must have two dimensions");
  return {of(boxes, c10::kLong, {boxes.size(0)})};
}

/// (self, indices): a mask stands for the positions of all its elements.
std::vector<TensorType> index(const Call& call) {
  const at::Tensor& x = tensor_at(call, 0);
  c10::List<std::optional<at::Tensor>> indices;
  for (const c10::IValue& element : call.at(1).toListRef()) {
    if (!element.isTensor() || !element.toTensor().defined()) {
      indices.push_back(std::nullopt);
      continue;
    }
    const at::Tensor& given = element.toTensor();
    bool is_mask = given.scalar_type() == c10::kBool || given.scalar_type() == c10::kByte;
    at::TensorOptions options = at::TensorOptions(c10::kLong).device(c10::kMeta);
    for (int64_t i = 0; is_mask && i < given.dim(); ++i) indices.push_back(at::empty({given.numel()}, options));
    if (!is_mask) indices.push_back(given);
  }
  return infer_by_meta_run("aten::index.Tensor", {x, indices}, c10::kMeta);
}

}  // namespace

std::optional<std::vector<TensorType>> largest_result_types(const std::string& op,
                                                            const std::vector<c10::IValue>& arguments) {
  static const std::map<std::string, TypesOf> table{
      {"aten::nonzero", nonzero},
      {"aten::nonzero_numpy", positions},
      {"aten::where", positions},
      {"aten::masked_select", masked_select},
      {"aten::_unique", unique},
      {"aten::_unique2", unique},
      {"aten::unique_consecutive", unique},
      {"aten::unique_dim", unique_dim},
      {"aten::index.Tensor", index},
      {"torchvision::nms", nms},
  };
  auto row = table.find(op);
  return row == table.end() ? std::nullopt : std::optional(row->second(arguments));
}

}  // namespace torchweld
