#include "kernels/cpu/block_functions.h"

#include "kernels/cpu/isa.h"

namespace torchweld::cpu {

c10::ScalarType block_dtype(c10::ScalarType dtype) {
  return dtype == c10::kHalf || dtype == c10::kBFloat16 ? c10::kFloat : dtype;
}

BlockFunction find_block_function(const std::string& fn, c10::ScalarType dtype) {
  return isa_table().block.function(fn, dtype);
}
BlockFunction find_block_cast(c10::ScalarType from, c10::ScalarType to) { return isa_table().block.cast(from, to); }

}  // namespace torchweld::cpu
