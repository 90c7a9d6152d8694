// How much memory a run of a node has to move.
#pragma once

#include "core/graph.h"

namespace torchweld {

/// Bytes of a node's operands, each counted once; of a table only the rows that are picked. What kernels keep beside
/// these, or read more than once, is not in it.
struct Traffic {
  int64_t weights = 0;  ///< Constants.
  int64_t others = 0;   ///< Inputs that are computed, and outputs.
};
Traffic traffic_of(const Node& node);

}  // namespace torchweld
