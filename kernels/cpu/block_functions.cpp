#include "kernels/cpu/block_functions.h"

namespace torchweld::cpu {
namespace {

BlockTable choose_table() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return avx512::block_table();
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::block_table();
#endif
  return baseline::block_table();
}

const BlockTable& table() {
  static const BlockTable chosen = choose_table();
  return chosen;
}

}  // namespace

c10::ScalarType block_dtype(c10::ScalarType dtype) {
  return dtype == c10::kHalf || dtype == c10::kBFloat16 ? c10::kFloat : dtype;
}

BlockFunction find_block_function(const std::string& fn, c10::ScalarType dtype) { return table().function(fn, dtype); }
BlockFunction find_block_cast(c10::ScalarType from, c10::ScalarType to) { return table().cast(from, to); }

}  // namespace torchweld::cpu
