// Constants of several element types packed into one piece of memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstring>

namespace torchweld::cuda {

/// Bytes in host memory, zeros at first, written number by number.
class PackedBytes {
 public:
  /// `dtype` (f16 or bf16) is what `put` writes.
  PackedBytes(int64_t size, c10::ScalarType dtype);
  void put(int64_t at, float value);
  void put_f32(int64_t at, float value) { std::memcpy(data_ + at, &value, sizeof value); }
  const at::Tensor& tensor() const { return tensor_; }

 private:
  at::Tensor tensor_;
  std::byte* data_;
  bool is_half_;
};

}  // namespace torchweld::cuda
