#include "kernels/cuda/implicit_gemm_parts.h"

#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "kernels/cuda/block_parts.h"
#include "kernels/cuda/own_kernel.h"

namespace torchweld::cuda {
namespace {

/// The dimensions but the last as three, outermost first; those of size 1 go, neighbours that lie in a row merge.
void merge_leading(const TensorType& x, GemmProblem& problem) {
  std::vector<std::pair<int64_t, int64_t>> merged;  // Size and stride.
  for (size_t d = 0; d + 1 < x.shape.size(); ++d) {
    if (x.shape[d] == 1) continue;
    if (!merged.empty() && merged.back().second == x.strides[d] * x.shape[d]) {
      merged.back() = {merged.back().first * x.shape[d], x.strides[d]};
    } else {
      merged.emplace_back(x.shape[d], x.strides[d]);
    }
  }
  expect(merged.size() <= 3, "rows lie in memory in more than three nested strides");
  if (merged.empty()) merged.emplace_back(1, 0);
  while (merged.size() < 3) merged.insert(merged.begin(), {1, merged.front().first * merged.front().second});
  problem.images = merged[0].first;
  problem.height = problem.out_height = merged[1].first;
  problem.width = problem.out_width = merged[2].first;
  for (size_t d = 0; d < 3; ++d) problem.in[d] = merged[d].second;
}

void describe_linear(const TensorType& x, GemmProblem& problem) {
  merge_leading(x, problem);
  problem.channels = x.shape.back();
  problem.in[3] = x.strides.back();
}

void describe_conv(const Conv& conv, const TensorType& x, const TensorType& out, const LazyTensor& weight,
                   GemmProblem& problem) {
  expect(!conv.transposed, "transposition");
  expect(conv.groups == 1 || weight.size(1) > 1, "one channel in a group");
  int64_t spatial = out.rank() - 2;
  expect(spatial == 1 || spatial == 2, "three spatial dimensions");
  problem.images = x.shape[0];
  problem.groups = conv.groups;
  problem.channels = weight.size(1);
  problem.outputs = weight.size(0) / conv.groups;
  problem.in[0] = x.strides[0];
  problem.in[3] = x.strides[1];
  problem.height = spatial == 2 ? x.shape[2] : 1;
  problem.width = x.shape.back();
  problem.out_height = spatial == 2 ? out.shape[2] : 1;
  problem.out_width = out.shape.back();
  problem.in[2] = x.strides.back();
  problem.in[1] = spatial == 2 ? x.strides[2] : problem.width * problem.in[2];
  for (int64_t i = 0; i < spatial; ++i) {
    int64_t d = i + 2 - spatial;
    problem.window[d] = weight.size(2 + i);
    problem.stride[d] = conv.stride[i];
    problem.padding[d] = conv.padding[i];
    problem.dilation[d] = conv.dilation[i];
  }
}

/// Dimensions of a result in the order of its loops: its rows count batch, height, width, and their loops must nest
/// like that in memory too; channels are innermost.
Dims order_of_result(const TensorType& out, bool is_conv) {
  Dims order = {0};
  for (int64_t d = is_conv ? 2 : 1; d < out.rank(); ++d) order.push_back(d);
  if (is_conv) order.push_back(1);
  if (out.rank() == 1) order = {0};
  for (size_t i = 0; i + 2 < order.size(); ++i) {
    int64_t outer = order[i];
    int64_t inner = order[i + 1];
    bool single = out.shape[outer] == 1 || out.shape[inner] == 1;
    expect(single || out.strides[outer] >= out.strides[inner], "the result is transposed in memory");
  }
  expect(out.strides[order.back()] == 1 || out.shape[order.back()] == 1, "the result's channels are not innermost");
  return order;
}

/// To be called when all operands of the loops are known.
void finish_loops(const TensorType& x, GemmParts& parts) {
  parts.loops.collapse(1);
  parts.loops.other_extent = x.storage_bytes() / static_cast<int64_t>(c10::elementSize(x.dtype));
  expect(parts.loops.index_type() == "int", "a tensor of more than 2^30 elements");
  // What is written at once belongs to one group.
  int64_t most = parts.problem.groups == 1 ? 8 : std::gcd<int64_t>(parts.problem.outputs, 8);
  parts.loops.choose_width(static_cast<int>(most), false);
  parts.problem.vector_writes = parts.loops.width > 1;
}

bool reads_vectors(const GemmProblem& p) {
  auto fits = [&](int64_t number) { return number % p.chunk() == 0; };
  return (p.in[3] == 1 || p.channels == 1) && fits(p.channels) && fits(p.in[0]) && fits(p.in[1]) && fits(p.in[2]);
}

}  // namespace

GemmParts take_gemm_apart(const Node& node, const KernelContext& context) {
  GemmParts parts;
  parts.body = body_of(node);
  const Node& anchor = *parts.body.anchor;
  parts.x_index = anchor_input(parts.body, 0);
  const TensorType& x = node.input(parts.x_index)->type;
  const TensorType& out = anchor.output()->type;
  parts.dtype = x.dtype;
  bool tensor_cores = x.dtype == c10::kHalf || x.dtype == c10::kBFloat16 || x.dtype == c10::kFloat;
  expect(tensor_cores, [&] { return "tensor cores take f16, bf16 and f32, not " + dtype_name(x.dtype); });
  expect(x.dtype != c10::kFloat || context.allow_tf32, "f32 without TF32");
  expect(x.numel() > 0 && out.numel() > 0, "an empty tensor");
  std::vector<size_t> eaten = {anchor_input(parts.body, 1)};
  if (anchor.inputs().size() > 2) eaten.push_back(anchor_input(parts.body, 2));
  parts.packed = packed_inputs_of(node, parts.body, eaten);
  parts.weight = *lazy_constant_of(node.input(eaten[0]));
  if (eaten.size() > 1) parts.bias = *lazy_constant_of(node.input(eaten[1]));
  GemmProblem& problem = parts.problem;
  problem.element_bytes = static_cast<int64_t>(c10::elementSize(x.dtype));
  auto* conv = anchor.as<Conv>();
  if (conv) {
    describe_conv(*conv, x, out, parts.weight, problem);
  } else {
    describe_linear(x, problem);
    problem.outputs = parts.weight.size(0);
  }
  constexpr int64_t kMostWindow = 11;
  expect(problem.window[0] <= kMostWindow && problem.window[1] <= kMostWindow, "a window of more than 11 x 11");
  problem.vector_reads = reads_vectors(problem);
  add_finish_operands(node, parts.body, order_of_result(out, conv != nullptr), parts.loops);
  finish_loops(x, parts);
  return parts;
}

namespace {

/// The pointwise nodes after the product, as text.
std::string text_after(const Body& body) {
  const Value* result = body.graph->outputs()[0];
  std::map<const Value*, std::string> names{{body.anchor->output(), "acc"}};
  std::string statements = emit_statements(*body.graph, names, {result});
  return statements + names.at(result);
}

/// In f32; zeros where there is none.
LazyTensor bias_of(const GemmParts& parts) {
  TensorType type = contiguous_type(c10::kFloat, {parts.problem.outputs}, parts.weight.type().device);
  return LazyTensor::derived("f32_bias", {parts.bias}, type, [type](const std::vector<at::Tensor>& tensors) {
    return tensors[0].defined() ? tensors[0].to(c10::kFloat)
                                : at::zeros(type.shape, at::TensorOptions(c10::kFloat).device(type.device));
  });
}

/// Side by side along dimension `axis`.
LazyTensor joined(const std::vector<LazyTensor>& parts, int64_t axis) {
  Dims shape = parts.front().type().shape;
  shape[axis] = 0;
  for (const LazyTensor& part : parts) shape[axis] += part.size(axis);
  TensorType type = contiguous_type(parts.front().type().dtype, shape, parts.front().type().device);
  return LazyTensor::derived("joined " + std::to_string(axis), parts, type,
                             [axis](const std::vector<at::Tensor>& tensors) { return at::cat(tensors, axis); });
}

/// Loops over the results of siblings side by side: each has its part of the columns.
void add_sibling_loops(const Node& block, const std::vector<LazyTensor>& weights, GemmParts& all) {
  constexpr int64_t kColumns = 8;  // That threads write at once.
  const Graph& body = *block.as<Fused>()->body;
  bool is_conv = all.body.anchor->as<Conv>() != nullptr;
  int64_t begin = 0;
  size_t sibling = 0;
  for (const auto& part : body.nodes()) {
    auto found = std::find(body.outputs().begin(), body.outputs().end(), part->output());
    expect(found != body.outputs().end(), "nobody reads a sibling's result");
    auto index = static_cast<size_t>(found - body.outputs().begin());
    TensorType type = block.output(index)->type;
    Dims order = order_of_result(type, is_conv);
    int64_t end = begin + weights[sibling++].size(0);
    expect(begin % kColumns == 0, "a sibling's channels are no multiple of 8");
    type.shape[order.back()] = all.problem.outputs;
    all.loops.add_operand(all.body, type, 0, true, type.shape, order);
    Operand& operand = all.loops.operands.back();
    operand.name = "y" + std::to_string(index);
    operand.begin = begin;
    operand.end = end;
    begin = end;
  }
  finish_loops(block.input(all.x_index)->type, all);
}

}  // namespace

GemmParts take_siblings_apart(const Node& block, const KernelContext& context) {
  const Graph& body = *block.as<Fused>()->body;
  GemmParts all;
  std::vector<LazyTensor> weights, biases;
  for (const auto& part : body.nodes()) {
    bool outside = std::none_of(part->inputs().begin(), part->inputs().end(), [](Value* v) { return v->producer(); });
    auto* fused = part->as<Fused>();
    const Node* anchor = fused ? anchor_of(*fused) : part.get();
    bool product = anchor && (anchor->as<Conv>() || anchor->as<Linear>()) && part->outputs().size() == 1;
    expect(outside && product, "the parts of a block are no siblings");
    std::shared_ptr<Graph> graph = part_alone(block, *part);
    GemmParts one = take_gemm_apart(*graph->nodes().back(), context);
    expect(one.problem.groups == 1, "siblings with groups");
    bool alone = std::all_of(one.loops.operands.begin(), one.loops.operands.end(), [](auto& o) { return o.output; });
    expect(alone, "a sibling's pointwise nodes read a tensor");
    one.x_index = static_cast<size_t>(part->input(one.x_index)->index());
    weights.push_back(one.weight);
    biases.push_back(bias_of(one));
    if (weights.size() == 1) {
      all = one;
      all.problem.outputs = 0;
      all.loops = {};
    }
    int64_t begin = all.problem.outputs;
    int64_t end = begin + one.problem.outputs;
    one.problem.outputs = begin;
    one.problem.vector_writes = all.problem.vector_writes;
    expect(one.x_index == all.x_index && one.problem == all.problem && text_after(one.body) == text_after(all.body),
           "siblings differ in more than their weights");
    all.problem.outputs = end;
  }
  all.weight = joined(weights, 0);
  all.bias = joined(biases, 0);
  all.packed.clear();
  for (size_t i = 0; i < block.inputs().size(); ++i) {
    if (i != all.x_index) all.packed.push_back(i);
  }
  add_sibling_loops(block, weights, all);
  return all;
}

namespace {

/// The part without the addition of its input `added`: what follows the anchor's result follows the sum.
std::shared_ptr<Graph> without_addition(const Node& part, size_t added) {
  std::shared_ptr<Graph> body = part.as<Fused>()->body->clone();
  const Value* addend = body->inputs()[added].get();
  expect(addend->users().size() == 1, "what is added is read more than once");
  Node* add = addend->users().front();
  auto* op = add->as<Pointwise>();
  expect(op && op->fn == "add" && add->inputs().size() == 2, "what is added is read by something else");
  Value* other = add->input(add->input(0) == addend ? 1 : 0);
  expect(other->producer() && is_anchor(*other->producer()) && other->users().size() == 1,
         "the sum is not the first thing that follows");
  body->replace_uses(add->output(), other);
  body->erase(add);
  return body;
}

}  // namespace

bool is_joined(const Graph& body) {
  if (body.nodes().size() != 2) return false;
  const Node& first = *body.nodes().front();
  const auto& inputs = body.nodes().back()->inputs();
  return first.as<Conv>() && std::find(inputs.begin(), inputs.end(), first.output()) != inputs.end();
}

GemmParts take_joined_apart(const Node& block, const KernelContext& context) {
  const Graph& body = *block.as<Fused>()->body;
  const Node& first = *body.nodes().front();
  const Node& last = *body.nodes().back();
  expect(is_joined(body) && last.as<Fused>() && !is_block(*last.as<Fused>()) && body.outputs().size() == 1,
         "no convolution with one that is added to it");
  auto added = std::find(last.inputs().begin(), last.inputs().end(), first.output()) - last.inputs().begin();
  std::shared_ptr<Graph> second_alone = part_alone(block, first);
  GemmParts second = take_gemm_apart(*second_alone->nodes().back(), context);
  std::shared_ptr<Graph> alone = part_alone(block, last);
  Node* node = alone->nodes().back().get();
  alone->set_attrs(node, Fused{without_addition(*node, static_cast<size_t>(added))});
  GemmParts all = take_gemm_apart(*node, context);
  expect(all.body.anchor->as<Conv>(), "no convolution that another one is added to");
  const auto& operands = all.loops.operands;
  expect(operands.size() == 1 && operands.front().output, "pointwise nodes read another tensor");

  const GemmProblem& other = second.problem;
  GemmProblem& problem = all.problem;
  expect(problem.groups == 1 && other.groups == 1, "groups");
  expect(problem.is_pointwise() && other.is_pointwise(), "windows of more than one pixel");
  expect(problem.vector_reads && other.vector_reads && problem.in[3] == 1 && other.in[3] == 1,
         "channels do not allow copies of 16 bytes");
  expect(problem.images == other.images && problem.out_height == other.out_height &&
             problem.out_width == other.out_width && problem.outputs == other.outputs && all.dtype == second.dtype,
         "the results that are added differ");
  problem.first_channels = problem.channels;
  problem.channels += other.channels;
  problem.second_in[0] = other.in[0];
  for (size_t d = 0; d < 2; ++d) problem.second_in[d + 1] = other.in[d + 1] * other.stride[d];
  LazyTensor bias = bias_of(all);
  all.bias =
      LazyTensor::derived("sum", {bias, bias_of(second)}, bias.type(),
                          [](const std::vector<at::Tensor>& tensors) { return at::add(tensors[0], tensors[1]); });
  all.weight = joined({all.weight, second.weight}, 1);
  all.x_index = static_cast<size_t>(last.input(all.x_index)->index());
  all.second_index = static_cast<size_t>(first.input(second.x_index)->index());
  expect(*all.second_index != all.x_index, "both convolutions read the same tensor");
  all.packed.clear();
  for (size_t i = 0; i < block.inputs().size(); ++i) {
    if (i != all.x_index && i != *all.second_index) all.packed.push_back(i);
  }
  return all;
}

}  // namespace torchweld::cuda
