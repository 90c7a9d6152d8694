// The functions that are compiled for several instruction sets, and which of them this processor runs.
#pragma once

#include "kernels/cpu/block_functions.h"
#include "kernels/cpu/conv_functions.h"
#include "kernels/cpu/pool_functions.h"
#include "kernels/cpu/reduce_functions.h"
#include "kernels/cpu/row_functions.h"

namespace torchweld::cpu {

/// One instruction set's functions.
struct IsaTable {
  BlockTable block;
  ReduceTable reduce;
  RowTable rows;
  PoolTable pool;
  ConvTable conv;
};

/// Those for the best instruction set of this processor.
const IsaTable& isa_table();

}  // namespace torchweld::cpu
