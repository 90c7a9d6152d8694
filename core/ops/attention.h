// Scaled dot-product attention.
#pragma once

#include "core/graph.h"

namespace torchweld {

/// softmax(scale * q k^T + mask) v, head by head. Inputs: q [N,Hq,L,E], k [N,H,S,E], v [N,H,S,D], all of one floating
/// dtype, and optionally a mask that broadcasts to [N,Hq,L,S]: b8 (true: takes part) or floating (added to the scaled
/// products; of the dtype of q, or f32). Output [N,Hq,L,D], laid out in memory as q is. Hq is a multiple of H: query
/// head i reads key and value head i / (Hq / H). With `causal`, row i takes part in columns 0..i (also where L and S
/// differ), and there is no mask. Products and softmax are in f32 (f64 for f64). A row of which no column takes part
/// (b8 false or -inf throughout) gives zeros, or NaN with `nan_rows`, as softmax written out does.
struct Attention {
  double scale = 1;
  bool causal = false;
  bool nan_rows = false;
  void fields(auto&& f) {
    f("scale", scale);
    f("causal", causal);
    f("nan_rows", nan_rows);
  }
};

/// Adds the mask, if there is one, to the inputs of an Attention node.
std::vector<Value*> attention_inputs(Value* q, Value* k, Value* v, Value* mask);

void define_attention(OpSet& ops);

}  // namespace torchweld
