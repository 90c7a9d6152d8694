// A finder of fuse_blocks: the shortcut's convolution and the one it is added to.
#pragma once

#include "conversion/passes/groups.h"

namespace torchweld {

/// Where `node` is a 1x1 convolution without padding that is followed by pointwise nodes, one of which reads the result
/// of another such convolution and nothing else does: the two, which are one product over the channels of both (the end
/// of the first block of a stage of a residual net). Strides are free. Empty elsewhere. f16 and bf16 only.
Group joined_shortcut(Graph& graph, Node* node);

}  // namespace torchweld
