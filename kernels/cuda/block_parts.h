// What kernels for blocks have in common: taking a block apart, and facts of the device that bound their sizes.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <initializer_list>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/lazy_tensor.h"
#include "kernels/cuda/codegen.h"
#include "kernels/cuda/jit.h"

namespace torchweld::cuda {

/// One part of a block with constant weights: an anchor and the pointwise nodes after it.
struct BlockPart {
  Body body;                     ///< Of the part alone; its inputs are the part's.
  const Node* node;              ///< The part, a node of the block's body.
  const Value* x;                ///< What the anchor reads, a value of the graph that `node` is in.
  LazyTensor weight;             ///< Undefined when the anchor takes none.
  LazyTensor bias;               ///< Undefined when there is none.
  const Value* added = nullptr;  ///< The one other value that pointwise nodes read; null when there is none.
  size_t added_input = 0;        ///< Which input of the part that is.
  const Node& anchor() const { return *body.anchor; }
};

/// Takes apart a node of a block's body, or a node that is no block, as `block` and `part`. Throws Unsupported when
/// weights are not constant, or when pointwise nodes read more than numbers and one other tensor.
BlockPart take_part(const Node& block, const Node& part);

/// `part` of the block's body as the last node of a graph of its own, with copies of its constants and the types that
/// its operands have outside; `known` is what another part computes, null for nothing.
std::shared_ptr<Graph> part_alone(const Node& block, const Node& part, const Value* known = nullptr);

/// A device function `template <int V> static void name(float (&acc)[V], const float (&operand)[V])` that puts the
/// result of pointwise nodes into acc; without the second parameter when `operand` is empty. `names` are the variables
/// of the graph's inputs.
std::string emit_pointwise(const Graph& graph, std::map<const Value*, std::string> names, const std::string& name,
                           const std::string& operand);

/// The same for the pointwise nodes after a part's anchor, with the operand "added" when `with_added`.
std::string emit_after(const BlockPart& part, const std::string& name, bool with_added);

/// The same for pointwise nodes of one tensor, which is in acc, and a gate: input `gate_input` of the graph, the
/// operand.
std::string emit_gated(const Graph& graph, size_t gate_input, const std::string& name);

/// True for a pointwise node, alone or as a fused node without an anchor.
bool is_pointwise(const Node& node);

/// `static constexpr int` members with these names and values.
std::string emit_constants(std::initializer_list<std::pair<const char*, int64_t>> list);

/// Throws Unsupported unless the tensor [N,C,H,W] has its channels, a multiple of 8, side by side, all positions at
/// multiples of 8 elements, and offsets of 32 bits. `what` names it.
void expect_channels_last(const TensorType& type, const std::string& what);

/// Where a lane of the tensor cores finds 4 neighbouring channels: row r of 16 packed rows is this channel.
inline int64_t channel_of_row(int64_t row) { return row / 16 * 16 + row % 8 / 2 * 4 + row % 16 / 8 * 2 + row % 2; }

/// A copy in host memory, without gaps.
at::Tensor as_f32(const at::Tensor& tensor);
/// What `pack` gives, in host memory, as device memory of `node`; or what a plan holds that `pack` gave for the same
/// program and weights, see shared_constant(). The program tells how they are packed: its device code reads them.
at::Tensor packed_for(const Node& node, const Program& program, const std::vector<LazyTensor>& weights,
                      const std::function<at::Tensor()>& pack);

/// What bounds the kernels of a node's device.
struct DeviceLimits {
  int major = 9;  ///< Compute capability.
  int processors = 132;
  int64_t shared_bytes = 227 << 10;  ///< Per block of threads.
};
/// Those of sm_90 while device code is only collected.
DeviceLimits limits_of(const Node& node);

/// Which of `count` configurations, best first, to take without timing: the first whose code has been compiled before
/// (`program_of` gives it), so that another shape of a known block needs no compiler; else the first whose cluster is
/// one that every GPU with clusters can run. `count` when there is none.
size_t choose_untimed(const Node& node, size_t count, const std::function<Program(size_t)>& program_of,
                      const std::function<int64_t(size_t)>& cluster_of);

/// Of configurations of two launches, "first, second", the names of one of them (0 or 1).
std::set<std::string> names_of_launch(const std::set<std::string>& names, int launch);

}  // namespace torchweld::cuda
