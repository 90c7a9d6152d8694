// Small steps that importers share: shape ops that vanish where they would change nothing.
#pragma once

#include "core/graph.h"

namespace torchweld {

class ImportArgs;

/// `x` under other sizes (no -1); `x` itself when it has them.
Value* reshape(ImportArgs& a, Value* x, Dims shape);
/// `x` with its dimensions in another order; `x` itself when the order is theirs.
Value* permute(ImportArgs& a, Value* x, Dims order);
/// Elements start, start+step ... below end along `axis`; `x` itself when these are all.
Value* slice(ImportArgs& a, Value* x, int64_t axis, int64_t start, int64_t end, int64_t step = 1);
/// Arguments "start" and "end" of a slice of `size` elements, as numbers from 0 to size with start <= end.
std::pair<int64_t, int64_t> slice_bounds(ImportArgs& a, int64_t size);
/// `x` repeated to `shape`; `x` itself when it has that.
Value* expand(ImportArgs& a, Value* x, Dims shape);
/// `x` with a dimension of size 1 more, at `axis` of the result.
Value* unsqueeze(ImportArgs& a, Value* x, int64_t axis);
/// 0, 1, ... count-1.
Dims iota(int64_t count);

}  // namespace torchweld
