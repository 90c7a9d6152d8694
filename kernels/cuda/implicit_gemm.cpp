#include "kernels/cuda/implicit_gemm.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/add.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "kernels/cuda/block_parts.h"
#include "kernels/cuda/implicit_gemm_packing.h"
#include "kernels/cuda/implicit_gemm_plan.h"
#include "kernels/cuda/own_kernel.h"
#include "kernels/cuda/staged_elements.h"

namespace torchweld::cuda {
namespace {

/// Layer normalisation of x ahead of the product.
struct Norm {
  double eps = 0;
  at::Tensor weight, bias;  ///< f32, [channels].
  bool kept = false;        ///< The normalised x is the node's first result.
};

/// A node taken apart.
struct Parts {
  Body body;
  size_t x_index = 0;
  c10::ScalarType dtype = c10::kHalf;
  at::Tensor weight;  ///< [outputs, channels, window...]
  at::Tensor bias;    ///< Undefined when there is none.
  std::vector<size_t> packed;
  GemmProblem problem;
  std::optional<Norm> norm;
  Loops loops;  ///< Over the results, the last one over their channels.
};

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

/// Rows of results count batch, height, width; their loops must nest like that too.
void add_result_loops(const Node& node, Parts& parts, bool is_conv) {
  const TensorType& out = node.output()->type;
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
  add_finish_operands(node, parts.body, order, parts.loops);
  parts.loops.collapse(1);
  const TensorType& x = node.input(parts.x_index)->type;
  parts.loops.other_extent = x.storage_bytes() / static_cast<int64_t>(c10::elementSize(x.dtype));
  expect(parts.loops.index_type() == "int", "a tensor of more than 2^30 elements");
  parts.loops.choose_width(8, false);
}

bool reads_vectors(const GemmProblem& p) {
  auto fits = [&](int64_t number) { return number % p.chunk() == 0; };
  return (p.in[3] == 1 || p.channels == 1) && fits(p.channels) && fits(p.in[0]) && fits(p.in[1]) && fits(p.in[2]);
}

Parts take_apart(const Node& node, const KernelContext& context) {
  Parts parts;
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
  add_result_loops(node, parts, conv != nullptr);
  problem.vector_writes = parts.loops.width > 1;
  return parts;
}

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

/// Tensors that the kernel reads: weights, bias and, with a norm, the sums of the columns and the norm's own.
using Packed = std::vector<at::Tensor>;

Arguments arguments_of(const Parts& parts, const GemmConfig& config, const Packed& packed) {
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
  for (size_t d = 0; d + 1 < parts.loops.sizes.size(); ++d) add_size(arguments, parts.loops.sizes[d], "int");
  parts.loops.add_arguments(arguments);
  return arguments;
}

/// `struct Multiply`: the warpgroup's instruction for so many columns, which the instruction set has no generic form
/// of. begin() before and close() after a row of run(sums, a, b), which adds the product of 16 numbers along k of the
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
  std::string type = dtype == c10::kHalf ? "f16" : "bf16";
  std::string sums = "(float (&d)[" + std::to_string(columns / 8) + "][4]";
  const std::string function = "  __device__ __forceinline__ static void ";
  return "struct Multiply {\n#ifdef __CUDA_ARCH_FEAT_SM90_ALL\n" + function +
         "begin() { asm volatile(\"wgmma.fence.sync.aligned;\" ::: \"memory\"); }\n" + function +
         "close() { asm volatile(\"wgmma.commit_group.sync.aligned;\" ::: \"memory\"); }\n" + function + "run" + sums +
         ", unsigned long long a, unsigned long long b) {\n    asm volatile(\"wgmma.mma_async.sync.aligned.m64n" +
         std::to_string(columns) + "k16.f32." + type + "." + type + " {" + registers + "}, %" + std::to_string(count) +
         ", %" + std::to_string(count + 1) + ", 1, 1, 1, 0, 0;\"\n        : " + operands +
         " : \"l\"(a), \"l\"(b));\n  }\n" + function + "finish" + sums +
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
std::string emit_warpgroup_types(const Parts& parts, const GemmConfig& config) {
  const GemmProblem& p = parts.problem;
  bool pipeline = config.source == GemmSource::kPipeline;
  return std::string(pipeline ? "using Pipeline = tw::GemmPipeline" : "using Stages = tw::GemmStages") +
         "<Tile, Depth, " + (p.is_pointwise() ? "false, " : "true, ") +
         (pipeline ? numbers({config.stages, config.blocks}) : numbers({config.stage_count(p), config.stages})) +
         ">;\n" + emit_multiply(parts.dtype, config.columns);
}

/// The last argument of a product by warpgroups, as a variable `norm`.
std::string emit_norm(const Parts& parts) {
  if (!parts.norm) return "tw::GemmAsItIs norm;\n  ";
  return std::string("tw::GemmNorm<Tile, Depth, Stages, ") + (parts.norm->kept ? "true" : "false") + "> norm;\n  " +
         (parts.norm->kept ? "norm.normed = normed;\n  " : "");
}

/// The kernel's data pointers. With a norm, x is all that the node reads but weights.
std::string emit_pointers_of(const Node& node, const Parts& parts) {
  if (!parts.norm) return emit_pointers(node, parts.packed);
  std::string type = storage_type(parts.dtype) + "* ";
  return "const " + type + "x" + std::to_string(parts.x_index) + ", " + (parts.norm->kept ? type + "normed, " : "") +
         type + "y0, ";
}

Program program_of(const Node& node, const Parts& parts, const GemmConfig& config) {
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
              "  tw::Size<I> size[" + std::to_string(parts.loops.sizes.size() - 1) + "];\n" +
              parts.loops.parameter_members() + "};\n" +
              emit_staged_elements(parts.body, parts.loops, parts.body.anchor->output()) +
              "using Tile = tw::GemmTile<" + storage_type(parts.dtype) + ", " +
              numbers({config.rows, config.columns, config.warps_m, config.warps_n, config.warps_k, config.lanes}) +
              ">;\nusing Depth = tw::GemmDepth<Tile, " +
              numbers({p.channels, p.window[0], p.window[1], config.slice, config.steps(p)}) + ">;\n" +
              (config.by_warpgroups() ? emit_warpgroup_types(parts, config) : "") +
              "extern \"C\" __global__ void __launch_bounds__(" +
              numbers({config.threads() + config.loaders(), blocks}) + ") kernel(" + emit_pointers_of(node, parts) +
              "const __grid_constant__ Params p) {\n  " + emit_elements_object(parts.loops) + "  " +
              (stages ? emit_norm(parts) : "") + emit_entry(config, p, parts.loops.width) + "(x" +
              std::to_string(parts.x_index) + ", p, elements" + (stages ? ", norm" : "") + ");\n}\n"};
}

/// The norm's weights go into those of the product; see implicit_gemm_norm.cuh.
Packed packed_with_norm(const Parts& parts, const GemmConfig& config, c10::Device device) {
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

Packed packed_of(const Node& node, const Parts& parts, const GemmConfig& config) {
  if (is_collecting()) return Packed(parts.norm ? 5 : 2);
  c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(device_of(node)));
  if (parts.norm) return packed_with_norm(parts, config, device);
  return {packed_weights(parts.weight.to(device, parts.dtype), parts.problem, config),
          packed_columns(parts.bias, device, parts.problem, config)};
}

GemmDevice device_limits(const Node& node) {
  DeviceLimits limits = limits_of(node);
  return {limits.processors, limits.shared_bytes, limits.major >= 9, limits.major == 9};
}

std::unique_ptr<Kernel> make(const Node& node, const Parts& parts, const GemmConfig& config) {
  Packed packed = packed_of(node, parts, config);
  bool in_turn = config.source == GemmSource::kPipeline;
  Shape shape{.blocks = config.launched_blocks(parts.problem, device_limits(node)),
              .blocks_y = in_turn ? 1 : config.column_tiles(parts.problem),
              .threads = static_cast<unsigned>(config.threads() + config.loaders()),
              .shared_bytes = static_cast<unsigned>(config.shared_bytes),
              .cluster = static_cast<unsigned>(config.splits)};
  if (parts.norm) shape.shared_bytes += static_cast<unsigned>(8 * config.rows);
  return make_own_kernel(node, program_of(node, parts, config), shape, arguments_of(parts, config, packed),
                         parts.packed, packed);
}

/// A block of a layer norm and a linear layer behind it.
Parts take_apart_normed(const Node& node, const KernelContext& context) {
  const Graph& body = *node.as<Fused>()->body;
  const Node& norm = *body.nodes().front();
  const Node& part = *body.nodes().back();
  auto* op = norm.as<LayerNorm>();
  expect(op && body.nodes().size() == 2 && op->rank == 1,
         "no layer norm of one dimension with a linear layer behind it");
  // The linear layer alone, reading what the norm reads.
  Graph alone;
  const Value* x = norm.input(0);
  expect(!x->producer(), "the norm's input is computed inside the block");
  std::vector<Value*> inputs;
  for (const Value* v : part.inputs()) {
    bool is_normed = v == norm.output();
    const Value* outer = is_normed || v->producer() ? nullptr : node.input(v->index());
    expect(is_normed || (outer && constant_of(outer)), "the linear layer reads another tensor");
    inputs.push_back(is_normed ? alone.add_input(node.input(x->index())->type)
                               : alone.add(outer->producer()->attrs, {}));
    if (!is_normed) inputs.back()->type = outer->type;
  }
  Node* linear = alone.add_node(part.attrs, inputs);
  linear->output()->type = part.output()->type;
  auto* fused = part.as<Fused>();
  const Node* anchor = fused ? anchor_of(*fused) : &part;
  expect(anchor && anchor->as<Linear>(), "no linear layer behind the norm");
  Parts parts = take_apart(*linear, context);
  constexpr int64_t kStage = 64;
  expect(parts.problem.element_bytes == 2, "only f16 and bf16");
  expect(parts.problem.channels % kStage == 0 && parts.problem.vector_reads, "rows are no multiple of 64 numbers");
  expect(is_contiguous(norm.output()->type), "normalised rows do not lie one after the other");
  auto numbers = [&](size_t i, double otherwise) {
    if (i >= norm.inputs().size()) return at::full({parts.problem.channels}, otherwise, at::TensorOptions(c10::kFloat));
    const at::Tensor* constant = constant_of(node.input(norm.input(i)->index()));
    expect(constant != nullptr, "the norm's weights are not constant");
    return constant->to(c10::kFloat);
  };
  parts.norm = Norm{.eps = op->eps, .weight = numbers(1, 1), .bias = numbers(2, 0), .kept = node.outputs().size() == 2};
  parts.packed.clear();
  for (size_t i = 0; i < node.inputs().size(); ++i) {
    if (static_cast<int>(i) != x->index()) parts.packed.push_back(i);
  }
  return parts;
}

void offer(const Node& node, const KernelContext& context, const Parts& parts, std::vector<GemmConfig> configs,
           Offers& offers) {
  if (!context.tune) {
    size_t chosen = choose_untimed(
        node, configs.size(), [&](size_t i) { return program_of(node, parts, configs[i]); },
        [&](size_t i) { return configs[i].splits; });
    configs = {configs[chosen]};
  }
  for (const GemmConfig& config : configs)
    offers.add(config.text(), [&node, parts, config] { return make(node, parts, config); }, config.microseconds);
}

/// Libraries were measured to be slower on small layers and faster on large ones.
constexpr double kMostUntimed = 25;
/// Reading the weights takes all the time there.
constexpr int64_t kFewRows = 32;

}  // namespace

