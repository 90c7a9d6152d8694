#include "kernels/cpu/isa.h"

namespace torchweld::cpu {
namespace baseline {
IsaTable isa_table();
}
namespace avx2 {
IsaTable isa_table();
}
namespace avx512 {
IsaTable isa_table();
}

namespace {

IsaTable choose_table() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return avx512::isa_table();
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::isa_table();
#endif
  return baseline::isa_table();
}

}  // namespace

const IsaTable& isa_table() {
  static const IsaTable chosen = choose_table();
  return chosen;
}

}  // namespace torchweld::cpu
