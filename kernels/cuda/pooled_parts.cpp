#include "kernels/cuda/pooled_parts.h"

#include <algorithm>

#include "core/error.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "core/ops/reduce.h"
#include "core/ops/shape.h"
#include "kernels/cuda/own_kernel.h"

namespace torchweld::cuda {
namespace {

void expect_position_product(const BlockPart& part) {
  if (part.anchor().as<Linear>()) return;
  auto* conv = part.anchor().as<Conv>();
  expect(conv && conv->groups == 1 && !conv->transposed && conv->padding == Dims{0, 0} &&
             part.weight.numel() == part.weight.size(0) * part.weight.size(1),
         "a product after the mean is no plain 1x1 convolution or linear");
}

/// What the pointwise node at the end reads: x and the gate.
void take_gate(const Node& inner, const Value* x, const Value* gate, PooledParts& parts) {
  parts.gate = body_of(inner);
  expect(inner.outputs().size() == 1 && inner.output()->type.shape == x->type.shape, "the gate has another use");
  bool found = false;
  for (size_t i = 0; i < inner.inputs().size(); ++i) {
    const Value* v = inner.input(i);
    if (v == gate) parts.gate_input = i;
    expect(v != gate || !found, "the gate is read twice");
    found = found || v == gate;
    expect(v == x || v == gate || parts.gate->is_literal(i), "the gate's node reads something else");
  }
  expect(found, "the last node does not read the gate");
}

}  // namespace

bool is_pooled_block(const Node& node) {
  const Fused* block = block_of(node);
  return block && block->body->nodes().front()->as<Reduce>();
}

PooledParts take_pooled_apart(const Node& node) {
  const Graph& body = *node.as<Fused>()->body;
  expect(!body.nodes().empty() && body.nodes().front()->as<Reduce>(), "not a block that begins with a mean");
  const Node& mean = *body.nodes().front();
  const Reduce& reduce = *mean.as<Reduce>();
  const Value* x = mean.input(0);
  expect(reduce.kind == "mean" && reduce.axes == Dims{2, 3} && x->type.rank() == 4, "no mean over positions");
  expect(!x->producer(), "the block's input is computed inside it");
  PooledParts parts;
  parts.x_index = static_cast<size_t>(x->index());
  parts.x = node.input(parts.x_index)->type;
  const Value* value = mean.output();
  for (const auto& inner : body.nodes()) {
    if (inner.get() == &mean || inner->op() == "constant") continue;
    expect(!parts.gate, "work after the gate");
    if (inner->as<Reshape>()) {
      expect(inner->input(0) == value && parts.products.empty(), "a reshape after a product");
    } else if (inner->as<Cast>()) {
      expect(inner->input(0) == value && inner == body.nodes().back(), "a cast inside the block");
    } else if (is_pointwise(*inner)) {
      take_gate(*inner, x, value, parts);
    } else {
      BlockPart part = take_part(node, *inner);
      expect_position_product(part);
      expect(part.x == value && !part.added, "the products are no chain");
      parts.products.push_back(std::move(part));
    }
    value = inner->output();
  }
  expect(body.outputs().size() == 1 && body.outputs()[0] == value, "a value inside the block is a result");
  for (size_t i = 0; i < node.inputs().size(); ++i) {
    if (i != parts.x_index) parts.packed.push_back(i);
  }
  return parts;
}

int64_t lanes_per_row(int64_t rows, int64_t depth, int64_t threads) {
  int64_t lanes = 1;
  while (lanes < 32 && lanes * 2 * rows <= threads && lanes * 2 * 8 <= depth) lanes *= 2;
  return lanes;
}

int64_t row_step(int64_t depth) {
  int64_t eights = ceil_div(depth, 8);
  return (eights % 2 == 0 ? eights + 1 : eights) * 8;
}

void put_rows(PackedBytes& bytes, int64_t at, int64_t step, const at::Tensor& matrix, int64_t first, int64_t rows,
              int64_t from, int64_t columns) {
  const float* data = matrix.const_data_ptr<float>();
  int64_t all_rows = matrix.size(0), all_columns = matrix.numel() / std::max<int64_t>(all_rows, 1);
  for (int64_t r = 0; r < std::min(rows, all_rows - first); ++r) {
    for (int64_t c = 0; c < std::min(columns, all_columns - from); ++c)
      bytes.put(at + (r * step + c) * 2, data[(first + r) * all_columns + from + c]);
  }
}

void put_bias(PackedBytes& bytes, int64_t at, const at::Tensor& bias, int64_t first, int64_t count) {
  if (!bias.defined()) return;
  at::Tensor numbers = as_f32(bias);
  for (int64_t i = 0; i < std::min(count, numbers.numel() - first); ++i)
    bytes.put_f32(at + i * 4, numbers.const_data_ptr<float>()[first + i]);
}

}  // namespace torchweld::cuda