void propose_normed_linear(const Node& node, const KernelContext& context, Offers& offers) {
  auto* fused = node.as<Fused>();
  if (!fused || !is_block(*fused) || !fused->body->nodes().front()->as<LayerNorm>()) return;
  GemmDevice device = device_limits(node);
  expect(device.warpgroups, "only sm_90a has warpgroups");
  Parts parts = take_apart_normed(node, context);
  expect(parts.problem.rows() > kFewRows, "few rows");
  constexpr int64_t kStates = 1024;  // Bytes, for the rows' means and deviations.
  device.shared_bytes -= kStates;
  constexpr size_t kAll = 1000;
  constexpr size_t kMostOffers = 6;
  std::vector<GemmConfig> configs = gemm_configs(parts.problem, device, kAll);
  std::erase_if(configs, [](const GemmConfig& c) { return c.source != GemmSource::kStages || c.splits > 1; });
  expect(!configs.empty(), "no configuration by warpgroups is near the best");
  expect(context.tune || configs.front().microseconds < kMostUntimed, "a large product, and kernels are not timed");
  if (configs.size() > kMostOffers) configs.resize(kMostOffers);
  offer(node, context, parts, configs, offers);
}

void propose_implicit_gemm(const Node& node, const KernelContext& context, Offers& offers) {
  auto* fused = node.as<Fused>();
  const Node* anchor = fused ? anchor_of(*fused) : &node;
  if (!anchor || !(anchor->as<Conv>() || anchor->as<Linear>())) return;
  Parts parts = take_apart(node, context);
  expect(parts.dtype != c10::kFloat || anchor->as<Conv>() || parts.problem.rows() > kFewRows,
         "f32 with few rows, where TF32 saves nothing");
  DeviceLimits limits = limits_of(node);
  expect(limits.major >= 8 || parts.dtype == c10::kHalf, "only f16 before sm_80");
  constexpr size_t kMostOffers = 12;
  std::vector<GemmConfig> configs = gemm_configs(parts.problem, device_limits(node), kMostOffers);
  expect(!configs.empty(), "the operands of a block do not fit into shared memory");
  const GemmConfig best = configs.front();
  // Of small layers, the fastest was always expected within 1.22 times the best estimate (an H100).
  constexpr double kHopeful = 1.25;
  if (best.microseconds < kLibrariesPayFrom)
    std::erase_if(configs, [&](const GemmConfig& c) { return c.microseconds > kHopeful * best.microseconds; });
  bool as_good_as_libraries = best.source == GemmSource::kPipeline;
  bool small = best.source != GemmSource::kRing && best.microseconds < kMostUntimed;
  expect(context.tune || as_good_as_libraries || small, "a large product, and kernels are not timed");
  offer(node, context, parts, configs, offers);
}

}  // namespace torchweld::cuda
