#include "kernels/cuda/pointwise.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "core/ops/fused.h"
#include "core/ops/pointwise.h"
#include "core/ops/shape.h"
#include "kernels/cuda/own_kernel.h"

namespace torchweld::cuda {
namespace {

constexpr int64_t kTile = 32;
constexpr unsigned kThreads = 256;

/// A copy is a body that does nothing.
Body pointwise_body(const Node& node) {
  if (!node.as<Copy>()) return body_of(node);
  auto graph = std::make_shared<Graph>();
  Value* result = graph->add(Cast{node.output()->type.dtype}, {graph->add_input(node.input(0)->type)});
  graph->add_output(result);
  storage_type(result->type.dtype);
  expect(node.input(0)->type.device.is_cuda(), "an operand lies in host memory");
  Body body;
  body.graph = graph;
  return body;
}

Loops loops_of(const Node& node, const Body& body) {
  const Dims& shape = node.output()->type.shape;
  Dims order(shape.size());
  std::iota(order.begin(), order.end(), 0);
  Loops loops;
  for (size_t i = 0; i < node.inputs().size(); ++i) {
    if (!body.is_literal(i) && !is_only_taken(body.graph->inputs()[i].get()))
      loops.add_operand(body, node.input(i)->type, i, false, shape, order);
  }
  loops.add_takes(node, body, shape, order);
  for (size_t i = 0; i < node.outputs().size(); ++i) {
    const TensorType& type = node.output(i)->type;
    expect(type.shape == shape, "results of one body have different sizes");
    loops.add_operand(body, type, i, true, shape, order);
  }
  loops.collapse();
  return loops;
}

/// An input whose neighbours lie along another loop than the output's.
struct Transposed {
  Operand operand;
  size_t loop;  ///< Along which the input's elements are neighbours.
};

std::optional<Transposed> find_transposed(const Loops& loops) {
  size_t inner = loops.sizes.size() - 1;
  constexpr int64_t kWorthwhile = 16;
  if (inner == 0 || loops.sizes[inner] < kWorthwhile) return std::nullopt;
  for (const Operand& operand : loops.operands) {
    if (operand.output && operand.strides[inner] != 1) return std::nullopt;
  }
  for (const Operand& operand : loops.operands) {
    if (operand.output || operand.rows || operand.strides[inner] <= 1) continue;
    for (size_t d = 0; d < inner; ++d) {
      if (operand.strides[d] == 1 && loops.sizes[d] >= kWorthwhile) return Transposed{operand, d};
    }
  }
  return std::nullopt;
}

std::unique_ptr<Kernel> make_plain(const Node& node, const Body& body, Loops loops) {
  size_t rank = loops.sizes.size();
  bool flat = rank == 1;
  constexpr int kWidest = 8;
  loops.choose_width(kWidest, flat);
  std::string width = std::to_string(loops.width);
  std::string inner = "i" + std::to_string(rank - 1);
  std::string run = "elements.run<" + width + ">(" + index_list(rank) + ");\n";
  std::string body_text = emit_split(rank) + "    " + inner + " *= " + width + ";\n    ";
  if (flat && loops.width > 1) {
    body_text += "if (i0 + " + width + " <= p.positions) {\n      " + run + "    } else {\n" +
                 "      for (; i0 < p.positions; ++i0) elements.run<1>(i0);\n    }\n";
  } else {
    body_text += run;
  }
  Program program{
      "pointwise",
      emit_head(loops, {}) + "struct Params {\n  I items;\n  I positions;\n  tw::Size<I> size[" + std::to_string(rank) +
          "];\n" + loops.parameter_members() + "};\n" + emit_elements(body, loops, nullptr) +
          "extern \"C\" __global__ void __launch_bounds__(256) kernel(" + emit_pointers(node, body.literals) +
          "const __grid_constant__ Params p) {\n" + "  tw::wait_for_previous();\n  " + emit_elements_object(loops) +
          "  const I step = static_cast<I>(gridDim.x) * 256;\n" +
          "  for (I item = static_cast<I>(blockIdx.x) * 256 + threadIdx.x; item < p.items; item += step) {\n" +
          "    I rest = item;\n" + body_text + "  }\n}\n"};
  std::string type = loops.index_type();
  Arguments arguments;
  int64_t items = ceil_div(loops.positions(), loops.width);
  add_index(arguments, items, type);
  add_index(arguments, loops.positions(), type);
  for (size_t d = 0; d < rank; ++d)
    add_size(arguments, d + 1 == rank ? ceil_div(loops.sizes[d], loops.width) : loops.sizes[d], type);
  loops.add_arguments(arguments);
  constexpr int64_t kMostBlocks = 1 << 20;
  Shape shape{.blocks = std::min(ceil_div(items, kThreads), kMostBlocks), .threads = kThreads};
  return make_own_kernel(node, program, shape, std::move(arguments), body.literals);
}

/// One block per tile of 32 x 32 positions: read along the input's neighbours, computed and written along the output's.
std::unique_ptr<Kernel> make_tiled(const Node& node, const Body& body, Loops loops, const Transposed& transposed) {
  size_t rank = loops.sizes.size();
  size_t inner = rank - 1;
  const Operand& staged = transposed.operand;
  std::string row = "i" + std::to_string(transposed.loop);
  std::string column = "i" + std::to_string(inner);
  std::string type = loops.index_type();
  std::string members = loops.parameter_members();
  Arguments arguments;
  Dims tiles = loops.sizes;
  tiles[transposed.loop] = ceil_div(tiles[transposed.loop], kTile);
  tiles[inner] = ceil_div(tiles[inner], kTile);
  for (int64_t count : tiles) add_size(arguments, count, type);
  add_index(arguments, loops.sizes[transposed.loop], type);
  add_index(arguments, loops.sizes[inner], type);
  loops.add_arguments(arguments);
  std::erase_if(loops.operands, [&](const Operand& operand) { return operand.name == staged.name; });

  std::string offset = "0";
  for (size_t d = 0; d < rank; ++d) {
    offset += d == transposed.loop ? " + " + row
                                   : " + i" + std::to_string(d) + " * p." + staged.name + "[" + std::to_string(d) + "]";
  }
  std::string head = emit_head(loops, {});
  head.replace(head.find("using I = "), std::string::npos, "using I = " + type + ";\n");
  Program program{"transpose",
                  head + "struct Params {\n  tw::Size<I> size[" + std::to_string(rank) +
                      "];\n  I rows;\n  I columns;\n" + members + "};\n" + emit_elements(body, loops, staged.value) +
                      "extern \"C\" __global__ void __launch_bounds__(256) kernel(" +
                      emit_pointers(node, body.literals) + "const __grid_constant__ Params p) {\n  __shared__ " +
                      compute_type(staged.dtype) + " tile[32][33];\n  tw::wait_for_previous();\n  " +
                      emit_elements_object(loops) + "  {\n    I rest = blockIdx.x;\n" + emit_split(rank) + "    " +
                      row + " *= 32;\n    " + column + " *= 32;\n    const I row = " + row + ", column = " + column +
                      ";\n    const int tx = threadIdx.x % 32, ty = threadIdx.x / 32;\n    " + row + " = row + tx;\n" +
                      "#pragma unroll\n    for (int r = ty; r < 32; r += 8) {\n      " + column +
                      " = column + r;\n      if (" + row + " < p.rows && " + column +
                      " < p.columns) tile[r][tx] = tw::widen(" + staged.name + "[" + offset + "]);\n    }\n" +
                      "    __syncthreads();\n    " + column + " = column + tx;\n" +
                      "#pragma unroll\n    for (int r = ty; r < 32; r += 8) {\n      " + row +
                      " = row + r;\n      if (" + row + " < p.rows && " + column + " < p.columns) {\n        const " +
                      compute_type(staged.dtype) + " acc[1] = {tile[tx][r]};\n        elements.run<1>(acc, " +
                      index_list(rank) + ");\n      }\n    }\n  }\n}\n"};
  int64_t blocks = std::accumulate(tiles.begin(), tiles.end(), int64_t{1}, std::multiplies<>());
  return make_own_kernel(node, program, {.blocks = blocks, .threads = kThreads}, std::move(arguments), body.literals);
}

}  // namespace

void propose_pointwise(const Node& node, const KernelContext&, Offers& offers) {
  auto* fused = node.as<Fused>();
  bool known = node.as<Copy>() || (fused ? !anchor_of(*fused) : !is_anchor(node));
  if (!known) return;
  Body body = pointwise_body(node);
  Loops loops = loops_of(node, body);
  if (std::optional<Transposed> transposed = find_transposed(loops)) {
    offers.add("tiled", [&node, body, loops, t = *transposed] { return make_tiled(node, body, loops, t); });
  }
  offers.add("", [&node, body, loops] { return make_plain(node, body, loops); });
}

}  // namespace torchweld::cuda
