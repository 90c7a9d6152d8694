#include "kernels/cuda/packed_bytes.h"

#include <ATen/ops/zeros.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "core/error.h"

namespace torchweld::cuda {

PackedBytes::PackedBytes(int64_t size, c10::ScalarType dtype)
    : tensor_(at::zeros({size}, c10::kByte)),
      data_(static_cast<std::byte*>(tensor_.mutable_data_ptr())),
      is_half_(dtype == c10::kHalf) {
  check(is_half_ || dtype == c10::kBFloat16, "packed elements are f16 or bf16");
}

void PackedBytes::put(int64_t at, float value) {
  uint16_t bits = is_half_ ? c10::Half(value).x : c10::BFloat16(value).x;
  std::memcpy(data_ + at, &bits, sizeof bits);
}

}  // namespace torchweld::cuda
