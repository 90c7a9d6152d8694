// Compiled once per instruction set: gathers that set's functions.
#include "kernels/cpu/isa.h"

namespace torchweld::cpu::TORCHWELD_ISA {

BlockTable block_table();
ReduceTable reduce_table();
RowTable row_table();
PoolTable pool_table();
ConvTable conv_table();

IsaTable isa_table() {
  return {.block = block_table(),
          .reduce = reduce_table(),
          .rows = row_table(),
          .pool = pool_table(),
          .conv = conv_table()};
}

}  // namespace torchweld::cpu::TORCHWELD_ISA
