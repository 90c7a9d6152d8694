#include "kernels/cuda/implicit_gemm_program.h"

#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "kernels/cuda/block_parts.h"
#include "kernels/cuda/implicit_gemm_packing.h"
#include "kernels/cuda/staged_elements.h"

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
  while (merged.size() < 3) merged.insert(merged.begin(), {1, 0});
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

void describe_conv(const Conv& conv, const TensorType& x, const TensorType& out, const at::Tensor& weight,
                   GemmProblem& problem) {
  expect(!conv.transposed && conv.groups == 1, "groups or transposition");
  int64_t spatial = out.rank() - 2;
  expect(spatial == 1 || spatial == 2, "three spatial dimensions");
  problem.images = x.shape[0];
  problem.channels = x.shape[1];
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
  parts.loops.choose_width(8, false);
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
  expect(tensor_cores, "tensor cores take f16, bf16 and f32, not " + dtype_name(x.dtype));
  expect(x.dtype != c10::kFloat || context.allow_tf32, "f32 without TF32");
  expect(x.numel() > 0 && out.numel() > 0, "an empty tensor");
  std::vector<size_t> eaten = {anchor_input(parts.body, 1)};
  if (anchor.inputs().size() > 2) eaten.push_back(anchor_input(parts.body, 2));
  parts.packed = packed_inputs_of(node, parts.body, eaten);
  parts.weight = *constant_of(node.input(eaten[0]));
  if (eaten.size() > 1) parts.bias = *constant_of(node.input(eaten[1]));
  GemmProblem& problem = parts.problem;
  problem.element_bytes = static_cast<int64_t>(c10::elementSize(x.dtype));
  problem.outputs = parts.weight.size(0);
  auto* conv = anchor.as<Conv>();
  if (conv) {
    describe_conv(*conv, x, out, parts.weight, problem);
  } else {
    describe_linear(x, problem);
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

at::Tensor bias_of(const GemmParts& parts) {
  if (parts.bias.defined()) return parts.bias.to(c10::kFloat);
  return at::zeros({parts.problem.outputs}, parts.weight.options().dtype(c10::kFloat));
}

/// Loops over the results of siblings side by side: each has its part of the columns.
void add_sibling_loops(const Node& block, const std::vector<at::Tensor>& weights, GemmParts& all) {
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
  std::vector<at::Tensor> weights, biases;
  for (const auto& part : body.nodes()) {
    bool outside = std::none_of(part->inputs().begin(), part->inputs().end(), [](Value* v) { return v->producer(); });
    auto* fused = part->as<Fused>();
    const Node* anchor = fused ? anchor_of(*fused) : part.get();
    bool product = anchor && (anchor->as<Conv>() || anchor->as<Linear>()) && part->outputs().size() == 1;
    expect(outside && product, "the parts of a block are no siblings");
    std::shared_ptr<Graph> graph = part_alone(block, *part);
    GemmParts one = take_gemm_apart(*graph->nodes().back(), context);
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
  all.weight = at::cat(weights);
  all.bias = at::cat(biases);
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
  const bool nothing_else =
      std::all_of(all.loops.operands.begin(), all.loops.operands.end(), [](auto& o) { return o.output; });
  expect(nothing_else && all.loops.operands.size() == 1, "pointwise nodes read another tensor");

  const GemmProblem& other = second.problem;
  GemmProblem& problem = all.problem;
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
  all.bias = at::add(bias_of(all), bias_of(second));
  all.weight = at::cat({all.weight, second.weight}, 1);
  all.x_index = static_cast<size_t>(last.input(all.x_index)->index());
  all.second_index = static_cast<size_t>(first.input(second.x_index)->index());
  expect(*all.second_index != all.x_index, "both convolutions read the same tensor");
  all.packed.clear();
  for (size_t i = 0; i < block.inputs().size(); ++i) {
    if (i != all.x_index && i != *all.second_index) all.packed.push_back(i);
  }
  return all;
}

namespace {

std::string numbers(std::initializer_list<int64_t> list) {
  std::string text;
  for (int64_t number : list) text += (text.empty() ? "" : ", ") + std::to_string(number);
  return text;
}

constexpr const char* kParameters =
    "  const void* weights;\n  const float* bias;\n  int in[4];\n  int rows, outputs, height, width;\n"
    "  int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;\n"
    "  tw::Divider out_width, out_height, lines, line_width;\n  int splits, vector_reads, stage_count;\n";

constexpr const char* kNormParameters =
    "  const float* column_sums;\n  const float* norm_weight;\n  const float* norm_bias;\n  float eps;\n";

constexpr const char* kSecondParameters = "  int second_in[3];\n";

/// Tensors that the kernel reads: weights, bias and, with a norm, the sums of the columns and the norm's own.
using Packed = std::vector<at::Tensor>;

Arguments arguments_of(const GemmParts& parts, const GemmConfig& config, const Packed& packed) {
  const GemmProblem& p = parts.problem;
  Arguments arguments;
  for (size_t i = 0; i < 2; ++i) arguments.add(packed[i].defined() ? packed[i].data_ptr() : nullptr);
  auto add = [&](std::initializer_list<int64_t> list) {
    for (int64_t number : list) arguments.add(static_cast<int32_t>(number));
  };
  add({p.in[0], p.in[1], p.in[2], p.in[3], p.rows(), p.outputs, p.height, p.width});
  add({p.stride[0], p.stride[1], p.padding[0], p.padding[1], p.dilation[0], p.dilation[1]});
  for (int64_t size : {p.out_width, p.out_height, p.padded_height(), p.padded_width()})
    add_size(arguments, size, "int");
  add({config.splits, p.vector_reads, config.stage_count(p)});
  if (parts.norm) {
    for (size_t i = 2; i < packed.size(); ++i) arguments.add(packed[i].defined() ? packed[i].data_ptr() : nullptr);
    arguments.add(static_cast<float>(parts.norm->eps));
  }
  if (parts.second_index) add({p.second_in[0], p.second_in[1], p.second_in[2]});
  for (size_t d = 0; d + 1 < parts.loops.sizes.size(); ++d) add_size(arguments, parts.loops.sizes[d], "int");
  parts.loops.add_arguments(arguments);
  return arguments;
}

/// `struct Multiply`: the warpgroup's instruction for so many columns, which the instruction set has no generic form
/// of. begin() before and close() after a row of run(sums, a, b), which adds the product of 32 bytes along k of the
/// rows at descriptor a and the columns at descriptor b; sums are there after finish(sums). After wait_for_earlier()
/// all rows but the last have been read.
std::string emit_multiply(c10::ScalarType dtype, int columns) {
  std::string registers, operands;
  int count = columns / 2;
  for (int i = 0; i < count; ++i) {
    registers += (i ? ", %" : "%") + std::to_string(i);
    operands +=
        (i ? ", " : "") + std::string("\"+f\"(d[") + std::to_string(i / 4) + "][" + std::to_string(i % 4) + "])";
  }
  const bool tf32 = dtype == c10::kFloat;
  std::string type = tf32 ? "tf32" : dtype == c10::kHalf ? "f16" : "bf16";
  std::string sums = "(float (&d)[" + std::to_string(columns / 8) + "][4]";
  const std::string function = "  __device__ __forceinline__ static void ";
  return "struct Multiply {\n#ifdef __CUDA_ARCH_FEAT_SM90_ALL\n" + function +
         "begin() { asm volatile(\"wgmma.fence.sync.aligned;\" ::: \"memory\"); }\n" + function +
         "close() { asm volatile(\"wgmma.commit_group.sync.aligned;\" ::: \"memory\"); }\n" + function + "run" + sums +
         ", unsigned long long a, unsigned long long b) {\n    asm volatile(\"wgmma.mma_async.sync.aligned.m64n" +
         std::to_string(columns) + (tf32 ? "k8" : "k16") + ".f32." + type + "." + type + " {" + registers + "}, %" +
         std::to_string(count) + ", %" + std::to_string(count + 1) + ", 1, 1, 1" + (tf32 ? "" : ", 0, 0") +
         ";\"\n        : " + operands + " : \"l\"(a), \"l\"(b));\n  }\n" + function + "finish" + sums +
         ") {\n    asm volatile(\"wgmma.wait_group.sync.aligned 0;\"\n        : " + operands +
         " :: \"memory\");\n  }\n" + function +
         "wait_for_earlier() { asm volatile(\"wgmma.wait_group.sync.aligned 1;\" ::: \"memory\"); }\n#else\n" +
         function + "begin() { __trap(); }\n" + function + "close() {}\n" + function + "run" + sums +
         ", unsigned long long, unsigned long long) {}\n" + function + "finish" + sums + ") {}\n" + function +
         "wait_for_earlier() {}\n#endif\n};\n";
}

/// The call, without its arguments, of the device function that runs `config`.
std::string emit_entry(const GemmConfig& config, const GemmProblem& p, int width) {
  if (config.source == GemmSource::kRing) {
    return "tw::implicit_gemm_ring<Tile, Depth, tw::GemmRing<Tile, Depth, " +
           numbers({config.stages, config.stage_chunks}) + ">, " + std::to_string(width) + ">";
  }
  if (config.source == GemmSource::kStages) {
    return std::string("tw::implicit_gemm_warpgroups<Tile, Depth, Stages, Multiply, ") +
           (config.splits > 1 ? "true, " : "false, ") + std::to_string(width) + ">";
  }
  if (config.source == GemmSource::kPipeline)
    return "static_assert(Pipeline::loaders == " + std::to_string(config.loaders()) +
           ", \"what the plan says\");\n  tw::implicit_gemm_pipeline<Tile, Depth, Pipeline, Multiply, " +
           std::to_string(width) + ">";
  std::string source = config.source == GemmSource::kPatch    ? "tw::GemmPatch<Tile, Depth>"
                       : config.source == GemmSource::kPixels ? "tw::GemmPixels<Tile, Depth>"
                       : p.is_pointwise()                     ? "tw::GemmRows<Tile, Depth, false>"
                                                              : "tw::GemmRows<Tile, Depth, true>";
  source = "Tile, Depth, " + source + (config.splits > 1 ? ", true" : ", false");
  return "static_assert(tw::GemmHead<" + source +
         ">::bytes == " + std::to_string(config.shared_bytes - config.x_bytes(p)) + ", \"what the plan says\");\n  " +
         "tw::implicit_gemm<" + source + ", " + std::to_string(width) + ">";
}

/// What a product by warpgroups needs beside Tile and Depth.
std::string emit_warpgroup_types(const GemmParts& parts, const GemmConfig& config) {
  const GemmProblem& p = parts.problem;
  bool pipeline = config.source == GemmSource::kPipeline;
  int64_t parts_kept = config.kept ? config.kept : ceil_div(config.stage_count(p), config.stages);
  return std::string(pipeline ? "using Pipeline = tw::GemmPipeline" : "using Stages = tw::GemmStages") +
         "<Tile, Depth, " + (p.is_pointwise() ? "false, " : "true, ") +
         (pipeline ? numbers({config.stages, config.blocks})
                   : numbers({config.stage_count(p), config.stages, parts_kept})) +
         ">;\n" + emit_multiply(parts.dtype, config.columns);
}

/// The last argument of a product by warpgroups, as a variable `norm`.
std::string emit_norm(const GemmParts& parts) {
  if (!parts.norm) return "tw::GemmAsItIs norm;\n  ";
  return "tw::GemmNorm<Tile, Depth, Stages, " + numbers({parts.norm->parts}) +
         (parts.norm->kept ? ", true" : ", false") + "> norm;\n  norm.moments = moments;\n  " +
         (parts.norm->kept ? "norm.normed = normed;\n  " : "");
}

/// The kernel's data pointers. With a norm, x is all that the node reads but weights.
std::string emit_pointers_of(const Node& node, const GemmParts& parts) {
  if (!parts.norm) return emit_pointers(node, parts.packed) + (parts.moments ? "float* moments, " : "");
  std::string type = storage_type(parts.dtype) + "* ";
  return "const " + type + "x" + std::to_string(parts.x_index) + ", " + "const float* moments, " +
         (parts.norm->kept ? type + "normed, " : "") + type + "y0, ";
}

/// What follows the product, as a variable `finish`.
std::string emit_finish(const GemmParts& parts) {
  if (!parts.moments) return "const Elements& finish = elements;\n  ";
  return "const tw::GemmWithMoments<Elements> finish{elements, moments};\n  ";
}

}  // namespace

Program gemm_program(const Node& node, const GemmParts& parts, const GemmConfig& config) {
  const GemmProblem& p = parts.problem;
  // Two blocks of a ring hide each other's waiting when their sums leave registers for it.
  constexpr int kFewSums = 32;
  bool two = config.source == GemmSource::kRing && config.rows * config.columns / config.threads() <= kFewSums;
  int64_t blocks = two ? 2 : config.blocks;
  const bool stages = config.source == GemmSource::kStages;
  std::string header = config.source == GemmSource::kRing       ? "implicit_gemm_ring.cuh"
                       : config.source == GemmSource::kPipeline ? "implicit_gemm_pipeline.cuh"
                       : parts.norm                             ? "implicit_gemm_norm.cuh"
                       : stages                                 ? "implicit_gemm_warpgroups.cuh"
                                                                : "implicit_gemm.cuh";
  return {config.by_warpgroups() ? "implicit_gemm_warpgroups" : "implicit_gemm",
          emit_head(parts.loops, {header}) + "struct Params {\n" + kParameters + (parts.norm ? kNormParameters : "") +
              (parts.second_index ? kSecondParameters : "") + "  tw::Size<I> size[" +
              std::to_string(parts.loops.sizes.size() - 1) + "];\n" + parts.loops.parameter_members() + "};\n" +
              emit_staged_elements(parts.body, parts.loops, parts.body.anchor->output()) +
              "using Tile = tw::GemmTile<" + storage_type(parts.dtype) + ", " +
              numbers({config.rows, config.columns, config.warps_m, config.warps_n, config.warps_k, config.lanes}) +
              ">;\nusing Depth = tw::GemmDepth<Tile, " +
              numbers({p.channels, p.window[0], p.window[1], config.slice, config.steps(p)}) +
              (parts.second_index ? ", " + std::to_string(p.first_channels) : "") + ">;\n" +
              (config.by_warpgroups() ? emit_warpgroup_types(parts, config) : "") +
              "extern \"C\" __global__ void __launch_bounds__(" +
              numbers({config.threads() + config.loaders(), blocks}) + ") kernel(" + emit_pointers_of(node, parts) +
              "const __grid_constant__ Params p) {\n  " + emit_elements_object(parts.loops) + "  " +
              emit_finish(parts) + (stages ? emit_norm(parts) : "") + emit_entry(config, p, parts.loops.width) + "(x" +
              std::to_string(parts.x_index) + ", p, finish" + (stages ? ", norm" : "") +
              (parts.second_index ? ", x" + std::to_string(*parts.second_index) : "") + ");\n}\n"};
}

namespace {

/// The norm's weights go into those of the product; see implicit_gemm_norm.cuh.
Packed packed_with_norm(const GemmParts& parts, const GemmConfig& config, c10::Device device) {
  at::Tensor weight = parts.weight.to(device, c10::kDouble);
  at::Tensor norm_weight = parts.norm->weight.to(device).contiguous();
  at::Tensor norm_bias = parts.norm->bias.to(device).contiguous();
  at::Tensor bias = at::mv(weight, norm_bias.to(c10::kDouble));
  if (parts.bias.defined()) bias = at::add(bias, parts.bias.to(device));
  weight = at::mul(weight, norm_weight).to(parts.dtype);
  at::Tensor sums = at::sum(weight.to(c10::kDouble), {1});
  return {packed_weights(weight, parts.problem, config), packed_columns(bias, device, parts.problem, config),
          packed_columns(sums, device, parts.problem, config), norm_weight, norm_bias};
}

Packed packed_of(const Node& node, const GemmParts& parts, const GemmConfig& config) {
  if (is_collecting()) return Packed(parts.norm ? 5 : 2);
  c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(device_of(node)));
  if (parts.norm) return packed_with_norm(parts, config, device);
  return {packed_weights(parts.weight.to(device, parts.dtype), parts.problem, config),
          packed_columns(parts.bias, device, parts.problem, config)};
}

}  // namespace

GemmDevice gemm_device(const Node& node) {
  DeviceLimits limits = limits_of(node);
  return {limits.processors, limits.shared_bytes, limits.major >= 9, limits.major == 9};
}

int64_t moment_parts(const GemmConfig& config, const GemmProblem& problem) {
  bool many_tiles = config.source == GemmSource::kPipeline || config.source == GemmSource::kRing;
  if (many_tiles || problem.outputs % config.columns != 0) return 0;
  int64_t parts = problem.outputs / config.columns;
  if (!config.summed()) return parts * config.warps_n;
  // Neighbouring lanes of one warp have a row.
  int64_t lanes = config.columns / 4;
  bool in_a_warp = lanes <= 32 && (lanes & (lanes - 1)) == 0;
  return in_a_warp ? parts : 0;
}

GemmLaunch gemm_launch(const Node& node, const GemmParts& parts, const GemmConfig& config) {
  Packed packed = packed_of(node, parts, config);
  bool in_turn = config.source == GemmSource::kPipeline;
  Shape shape{.blocks = config.launched_blocks(parts.problem, gemm_device(node)),
              .blocks_y = in_turn ? 1 : config.column_tiles(parts.problem),
              .threads = static_cast<unsigned>(config.threads() + config.loaders()),
              .shared_bytes = static_cast<unsigned>(config.shared_bytes),
              .cluster = static_cast<unsigned>(config.splits)};
  if (parts.norm) shape.shared_bytes += static_cast<unsigned>(8 * config.rows);
  return {gemm_program(node, parts, config), shape, arguments_of(parts, config, packed), packed};
}

}  // namespace torchweld::cuda
