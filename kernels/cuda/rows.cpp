#include "kernels/cuda/rows.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "core/ops/norm.h"
#include "core/ops/softmax.h"
#include "kernels/cuda/own_kernel.h"
#include "kernels/shared_constants.h"

namespace torchweld::cuda {
namespace {

struct RowParts {
  Body body;
  std::string row;  ///< Name of the policy in rows.cuh.
  double parameter = 0;
  std::optional<size_t> x_index;  ///< The node's input that the anchor reads; none when the body computes it.
  c10::ScalarType dtype = c10::kFloat;
  LazyTensor weight;
  LazyTensor bias;
  std::vector<size_t> packed;
  Loops loops;  ///< The last one runs along the row. Where x is stored, the first operand holds its strides.
  const Value* source() const { return body.anchor->input(0); }
};

/// What a row is computed from, and what is done with it afterwards.
Loops loops_ahead(const RowParts& parts) {
  Loops ahead = parts.loops.only_for({parts.source()}, {});
  // Where the row is a result too, it is written when all is done.
  std::erase_if(ahead.operands, [](const Operand& operand) { return operand.output; });
  return ahead;
}
Loops loops_behind(const RowParts& parts) {
  const Graph& body = *parts.body.graph;
  std::vector<const Value*> outputs(body.outputs().begin(), body.outputs().end());
  return parts.loops.only_for(outputs, {parts.body.anchor->output(), parts.source()});
}

RowParts take_apart(const Node& node) {
  RowParts parts;
  parts.body = body_of(node);
  const Node& anchor = *parts.body.anchor;
  if (!parts.source()->producer()) parts.x_index = anchor_input(parts.body, 0);
  const TensorType& x = parts.x_index ? node.input(*parts.x_index)->type : parts.source()->type;
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
  if (!eaten.empty()) parts.weight = *lazy_constant_of(node.input(eaten[0]));
  if (eaten.size() > 1) parts.bias = *lazy_constant_of(node.input(eaten[1]));
  Operand in{.name = "in", .dtype = x.dtype, .strides = {}};
  for (int64_t d : order) {
    in.strides.push_back(x.strides[d]);
    parts.loops.sizes.push_back(x.shape[d]);
  }
  if (parts.x_index) parts.loops.operands.push_back(in);
  add_finish_operands(node, parts.body, order, parts.loops);
  parts.loops.collapse(fixed);
  expect(parts.loops.fixed_loops == 1, "the normalised dimensions do not lie one after the other in memory");
  if (parts.x_index) parts.loops.other_extent = x.storage_bytes() / static_cast<int64_t>(c10::elementSize(x.dtype));
  return parts;
}

at::Tensor pack(const Node& node, const RowParts& parts, const LazyTensor& constant) {
  if (!constant.defined() || is_collecting()) return {};
  c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(device_of(node)));
  c10::ScalarType dtype = parts.dtype == c10::kDouble ? c10::kDouble : c10::kFloat;
  return shared_constant(origin_of("of_rows " + dtype_name(dtype) + " " + device.str(), {constant}),
                         [&] { return constant.tensor().to(device, dtype).contiguous().clone(); });
}

/// Vectors that each of `threads` threads takes to hold a row of `length` elements; 0 when they are too many.
int64_t vectors_held(int64_t length, int threads, int width, c10::ScalarType dtype) {
  constexpr int64_t kMostBytes = 128;
  int64_t held = ceil_div(length, int64_t{threads} * width);
  int64_t element = dtype == c10::kDouble ? 8 : 4;
  return held * width * element <= kMostBytes ? held : 0;
}

/// How the threads of a block share rows.
struct RowThreads {
  int per_row = 32;
  unsigned per_block = 128;
  int64_t held = 0;  ///< Vectors that a thread holds; 0 when the row is read more than once.
};

/// Chooses the loops' width too.
RowThreads threads_for(RowParts& parts) {
  Loops& loops = parts.loops;
  size_t inner = loops.sizes.size() - 1;
  constexpr int64_t kWarpIsEnough = 1024;
  RowThreads threads;
  if (loops.sizes[inner] > kWarpIsEnough) threads = {.per_row = 256, .per_block = 256};
  bool neighbours = !parts.x_index || loops.operands.front().strides[inner] == 1;
  loops.choose_width(neighbours ? 8 : 1, false);
  threads.held = vectors_held(loops.sizes[inner], threads.per_row, loops.width, parts.dtype);
  return threads;
}

/// Vectors whose operands a thread reads before it computes the first.
int64_t vectors_together(const Loops& operands, int64_t held) {
  constexpr int64_t kMostBytes = 256;
  int64_t bytes = 0;
  for (const Operand& operand : operands.operands) {
    int64_t count = operand.strides.back() == 0 ? 1 : operands.width;
    if (operand.value) bytes += count * static_cast<int64_t>(c10::elementSize(operand.dtype));
  }
  return std::clamp<int64_t>(kMostBytes / std::max<int64_t>(bytes, 1), 1, held);
}

/// The call that transforms a row, and what stands ahead of it.
std::string emit_row_call(const RowParts& parts, const RowThreads& threads) {
  size_t inner = parts.loops.sizes.size() - 1;
  std::string width = std::to_string(parts.loops.width);
  std::string indexes = index_list(inner);
  std::string policy = "<" + parts.row + ", " + std::to_string(threads.per_row) + ", " + width;
  std::string finish = std::string("[&](const auto& acc, const auto&") + (parts.x_index ? "" : " x") +
                       ", I j) { elements.run<" + width + ">(acc, " + (parts.x_index ? "" : "x, ") + indexes +
                       ", j); });\n}\n";
  std::string row;
  if (parts.x_index) {
    row = "x" + std::to_string(*parts.x_index) + " + (0";
    for (size_t d = 0; d < inner; ++d) row += " + i" + std::to_string(d) + " * p.in[" + std::to_string(d) + "]";
    row += ")";
  }
  if (threads.held == 0) {
    check(parts.x_index.has_value(), "a row that is computed is too long to be held");
    return "  tw::wait_for_previous();\n  if (!there) return;\n  tw::transform_row" + policy + ">(" + row +
           ", elements.aligned && tw::is_aligned<" + width + ">(x" + std::to_string(*parts.x_index) + "), p,\n      " +
           finish;
  }
  std::string source = "tw::stored_row<" + width + ">(" + row + ", p.reduced_stride[0])";
  std::string before;
  if (!parts.x_index) {
    Loops ahead = loops_ahead(parts);
    before = "  " + emit_source_object(ahead);
    source = "tw::computed_row<" + width + ", " + compute_type(parts.dtype) + ", " +
             std::to_string(vectors_together(ahead, threads.held)) + ">(source)";
  }
  auto flag = [](const LazyTensor& constant) { return constant.defined() ? "true" : "false"; };
  return before + "  tw::transform_held_row" + policy + ", " + std::to_string(threads.held) + ", " +
         flag(parts.weight) + ", " + flag(parts.bias) + ">(" + source + ", there, p,\n      " + finish;
}

std::unique_ptr<Kernel> make_rows(const Node& node, RowParts parts) {
  RowThreads threads = threads_for(parts);
  const Loops& loops = parts.loops;
  size_t inner = loops.sizes.size() - 1;
  const Value* result = parts.body.anchor->output();
  std::string elements = parts.x_index ? emit_elements(parts.body, loops, result)
                                       : emit_source(parts.body, loops_ahead(parts), parts.source()) +
                                             emit_elements(parts.body, loops_behind(parts), result, parts.source());
  std::string thread_count = std::to_string(threads.per_block);
  Program program{
      "rows", emit_head(loops, {"rows.cuh"}) +
                  "struct Params {\n  double parameter;\n  const void* weight;\n  const void* bias;\n  I items;\n  I "
                  "reduced;\n  I reduced_stride[1];\n  tw::Size<I> size[" +
                  std::to_string(inner) + "];\n" + loops.parameter_members() + "};\n" + elements +
                  "extern \"C\" __global__ void __launch_bounds__(" + thread_count + ") kernel(" +
                  emit_pointers(node, parts.packed) + "const __grid_constant__ Params p) {\n  " +
                  emit_elements_object(parts.x_index ? loops : loops_behind(parts)) +
                  "  const I item = static_cast<I>(blockIdx.x) * (" + thread_count + " / " +
                  std::to_string(threads.per_row) + ") + threadIdx.x / " + std::to_string(threads.per_row) +
                  ";\n  const bool there = item < p.items;\n  I rest = there ? item : 0;\n" + emit_split(inner) +
                  emit_row_call(parts, threads)};
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
  add_index(arguments, parts.x_index ? loops.operands.front().strides[inner] : 0, type);
  for (size_t d = 0; d < inner; ++d) add_size(arguments, loops.sizes[d], type);
  loops.add_arguments(arguments);
  Shape shape{.blocks = ceil_div(items * threads.per_row, int64_t{threads.per_block}), .threads = threads.per_block};
  return make_own_kernel(node, program, shape, std::move(arguments), parts.packed, {weight, bias});
}

}  // namespace

void propose_rows(const Node& node, const KernelContext&, Offers& offers) {
  auto* fused = node.as<Fused>();
  const Node* anchor = fused ? anchor_of(*fused) : &node;
  if (!anchor || !(anchor->as<Softmax>() || anchor->as<LayerNorm>() || anchor->as<RmsNorm>())) return;
  RowParts parts = take_apart(node);
  expect(node.output()->type.numel() > 0, "an empty tensor");
  expect(parts.x_index || threads_for(parts).held > 0, "a row that is computed is too long to be held");
  offers.add("", [&node, parts] { return make_rows(node, parts); });
}

}  // namespace torchweld::cuda
