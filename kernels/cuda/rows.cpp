#include "kernels/cuda/rows.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "core/ops/norm.h"
#include "core/ops/softmax.h"
#include "kernels/cuda/own_kernel.h"

namespace torchweld::cuda {
namespace {

struct RowParts {
  Body body;
  std::string row;  ///< Name of the policy in rows.cuh.
  double parameter = 0;
  size_t x_index = 0;
  c10::ScalarType dtype = c10::kFloat;
  at::Tensor weight;
  at::Tensor bias;
  std::vector<size_t> packed;
  Loops loops;  ///< The last one runs along the row; operand "in" holds the strides of x.
  const Dims& in() const { return loops.operands.front().strides; }
};

RowParts take_apart(const Node& node) {
  RowParts parts;
  parts.body = body_of(node);
  const Node& anchor = *parts.body.anchor;
  parts.x_index = anchor_input(parts.body, 0);
  const TensorType& x = node.input(parts.x_index)->type;
  parts.dtype = x.dtype;
  expect(x.is_floating() && x.dtype == anchor.output()->type.dtype, "only floating point");
  expect(x.rank() > 0, "only tensors of rank 1 and more");
  Dims order(x.shape.size());
  std::iota(order.begin(), order.end(), 0);
  size_t fixed = 1;
  std::vector<size_t> eaten;
  if (auto* softmax = anchor.as<Softmax>()) {
    parts.row = softmax->log ? "tw::LogSoftmaxRow" : "tw::SoftmaxRow";
    order.erase(order.begin() + softmax->axis);
    order.push_back(softmax->axis);
  } else {
    auto* layer = anchor.as<LayerNorm>();
    auto* rms = anchor.as<RmsNorm>();
    parts.row = layer ? "tw::NormalRow" : "tw::RootMeanSquareRow";
    parts.parameter = layer ? layer->eps : rms->eps_for(x.dtype);
    fixed = static_cast<size_t>(layer ? layer->rank : rms->rank);
    for (size_t i = 1; i < anchor.inputs().size(); ++i) eaten.push_back(anchor_input(parts.body, i));
  }
  parts.packed = packed_inputs_of(node, parts.body, eaten);
  if (!eaten.empty()) parts.weight = *constant_of(node.input(eaten[0]));
  if (eaten.size() > 1) parts.bias = *constant_of(node.input(eaten[1]));
  Operand in{.name = "in", .dtype = x.dtype, .strides = {}};
  for (int64_t d : order) {
    in.strides.push_back(x.strides[d]);
    parts.loops.sizes.push_back(x.shape[d]);
  }
  parts.loops.operands.push_back(in);
  add_finish_operands(node, parts.body, order, parts.loops);
  parts.loops.collapse(fixed);
  expect(parts.loops.fixed_loops == 1, "the normalised dimensions do not lie one after the other in memory");
  parts.loops.other_extent = x.storage_bytes() / static_cast<int64_t>(c10::elementSize(x.dtype));
  return parts;
}

at::Tensor pack(const Node& node, const RowParts& parts, const at::Tensor& tensor) {
  if (!tensor.defined() || is_collecting()) return {};
  c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(device_of(node)));
  return tensor.to(device, parts.dtype == c10::kDouble ? c10::kDouble : c10::kFloat).contiguous().clone();
}

/// Vectors that each of `threads` threads takes to hold a row of `length` elements; 0 when they are too many.
int64_t vectors_held(int64_t length, int threads, int width, c10::ScalarType dtype) {
  constexpr int64_t kMostBytes = 128;
  int64_t held = ceil_div(length, int64_t{threads} * width);
  int64_t element = dtype == c10::kDouble ? 8 : 4;
  return held * width * element <= kMostBytes ? held : 0;
}

std::unique_ptr<Kernel> make_rows(const Node& node, RowParts parts) {
  Loops& loops = parts.loops;
  size_t rank = loops.sizes.size();
  size_t inner = rank - 1;
  constexpr int64_t kWarpIsEnough = 1024;
  const bool by_warps = loops.sizes[inner] <= kWarpIsEnough;
  const int group_size = by_warps ? 32 : 256;
  const unsigned threads = by_warps ? 128 : 256;
  const bool neighbours = parts.in()[inner] == 1;
  loops.choose_width(neighbours ? 8 : 1, false);
  std::string width = std::to_string(loops.width);
  std::string group = std::to_string(group_size);
  std::string x = "x" + std::to_string(parts.x_index);
  std::string offset = "0";
  for (size_t d = 0; d < inner; ++d) offset += " + i" + std::to_string(d) + " * p.in[" + std::to_string(d) + "]";
  int64_t held = vectors_held(loops.sizes[inner], group_size, loops.width, parts.dtype);
  auto flag = [](const at::Tensor& tensor) { return tensor.defined() ? "true" : "false"; };
  std::string finish =
      "[&](const auto& acc, I j) { elements.run<" + width + ">(acc, " + index_list(inner) + ", j); });\n}\n";
  std::string body = held > 0
                         ? "  tw::transform_held_row<" + parts.row + ", " + group + ", " + width + ", " +
                               std::to_string(held) + ", " + flag(parts.weight) + ", " + flag(parts.bias) + ">(" + x +
                               " + (" + offset + "), there, p,\n      " + finish
                         : "  tw::wait_for_previous();\n  if (!there) return;\n  tw::transform_row<" + parts.row +
                               ", " + group + ", " + width + ">(" + x + " + (" + offset +
                               "), elements.aligned && tw::is_aligned<" + width + ">(" + x + "), p,\n      " + finish;
  std::string thread_count = std::to_string(threads);
  Program program{
      "rows", emit_head(loops, {"rows.cuh"}) +
                  "struct Params {\n  double parameter;\n  const void* weight;\n  const void* bias;\n  I items;\n  I "
                  "reduced;\n  I reduced_stride[1];\n  tw::Size<I> size[" +
                  std::to_string(inner) + "];\n" + loops.parameter_members() + "};\n" +
                  emit_elements(parts.body, loops, parts.body.anchor->output()) +
                  "extern \"C\" __global__ void __launch_bounds__(" + thread_count + ") kernel(" +
                  emit_pointers(node, parts.packed) + "const __grid_constant__ Params p) {\n  " +
                  emit_elements_object(loops) + "  const I item = static_cast<I>(blockIdx.x) * (" + thread_count +
                  " / " + group + ") + threadIdx.x / " + group +
                  ";\n  const bool there = item < p.items;\n  I rest = there ? item : 0;\n" + emit_split(inner) + body};
  at::Tensor weight = pack(node, parts, parts.weight);
  at::Tensor bias = pack(node, parts, parts.bias);
  std::string type = loops.index_type();
  int64_t items = loops.positions() / loops.sizes[inner];
  Arguments arguments;
  arguments.add(parts.parameter);
  arguments.add(weight.defined() ? weight.data_ptr() : nullptr);
  arguments.add(bias.defined() ? bias.data_ptr() : nullptr);
  add_index(arguments, items, type);
  add_index(arguments, loops.sizes[inner], type);
  add_index(arguments, parts.in()[inner], type);
  for (size_t d = 0; d < inner; ++d) add_size(arguments, loops.sizes[d], type);
  loops.add_arguments(arguments);
  Shape shape{.blocks = ceil_div(items * group_size, int64_t{threads}), .threads = threads};
  return make_own_kernel(node, program, shape, std::move(arguments), parts.packed, {weight, bias});
}

}  // namespace

void propose_rows(const Node& node, const KernelContext&, Offers& offers) {
  auto* fused = node.as<Fused>();
  const Node* anchor = fused ? anchor_of(*fused) : &node;
  if (!anchor || !(anchor->as<Softmax>() || anchor->as<LayerNorm>() || anchor->as<RmsNorm>())) return;
  RowParts parts = take_apart(node);
  expect(node.output()->type.numel() > 0, "an empty tensor");
  offers.add("", [&node, parts] { return make_rows(node, parts); });
}

}  // namespace torchweld::cuda
