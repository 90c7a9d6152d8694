#include "kernels/cuda/linear.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/matmul.h"
#include "kernels/cuda/own_kernel.h"
#include "kernels/shared_constants.h"

namespace torchweld::cuda {
namespace {

constexpr unsigned kThreads = 128;
constexpr int64_t kMostRows = 32;
constexpr int64_t kMostRowsUntimed = 8;

struct LinearParts {
  Body body;
  size_t x_index = 0;
  TensorType x;
  int64_t depth = 0;
  LazyTensor weight;
  LazyTensor bias;
  std::vector<size_t> packed;
  Loops loops;  ///< The last one runs over outputs; operand "in" holds where the rows of x start.
  const Dims& in() const { return loops.operands.front().strides; }
  int64_t rows() const { return loops.positions() / std::max<int64_t>(loops.sizes.back(), 1); }
};

bool all_are(const Dims& dims, int64_t number) {
  return std::all_of(dims.begin(), dims.end(), [number](int64_t d) { return d == number; });
}

/// Loops over the results of a 1x1 convolution, channels last.
void add_conv_loops(const Node& node, const Conv& conv, LinearParts& parts) {
  const TensorType& out = parts.body.anchor->output()->type;
  expect(conv.groups == 1 && !conv.transposed && all_are(conv.padding, 0), "groups, padding or transposition");
  expect(parts.weight.numel() == parts.weight.size(0) * parts.weight.size(1), "a window larger than 1x1");
  expect(parts.x.strides[1] == 1 || parts.x.shape[1] == 1, "channels are not innermost");
  Operand in{.name = "in", .dtype = parts.x.dtype, .strides = {parts.x.strides[0]}};
  Dims order = {0};
  for (int64_t d = 2; d < out.rank(); ++d) {
    in.strides.push_back(parts.x.strides[d] * conv.stride[d - 2]);
    order.push_back(d);
  }
  in.strides.push_back(0);
  order.push_back(1);
  for (int64_t d : order) parts.loops.sizes.push_back(out.shape[d]);
  parts.loops.operands.push_back(in);
  parts.depth = parts.x.shape[1];
  add_finish_operands(node, parts.body, order, parts.loops);
}

void add_linear_loops(const Node& node, LinearParts& parts) {
  const TensorType& out = parts.body.anchor->output()->type;
  expect(parts.x.strides.back() == 1 || parts.x.shape.back() == 1, "the last dimension is not innermost");
  Operand in{.name = "in", .dtype = parts.x.dtype, .strides = parts.x.strides};
  in.strides.back() = 0;
  Dims order(out.shape.size());
  std::iota(order.begin(), order.end(), 0);
  parts.loops.sizes = out.shape;
  parts.loops.operands.push_back(in);
  parts.depth = parts.x.shape.back();
  add_finish_operands(node, parts.body, order, parts.loops);
}

LinearParts take_apart(const Node& node) {
  LinearParts parts;
  parts.body = body_of(node);
  const Node& anchor = *parts.body.anchor;
  parts.x_index = anchor_input(parts.body, 0);
  parts.x = node.input(parts.x_index)->type;
  expect(parts.x.is_floating(), "only floating point");
  std::vector<size_t> eaten = {anchor_input(parts.body, 1)};
  if (anchor.inputs().size() > 2) eaten.push_back(anchor_input(parts.body, 2));
  parts.packed = packed_inputs_of(node, parts.body, eaten);
  parts.weight = *lazy_constant_of(node.input(eaten[0]));
  if (eaten.size() > 1) parts.bias = *lazy_constant_of(node.input(eaten[1]));
  if (auto* conv = anchor.as<Conv>()) {
    add_conv_loops(node, *conv, parts);
  } else {
    add_linear_loops(node, parts);
  }
  parts.loops.collapse(1);
  parts.loops.other_extent = std::max(parts.weight.numel(), parts.x.storage_bytes());
  return parts;
}

at::Tensor pack(const Node& node, const LazyTensor& constant, c10::ScalarType dtype) {
  if (!constant.defined() || is_collecting()) return {};
  c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(device_of(node)));
  return shared_constant(origin_of("rows " + dtype_name(dtype) + " " + device.str(), {constant}),
                         [&] { return constant.tensor().to(device, dtype).contiguous().clone(); });
}

std::unique_ptr<Kernel> make_few_rows(const Node& node, LinearParts parts) {
  constexpr int kRows = 4;
  Loops& loops = parts.loops;
  size_t inner = loops.sizes.size() - 1;
  int width = static_cast<int>(16 / c10::elementSize(parts.x.dtype));
  auto fits = [&](int w) {
    bool rows_fit = std::all_of(parts.in().begin(), parts.in().end(), [w](int64_t s) { return s % w == 0; });
    return parts.depth % w == 0 && rows_fit;
  };
  while (width > 1 && !fits(width)) width /= 2;
  std::string x = "x" + std::to_string(parts.x_index);
  std::string offset = "0";
  for (size_t d = 0; d < inner; ++d) offset += " + i" + std::to_string(d) + " * p.in[" + std::to_string(d) + "]";
  Program program{
      "linear_few_rows",
      emit_head(loops, {"linear.cuh"}) +
          "struct Params {\n  const void* weights;\n  const void* bias;\n  I items;\n  I outputs;\n  I depth;\n  int "
          "vector_reads;\n  "
          "tw::Size<I> size[" +
          std::to_string(inner) + "];\n" + loops.parameter_members() + "};\n" +
          emit_elements(parts.body, loops, parts.body.anchor->output()) +
          "extern \"C\" __global__ void __launch_bounds__(128) kernel(" + emit_pointers(node, parts.packed) +
          "const __grid_constant__ Params p) {\n  " + emit_elements_object(loops) + "  tw::linear_few_rows<" +
          std::to_string(kRows) + ", " + std::to_string(width) + ">(\n      " + x + ", p,\n      [&](I rest) {\n" +
          emit_split(inner) + "        return " + offset + ";\n      },\n      [&](const auto& acc, I rest, I n) {\n" +
          emit_split(inner) + "        elements.run<1>(acc, " + index_list(inner) + ", n);\n      });\n}\n"};
  expect_compiled(program, node);
  at::Tensor weight = pack(node, parts.weight, parts.x.dtype);
  at::Tensor bias = pack(node, parts.bias, parts.x.dtype == c10::kDouble ? c10::kDouble : c10::kFloat);
  std::string type = loops.index_type();
  Arguments arguments;
  arguments.add(weight.defined() ? weight.data_ptr() : nullptr);
  arguments.add(bias.defined() ? bias.data_ptr() : nullptr);
  add_index(arguments, parts.rows(), type);
  add_index(arguments, loops.sizes[inner], type);
  add_index(arguments, parts.depth, type);
  arguments.add(static_cast<int32_t>(width > 1));
  for (size_t d = 0; d < inner; ++d) add_size(arguments, loops.sizes[d], type);
  loops.add_arguments(arguments);
  Shape shape{.blocks = ceil_div(loops.sizes[inner], kThreads / 32),
              .blocks_y = ceil_div(parts.rows(), kRows),
              .threads = kThreads};
  return make_own_kernel(node, program, shape, std::move(arguments), parts.packed, {weight, bias});
}

}  // namespace

void propose_few_rows(const Node& node, const KernelContext& context, Offers& offers) {
  auto* fused = node.as<Fused>();
  const Node* anchor = fused ? anchor_of(*fused) : &node;
  if (!anchor || !(anchor->as<Linear>() || anchor->as<Conv>())) return;
  LinearParts parts = take_apart(node);
  int64_t most = context.tune ? kMostRows : kMostRowsUntimed;
  expect(parts.rows() <= most, "more than " + std::to_string(most) + " rows");
  offers.add("", [&node, parts] { return make_few_rows(node, parts); });
}

}  // namespace torchweld::cuda
