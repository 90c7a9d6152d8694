#include "core/ops/aten_types.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/ops/layout.h"

namespace torchweld {
namespace {

using Call = std::vector<c10::IValue>;
using TypesOf = std::vector<TensorType> (*)(const Call&);

TensorType tensor(const Call& call, size_t i) {
  expect(i < call.size() && call[i].isTensor() && call[i].toTensor().defined(), "an argument is not a tensor");
  return type_of(call[i].toTensor());
}

// ---- results like the first argument ----

std::vector<TensorType> like_self(const Call& call) {
  TensorType x = tensor(call, 0);
  return {with_strides(x, dense_strides_like(x.shape, x.strides))};
}

std::vector<TensorType> row_major_like_self(const Call& call) {
  return {with_shape(tensor(call, 0), tensor(call, 0).shape)};
}

std::vector<TensorType> floating_like_self(const Call& call) {
  TensorType x = like_self(call)[0];
  return {x.is_floating() ? x : with_dtype(x, c10::get_default_dtype_as_scalartype())};
}

std::vector<TensorType> self_and_positions(const Call& call) {
  TensorType x = row_major_like_self(call)[0];
  return {x, with_dtype(x, c10::kLong)};
}

std::vector<TensorType> masked_scatter(const Call& call) {
  TensorType x = tensor(call, 0);
  Dims shape = broadcast_shapes(x.shape, tensor(call, 1).shape);
  if (shape == x.shape) return like_self(call);
  return {with_shape(x, std::move(shape))};
}

/// (self, k, dims)
std::vector<TensorType> rot90(const Call& call) {
  TensorType x = tensor(call, 0);
  Dims axes = call.at(2).toIntVector();
  expect(axes.size() == 2, "rot90: needs two dimensions");
  Dims shape = x.shape;
  if (call.at(1).toInt() % 2 != 0) {
    std::swap(shape[normalize_axis(axes[0], x.rank())], shape[normalize_axis(axes[1], x.rank())]);
  }
  return {with_shape(x, std::move(shape))};
}

// ---- reductions ----

/// Sizes of `x` reduced over `axes` (none: over all).
Dims reduced(const TensorType& x, Dims axes, bool keepdim) {
  for (int64_t& axis : axes) axis = normalize_axis(axis, x.rank());
  Dims shape;
  for (int64_t i = 0; i < x.rank(); ++i) {
    bool is_reduced = axes.empty() || std::find(axes.begin(), axes.end(), i) != axes.end();
    if (!is_reduced) shape.push_back(x.shape[i]);
    if (is_reduced && keepdim) shape.push_back(1);
  }
  return shape;
}

std::vector<TensorType> one_number(const Call& call) { return {with_shape(tensor(call, 0), {})}; }

/// (self, dim, keepdim) -> values, indices
std::vector<TensorType> reduced_pair(const Call& call) {
  TensorType x = tensor(call, 0);
  TensorType values = with_shape(x, reduced(x, {call.at(1).toInt()}, call.at(2).toBool()));
  return {values, with_dtype(values, c10::kLong)};
}

/// (self, k, dim, keepdim) -> values, indices
std::vector<TensorType> kth_pair(const Call& call) { return reduced_pair({call.at(0), call.at(2), call.at(3)}); }

/// (self, q, dim?, keepdim, ...)
std::vector<TensorType> quantile(const Call& call) {
  TensorType x = tensor(call, 0);
  Dims axes = call.at(2).isNone() ? Dims{} : Dims{call.at(2).toInt()};
  return {with_shape(x, reduced(x, axes, call.at(3).toBool()))};
}

/// (self, dim[]?, keepdim, dtype?)
std::vector<TensorType> nan_sum(const Call& call) {
  TensorType x = tensor(call, 0);
  Dims axes = call.at(1).isNone() ? Dims{} : call.at(1).toIntVector();
  TensorType result = with_shape(x, reduced(x, axes, call.at(2).toBool()));
  if (!call.at(3).isNone()) return {with_dtype(result, call.at(3).toScalarType())};
  return {c10::isIntegralType(x.dtype, true) ? with_dtype(result, c10::kLong) : result};
}

/// (self, dim? or dim[])
std::vector<TensorType> count_of(const Call& call) {
  TensorType x = tensor(call, 0);
  const c10::IValue& dim = call.at(1);
  Dims axes = dim.isNone() ? Dims{} : dim.isInt() ? Dims{dim.toInt()} : dim.toIntVector();
  return {with_dtype(with_shape(x, reduced(x, axes, false)), c10::kLong)};
}

// ---- products and distances ----

/// (self, batch1, batch2, ...)
std::vector<TensorType> addbmm(const Call& call) {
  TensorType a = tensor(call, 1);
  TensorType b = tensor(call, 2);
  expect(a.rank() == 3 && b.rank() == 3 && a.shape[0] == b.shape[0] && a.shape[2] == b.shape[1],
         "addbmm: the batches do not fit together");
  return {with_shape(a, {a.shape[1], b.shape[2]})};
}

std::vector<TensorType> cdist(const Call& call) {
  TensorType a = tensor(call, 0);
  TensorType b = tensor(call, 1);
  expect(a.rank() >= 2 && b.rank() >= 2 && a.shape.back() == b.shape.back(), "cdist: rows must have one length");
  Dims shape = broadcast_shapes(Dims(a.shape.begin(), a.shape.end() - 2), Dims(b.shape.begin(), b.shape.end() - 2));
  shape.push_back(a.shape[a.shape.size() - 2]);
  shape.push_back(b.shape[b.shape.size() - 2]);
  return {with_shape(a, std::move(shape))};
}

// ---- positions in sorted tensors ----

/// (sorted, self, out_int32, ...)
std::vector<TensorType> searchsorted(const Call& call) {
  c10::ScalarType dtype = call.at(2).toBool() ? c10::kInt : c10::kLong;
  if (!call.at(1).isTensor()) return {with_dtype(with_shape(tensor(call, 0), {}), dtype)};
  return {with_dtype(row_major_like_self({call[1]})[0], dtype)};
}

/// (self, boundaries, out_int32, right)
std::vector<TensorType> bucketize(const Call& call) { return searchsorted({call.at(1), call.at(0), call.at(2)}); }

// ---- padding, windows, sampling ----

std::vector<TensorType> padded(const Call& call, bool reflects) {
  TensorType x = tensor(call, 0);
  Dims pairs = call.at(1).toIntVector();
  Dims shape = x.shape;
  expect(pairs.size() % 2 == 0 && pairs.size() / 2 < shape.size(), "pad: needs two counts per padded dimension");
  for (size_t i = 0; i < pairs.size(); ++i) {
    size_t d = shape.size() - 1 - i / 2;
    expect(reflects ? pairs[i] < x.shape[d] : x.shape[d] > 0, "pad: needs more elements than there are");
    shape[d] += pairs[i];
  }
  return {with_suggested_layout(x, std::move(shape))};
}

std::vector<TensorType> reflection_pad(const Call& call) { return padded(call, true); }

std::vector<TensorType> replication_pad(const Call& call) { return padded(call, false); }

/// (input, grid, ...)
std::vector<TensorType> grid_sampler(const Call& call) {
  TensorType x = tensor(call, 0);
  TensorType grid = tensor(call, 1);
  expect((x.rank() == 4 || x.rank() == 5) && grid.rank() == x.rank() && grid.shape[0] == x.shape[0] &&
             grid.shape.back() == x.rank() - 2,
         "grid_sampler: input and grid do not fit together");
  Dims shape{x.shape[0], x.shape[1]};
  shape.insert(shape.end(), grid.shape.begin() + 1, grid.shape.end() - 1);
  return {with_shape(x, std::move(shape))};
}

int64_t pair_at(const Call& call, size_t i, size_t d) {
  Dims list = call.at(i).toIntVector();
  return list.size() == 1 ? list[0] : list.at(d);
}

/// Positions of a window of the sizes at `first`, with dilation, padding and stride behind it.
int64_t windows(const Call& call, size_t first, const Dims& space) {
  int64_t count = 1;
  for (size_t d = 0; d < 2; ++d) {
    int64_t reach = pair_at(call, first + 1, d) * (pair_at(call, first, d) - 1) + 1;
    int64_t room = space[d] + 2 * pair_at(call, first + 2, d) - reach;
    expect(pair_at(call, first + 3, d) > 0 && room >= 0, "the window is larger than the padded input");
    count *= room / pair_at(call, first + 3, d) + 1;
  }
  return count;
}

/// (self, kernel_size, dilation, padding, stride)
std::vector<TensorType> im2col(const Call& call) {
  TensorType x = tensor(call, 0);
  expect(x.rank() == 3 || x.rank() == 4, "im2col: input must have rank 3 or 4");
  Dims space(x.shape.end() - 2, x.shape.end());
  Dims shape(x.shape.begin(), x.shape.end() - 3);
  shape.push_back(x.shape[x.rank() - 3] * pair_at(call, 1, 0) * pair_at(call, 1, 1));
  shape.push_back(windows(call, 1, space));
  return {with_shape(x, std::move(shape))};
}

/// (self, output_size, kernel_size, dilation, padding, stride)
std::vector<TensorType> col2im(const Call& call) {
  TensorType x = tensor(call, 0);
  expect(x.rank() == 2 || x.rank() == 3, "col2im: input must have rank 2 or 3");
  int64_t area = pair_at(call, 2, 0) * pair_at(call, 2, 1);
  Dims space{pair_at(call, 1, 0), pair_at(call, 1, 1)};
  int64_t columns = x.shape[x.rank() - 2];
  expect(area > 0 && columns % area == 0 && x.shape.back() == windows(call, 2, space),
         "col2im: sizes do not fit together");
  Dims shape(x.shape.begin(), x.shape.end() - 2);
  shape.insert(shape.end(), {columns / area, space[0], space[1]});
  return {with_shape(x, std::move(shape))};
}

/// (self, indices, output_size)
std::vector<TensorType> max_unpool(const Call& call) {
  TensorType x = tensor(call, 0);
  Dims shape = x.shape;
  shape[shape.size() - 2] = pair_at(call, 2, 0);
  shape[shape.size() - 1] = pair_at(call, 2, 1);
  return {with_suggested_layout(x, std::move(shape))};
}

// ---- torchvision, where its library is loaded ----

/// (input, rois, spatial_scale, pooled_height, pooled_width, ...)
std::vector<TensorType> roi_align(const Call& call) {
  TensorType x = tensor(call, 0);
  TensorType rois = tensor(call, 1);
  expect(x.rank() == 4 && rois.rank() == 2 && rois.shape[1] == 5, "roi_align: sizes do not fit together");
  return {with_shape(x, {rois.shape[0], x.shape[1], call.at(3).toInt(), call.at(4).toInt()})};
}

/// (input, weight, offset, mask, bias, ...)
std::vector<TensorType> deform_conv(const Call& call) {
  TensorType x = tensor(call, 0);
  TensorType offset = tensor(call, 2);
  expect(x.rank() == 4 && offset.rank() == 4, "deform_conv2d: sizes do not fit together");
  return {with_shape(x, {x.shape[0], tensor(call, 1).shape[0], offset.shape[2], offset.shape[3]})};
}

const std::map<std::string, TypesOf>& rows() {
  static const std::map<std::string, TypesOf> table{
      {"aten::flip", like_self},
      {"aten::fliplr", like_self},
      {"aten::flipud", like_self},
      {"aten::rot90", rot90},
      {"aten::nan_to_num", like_self},
      {"aten::logcumsumexp", like_self},
      {"aten::logit", floating_like_self},
      {"aten::index_put", like_self},
      {"aten::index_fill.int_Scalar", like_self},
      {"aten::index_fill.int_Tensor", like_self},
      {"aten::masked_scatter", masked_scatter},
      {"aten::cummax", self_and_positions},
      {"aten::cummin", self_and_positions},
      {"aten::fake_quantize_per_tensor_affine", like_self},
      {"aten::fake_quantize_per_tensor_affine.tensor_qparams", like_self},
      {"aten::fake_quantize_per_channel_affine", like_self},
      {"aten::median", one_number},
      {"aten::nanmedian", one_number},
      {"aten::vdot", one_number},
      {"aten::median.dim", reduced_pair},
      {"aten::nanmedian.dim", reduced_pair},
      {"aten::mode", reduced_pair},
      {"aten::kthvalue", kth_pair},
      {"aten::quantile.scalar", quantile},
      {"aten::nansum", nan_sum},
      {"aten::nanmean", nan_sum},
      {"aten::count_nonzero", count_of},
      {"aten::count_nonzero.dim_IntList", count_of},
      {"aten::addbmm", addbmm},
      {"aten::cdist", cdist},
      {"aten::searchsorted.Tensor", searchsorted},
      {"aten::searchsorted.Scalar", searchsorted},
      {"aten::bucketize.Tensor", bucketize},
      {"aten::reflection_pad2d", reflection_pad},
      {"aten::replication_pad2d", replication_pad},
      {"aten::grid_sampler", grid_sampler},
      {"aten::grid_sampler_2d", grid_sampler},
      {"aten::grid_sampler_3d", grid_sampler},
      {"aten::im2col", im2col},
      {"aten::col2im", col2im},
      {"aten::max_unpool2d", max_unpool},
      {"torchvision::roi_align", roi_align},
      {"torchvision::deform_conv2d", deform_conv},
  };
  return table;
}

}  // namespace

std::optional<std::vector<TensorType>> known_result_types(const std::string& op, const Call& arguments) {
  auto row = rows().find(op);
  if (row == rows().end()) return std::nullopt;
  return row->second(arguments);
}

std::vector<std::string> operators_of_known_types() {
  std::vector<std::string> names;
  for (const auto& [name, types] : rows()) names.push_back(name);
  return names;
}

}  // namespace torchweld
