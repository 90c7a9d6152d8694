// The passes: rewrites of the engine's graph, in one ordered table.
//
// A pass keeps the meaning of the graph (rounding within the tolerance rule), its inputs and outputs, and their types.
// Each stands in the file of its name, with a golden of its name in tests/golden.
#pragma once

#include <string>
#include <vector>

#include "core/graph.h"

namespace torchweld {

/// What passes may know beside the graph.
struct PassContext {
  /// Dtypes that f32 values may be computed in (Options::enabled_precisions).
  std::vector<c10::ScalarType> precisions = {c10::kFloat};
  /// Head of the names of dumped files, e.g. the engine's name.
  std::string name = "graph";
  /// The device has kernels that take blocks of f16 and bf16 (CUDA, compute capability 8.0 and later).
  bool tensor_cores = false;
  /// The graph is verified after each pass that has changed something; else, where a call waits, once at the end.
  bool verify_each = true;
};

/// One row of the table.
struct Pass {
  const char* name;
  void (*run)(Graph& graph, const PassContext& context);
};

/// Every pass in the order in which it runs; a pass that has more to do later stands in it twice.
const std::vector<Pass>& passes();
/// Runs the table on `graph`: leaves out what TORCHWELD_DISABLE names, sweeps after each pass that has changed
/// something and verifies the graph, writes each stage that changed the graph into the folder TORCHWELD_DUMP, and logs
/// times at level 3. Passes need not mind who shares memory: at the end, a graph output that has come to lie in memory
/// of an input or another output is copied.
void optimize(Graph& graph, const PassContext& context);

/// Runs nodes whose inputs are all constants by their ATen line and puts constants in their place. A result that is
/// much larger than its inputs (an expanded scalar) stays a node. Views of constants become constants too.
void fold_constants(Graph& graph, const PassContext& context);

/// Removes what does nothing: reshapes, permutes, slices, casts, copies, expands and paddings that keep their input,
/// `x*1`, `x/1`, `x-0`, `x+(-0.0)` (and `x+0` for integers), repeated relu and the like, a concat of one, pooling over
/// single elements. Merges chains of permutes, of reshapes and of exact casts; dimensions are taken apart before they
/// are permuted. Adaptive average pooling to one element becomes a mean, which has more kernels.
void simplify(Graph& graph, const PassContext& context);

/// BatchNorm after a convolution or linear, and multiplication or addition of a constant per output channel there, go
/// into weights and bias; computed in f64. A BatchNorm that has no such producer becomes one multiplication and one
/// addition of constants per channel. Folds only where nothing else reads the value in between.
void fold_batch_norm(Graph& graph, const PassContext& context);

/// Nodes with equal attributes and inputs are computed once. Large constants are equal when they are the same tensor.
void share_common_nodes(Graph& graph, const PassContext& context);

/// softmax(scale * q k^T + mask) v written out becomes an Attention node, whether the scale stands at q or behind the
/// product, and the mask is added or (-inf) filled in; nothing else may read the scores and weights. Rows that are
/// masked throughout keep their meaning (NaN for -inf). In f16 additive masks stay written out, for their large
/// negative numbers do not hide a score from f32. An Attention node whose heads of k and v were
/// repeated for those of q reads them where they are; one that is made here does not.
void recognise_attention(Graph& graph, const PassContext& context);

/// x * rsqrt(mean(x^2) + eps), or divided by the square root, over the last dimensions becomes an RmsNorm node, also
/// with the multiplication by a constant per element behind it, and where f16 or bf16 was widened for it and rounded
/// after it; nothing else may read what lies in between.
void recognise_rms_norm(Graph& graph, const PassContext& context);

/// 0.5 x (1 + erf(x / sqrt(2))) written out becomes gelu, and 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) becomes
/// gelu_tanh, however the products and sums are ordered; numbers may differ by rounding. (Hendrycks and Gimpel, 2016.)
void recognise_gelu(Graph& graph, const PassContext& context);

/// Linear nodes of the same input, with constant weights, become one whose result they are slices of, where all that
/// reads them takes a view as it is: attention, products and views. (Pointwise nodes do not count, for they would be
/// computed at the end of the product.)
void merge_linears(Graph& graph, const PassContext& context);

/// Linear nodes whose rows lie in memory in another order of dimensions (a sequence-first attention between batch-first
/// layers) compute in that order, so that what follows finds its own. Copies vanish that are read only by attention
/// and views which stay views without them.
void follow_memory(Graph& graph, const PassContext& context);

/// Computes f32 values in f16 or bf16 where the context allows it: convolutions, products, pooling, pointwise ops and
/// what only moves elements. Powers, exponentials, sums, statistics, and whatever is not known to be safe stay f32;
/// softmax and norms take reduced values and compute inside in f32. Graph inputs and outputs keep their dtypes by
/// casts.
void set_precision(Graph& graph, const PassContext& context);

/// A convolution whose windows lie side by side (the patch embedding of a vision transformer) becomes a linear over
/// patches, where the device has kernels for large products and the windows are too large for those for convolutions.
void patches_to_products(Graph& graph, const PassContext& context);

/// Lays 4-D and 5-D values around convolutions, pooling and resizing out channels-last, and infers the strides of what
/// follows again; a picture stays as it is where there are kernels that read its few channels from any layout. A graph
/// output gets a Copy back to its own strides where they differ. A reshape that is no view becomes a Copy and a view.
void layout(Graph& graph, const PassContext& context);

/// Groups nodes into Fused ones (see core/ops/fused.h): convolutions and products with the pointwise nodes that follow
/// them, and chains and trees of pointwise nodes. For CUDA also softmax and norms with the pointwise nodes round them,
/// where a row is short enough to be held by a kernel; and takes of rows join those that read them. The body means what
/// the nodes meant.
void fuse(Graph& graph, const PassContext& context);

/// Groups what one kernel can keep on chip into blocks (fused nodes with several anchors) where the device has kernels
/// for them: a depthwise convolution with the 1x1 convolutions before and after it (inverted residual, also with the
/// block's input added); a scaling by one number per channel with the 1x1 convolution after it; a mean over positions
/// with the two 1x1 convolutions after it, and the gating where no convolution follows it (squeeze-excitation); the
/// three last ones in a row, as a block of blocks (an inverted residual with squeeze-excitation inside); a mean over
/// positions with a linear (and a cast to f32) after it; a convolution of at most 4 channels with the max pool after
/// it; a linear, the layer norm after it and the linear after that; a 1x1 convolution with another one that is added to
/// it (the end of a residual net's stage); convolutions or linears of one tensor that differ in nothing but their
/// weights. What lies between them must be read by nothing else, but for the norm's operand and result, which may also
/// be results of the block. A block's body holds the nodes as they were; where no kernel is faster than these,
/// `expand_blocks` (see groups.h) puts them back.
void fuse_blocks(Graph& graph, const PassContext& context);

}  // namespace torchweld
