// The instruction by which warpgroups (sm_90a only) multiply, as device code.
#pragma once

#include <c10/core/ScalarType.h>

#include <string>

namespace torchweld::cuda {

/// Where the instruction finds its 64 rows.
enum class WarpgroupRows {
  kShared,     ///< In shared memory, at a descriptor. The columns lie there alike: what is summed over is innermost.
  kRegisters,  ///< In registers, as fragments of mma.cuh; f16 and bf16. Of the columns, in shared memory, those that
               ///< belong to one place along the sum are neighbours.
};

/// `struct <name>`: the instruction for so many columns (a multiple of 8 up to 256), which the instruction set has no
/// generic form of. begin() before and close() after a row of run(sums, rows, columns), which adds the product of 32
/// bytes along k of the rows and of the columns at a descriptor (see warpgroup.cuh); sums are there after finish(sums).
/// After wait_for_earlier() all rows but the last have been read. On other architectures it traps.
std::string emit_warpgroup_multiply(const std::string& name, c10::ScalarType dtype, int64_t columns,
                                    WarpgroupRows rows = WarpgroupRows::kShared);

}  // namespace torchweld::cuda
