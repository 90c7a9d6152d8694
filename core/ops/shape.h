// Ops that move or regroup elements and compute nothing.
#pragma once

#include "core/graph.h"

namespace torchweld {

class ImportArgs;

/// The same elements in row-major order under other sizes (no -1). A view where the input's strides allow.
struct Reshape {
  Dims shape;
  void fields(auto&& f) { f("shape", shape); }
};

/// Output dimension i is input dimension order[i]. A view.
struct Permute {
  Dims order;
  void fields(auto&& f) { f("order", order); }
  /// The order that puts the dimensions of the result back.
  Dims inverse() const;
};

/// Elements start, start+step, ... below end along one axis (0 <= start <= end <= size, step >= 1). A view.
struct Slice {
  int64_t axis = 0;
  int64_t start = 0;
  int64_t end = 0;
  int64_t step = 1;
  void fields(auto&& f) {
    f("axis", axis);
    f("start", start);
    f("end", end);
    f("step", step);
  }
};

/// Repeats dimensions of size 1 (and new leading ones) up to `shape`, with stride 0. A view.
struct Expand {
  Dims shape;
  void fields(auto&& f) { f("shape", shape); }
};

/// Joins its inputs along one axis. All have one dtype; the result is row-major, or channels-last when all inputs are.
struct Concat {
  int64_t axis = 0;
  void fields(auto&& f) { f("axis", axis); }
};

/// Surrounds x with `value`. `before` and `after` hold a count for every dimension of x; negative counts cut off.
struct Pad {
  Dims before;
  Dims after;
  double value = 0;
  void fields(auto&& f) {
    f("before", before);
    f("after", after);
    f("value", value);
  }
};

/// The same tensor laid out with these strides: a copy in memory, no change of meaning.
struct Copy {
  Dims strides;
  void fields(auto&& f) { f("strides", strides); }
};

/// `x` in a memory format (a c10::MemoryFormat as TorchScript passes it): x itself when it lies so already, else a
/// copy.
Value* emit_memory_format(ImportArgs& a, Value* x, int64_t format);

/// The importers of the family, which emit several of its ops: views and pieces, and those that repeat, join, shuffle
/// and pad.
void define_shape_imports(OpSet::Builder<Reshape>& op);
void define_rearranging_imports(OpSet::Builder<Reshape>& op);
void define_shape(OpSet& ops);

}  // namespace torchweld
