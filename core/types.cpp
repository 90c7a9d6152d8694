#include "core/types.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_strided.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "core/error.h"

namespace torchweld {
namespace {

struct DtypeName {
  c10::ScalarType dtype;
  const char* name;
};
constexpr std::array kDtypeNames{
    DtypeName{c10::kFloat, "f32"},
    DtypeName{c10::kDouble, "f64"},
    DtypeName{c10::kHalf, "f16"},
    DtypeName{c10::kBFloat16, "bf16"},
    DtypeName{c10::kLong, "i64"},
    DtypeName{c10::kInt, "i32"},
    DtypeName{c10::kShort, "i16"},
    DtypeName{c10::kChar, "i8"},
    DtypeName{c10::kByte, "u8"},
    DtypeName{c10::kBool, "b8"},
    DtypeName{c10::kComplexFloat, "c64"},
    DtypeName{c10::kComplexDouble, "c128"},
    DtypeName{c10::kFloat8_e4m3fn, "f8e4"},
    DtypeName{c10::kFloat8_e5m2, "f8e5"},
};

std::string join(const Dims& dims, const char* separator) {
  std::string text;
  for (size_t i = 0; i < dims.size(); ++i) text += (i ? separator : "") + std::to_string(dims[i]);
  return text;
}

}  // namespace

int64_t TensorType::numel() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

int64_t TensorType::storage_bytes() const {
  if (numel() == 0) return 0;
  int64_t last = 0;
  for (size_t i = 0; i < shape.size(); ++i) last += (shape[i] - 1) * strides[i];
  return (last + 1) * static_cast<int64_t>(c10::elementSize(dtype));
}

Dims contiguous_strides(const Dims& shape) {
  Dims strides(shape.size());
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = step;
    step *= std::max<int64_t>(shape[i], 1);
  }
  return strides;
}

Dims channels_last_strides(const Dims& shape) {
  if (shape.size() < 3) return contiguous_strides(shape);
  Dims strides(shape.size());
  int64_t step = std::max<int64_t>(shape[1], 1);
  strides[1] = 1;
  for (size_t i = shape.size(); i-- > 2;) {
    strides[i] = step;
    step *= std::max<int64_t>(shape[i], 1);
  }
  strides[0] = step;
  return strides;
}

bool is_dense(const TensorType& type) {
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (size_t i = 0; i < type.shape.size(); ++i) {
    if (type.shape[i] == 0) return true;
    if (type.shape[i] > 1) dims.emplace_back(type.strides[i], type.shape[i]);
  }
  std::sort(dims.begin(), dims.end());
  int64_t expected = 1;
  for (auto [stride, size] : dims) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

bool same_layout(const Dims& shape, const Dims& a, const Dims& b) {
  for (int64_t size : shape) {
    if (size == 0) return true;
  }
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] > 1 && a[i] != b[i]) return false;
  }
  return true;
}

bool is_contiguous(const TensorType& type) {
  return same_layout(type.shape, type.strides, contiguous_strides(type.shape));
}

bool is_channels_last(const TensorType& type) {
  return same_layout(type.shape, type.strides, channels_last_strides(type.shape));
}

TensorType contiguous_type(c10::ScalarType dtype, Dims shape, c10::Device device) {
  Dims strides = contiguous_strides(shape);
  return {dtype, std::move(shape), std::move(strides), device};
}

TensorType with_shape(const TensorType& type, Dims shape) {
  return contiguous_type(type.dtype, std::move(shape), type.device);
}

TensorType with_dtype(const TensorType& type, c10::ScalarType dtype) {
  TensorType result = type;
  result.dtype = dtype;
  return result;
}

TensorType with_strides(const TensorType& type, Dims strides) {
  TensorType result = type;
  result.strides = std::move(strides);
  return result;
}

TensorType permuted(const TensorType& type, const Dims& order) {
  TensorType result{type.dtype, {}, {}, type.device};
  for (int64_t i : order) {
    result.shape.push_back(type.shape[i]);
    result.strides.push_back(type.strides[i]);
  }
  return result;
}

TensorType type_of(const at::Tensor& tensor) {
  return {tensor.scalar_type(), tensor.sizes().vec(), tensor.strides().vec(), tensor.device()};
}

at::Tensor empty_tensor(const TensorType& type) {
  return at::empty_strided(type.shape, type.strides, at::TensorOptions(type.dtype).device(type.device));
}

Dims broadcast_shapes(const Dims& a, const Dims& b) {
  Dims result(std::max(a.size(), b.size()));
  for (size_t i = 0; i < result.size(); ++i) {
    int64_t x = i < a.size() ? a[a.size() - 1 - i] : 1;
    int64_t y = i < b.size() ? b[b.size() - 1 - i] : 1;
    expect(x == y || x == 1 || y == 1,
           [&] { return "sizes " + to_string(a) + " and " + to_string(b) + " do not broadcast together"; });
    result[result.size() - 1 - i] = x == 1 ? y : x;
  }
  return result;
}

Dims broadcast_strides(const Dims& shape, const Dims& strides, const Dims& to) {
  Dims result(to.size(), 0);
  size_t lead = to.size() - shape.size();
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] != 1) result[lead + i] = strides[i];
  }
  return result;
}

std::optional<Dims> view_strides(const TensorType& type, const Dims& shape) {
  if (type.numel() == 0) return contiguous_strides(shape);
  // Merge neighbouring dimensions that lie one after the other in memory into runs; each run must be cut up exactly
  // by a group of new dimensions.
  Dims result(shape.size());
  auto next = static_cast<int64_t>(shape.size()) - 1;
  int64_t run_size = 1;
  int64_t run_stride = type.shape.empty() ? 1 : type.strides.back();
  for (int64_t i = type.rank() - 1; i >= 0; --i) {
    run_size *= type.shape[i];
    bool run_ends = i == 0 || (type.shape[i - 1] != 1 && type.strides[i - 1] != run_size * run_stride);
    if (!run_ends) continue;
    int64_t covered = 1;
    while (next >= 0 && (covered < run_size || shape[next] == 1)) {
      result[next] = covered * run_stride;
      covered *= shape[next];
      --next;
    }
    if (covered != run_size) return std::nullopt;
    if (i > 0) {
      run_stride = type.strides[i - 1];
      run_size = 1;
    }
  }
  while (next >= 0) {
    if (shape[next] != 1) return std::nullopt;
    result[next] = 1;
    --next;
  }
  return result;
}

int64_t normalize_axis(int64_t axis, int64_t rank) {
  int64_t bound = std::max<int64_t>(rank, 1);
  expect(axis >= -bound && axis < bound, [&] {
    return "axis " + std::to_string(axis) + " is out of range for a tensor of rank " + std::to_string(rank);
  });
  return axis < 0 ? axis + bound : axis;
}

std::string dtype_name(c10::ScalarType dtype) {
  for (const DtypeName& row : kDtypeNames) {
    if (row.dtype == dtype) return row.name;
  }
  return c10::toString(dtype);
}

std::optional<c10::ScalarType> parse_dtype(const std::string& name) {
  for (const DtypeName& row : kDtypeNames) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

std::string to_string(const Dims& dims) { return "[" + join(dims, ", ") + "]"; }

std::string to_string(const TensorType& type) {
  std::string text = dtype_name(type.dtype) + "[" + join(type.shape, ",") + "]";
  if (type.strides != contiguous_strides(type.shape)) text += "{" + join(type.strides, ",") + "}";
  if (type.device != c10::Device(c10::kCPU)) text += "@" + type.device.str();
  return text;
}

}  // namespace torchweld
