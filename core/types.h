// What is known about a tensor at compile time: element type, sizes, strides and device, all concrete.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace at {
class Tensor;
}

namespace torchweld {

/// Sizes or strides, outermost dimension first.
using Dims = std::vector<int64_t>;

/// Everything known about a value at compile time; always fully static.
struct TensorType {
  c10::ScalarType dtype = c10::ScalarType::Float;
  Dims shape;
  Dims strides;  ///< In elements; memory layout is nothing but strides.
  c10::Device device = c10::kCPU;

  bool operator==(const TensorType&) const = default;

  int64_t rank() const { return static_cast<int64_t>(shape.size()); }
  int64_t numel() const;
  /// Bytes from the first element to one past the last, gaps of the strides included. 0 for empty tensors.
  int64_t storage_bytes() const;
  bool is_floating() const { return c10::isFloatingType(dtype); }
};

/// Strides of a row-major tensor.
Dims contiguous_strides(const Dims& shape);
/// Strides with dimension 1 innermost (NHWC, NDHWC, NLC); row-major for ranks under 3.
Dims channels_last_strides(const Dims& shape);
/// True when the strides cover exactly numel() elements without gap or overlap, in any order of dimensions.
bool is_dense(const TensorType& type);
/// True when the elements lie row-major (strides of size-1 dimensions do not matter).
bool is_contiguous(const TensorType& type);
/// True when the elements lie channels-last (strides of size-1 dimensions do not matter).
bool is_channels_last(const TensorType& type);
/// True when both stride lists address the same elements (strides of size-1 dimensions do not matter).
bool same_layout(const Dims& shape, const Dims& a, const Dims& b);

TensorType contiguous_type(c10::ScalarType dtype, Dims shape, c10::Device device);
/// `type` with other sizes, row-major.
TensorType with_shape(const TensorType& type, Dims shape);
TensorType with_dtype(const TensorType& type, c10::ScalarType dtype);
TensorType with_strides(const TensorType& type, Dims strides);
/// `type` whose dimension i is dimension order[i] of the old one, in the same memory.
TensorType permuted(const TensorType& type, const Dims& order);

/// The type of an existing tensor.
TensorType type_of(const at::Tensor& tensor);
/// A new, uninitialised tensor of this type.
at::Tensor empty_tensor(const TensorType& type);

/// Sizes after broadcasting by the rules of NumPy; throws Unsupported when they do not fit.
Dims broadcast_shapes(const Dims& a, const Dims& b);
/// Strides by which a tensor of `shape`/`strides` is seen at the broadcast shape `to` (0 where repeated).
Dims broadcast_strides(const Dims& shape, const Dims& strides, const Dims& to);
/// Strides under which a tensor of `type` can be seen at `shape` without copying; nothing when it cannot.
std::optional<Dims> view_strides(const TensorType& type, const Dims& shape);
/// Turns a possibly negative axis into 0..rank-1; throws Unsupported when out of range. A 0-d tensor has one axis, 0.
int64_t normalize_axis(int64_t axis, int64_t rank);

/// Short names of element types: f32 f64 f16 bf16 i64 i32 i16 i8 u8 b8 ...
std::string dtype_name(c10::ScalarType dtype);
std::optional<c10::ScalarType> parse_dtype(const std::string& name);

/// `f16[1,3,224,224]{150528,1,672,3}@cuda:0`; strides only when not row-major, device only when not the CPU.
std::string to_string(const TensorType& type);
/// `[1, 3, 224]`
std::string to_string(const Dims& dims);

}  // namespace torchweld
