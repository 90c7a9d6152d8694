#include "kernels/cuda/implicit_gemm_program.h"

#include <ATen/ops/add.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "core/ops/conv.h"
#include "core/ops/matmul.h"
#include "kernels/cuda/block_parts.h"
#include "kernels/cuda/implicit_gemm_packing.h"
#include "kernels/cuda/staged_elements.h"
#include "kernels/cuda/warpgroup_multiply.h"
#include "kernels/shared_constants.h"

namespace torchweld::cuda {
namespace {

std::string numbers(std::initializer_list<int64_t> list) {
  std::string text;
  for (int64_t number : list) text += (text.empty() ? "" : ", ") + std::to_string(number);
  return text;
}

constexpr const char* kParameters =
    "  const void* weights;\n  const float* bias;\n  int in[4];\n  int rows, outputs, height, width;\n"
    "  int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;\n"
    "  tw::Divider out_width, out_height, lines, line_width, line_pairs;\n  int splits, vector_reads, stage_count;\n";

constexpr const char* kNormParameters =
    "  const float* column_sums;\n  const float* norm_weight;\n  const float* norm_bias;\n  float eps;\n";

constexpr const char* kSkipParameters = "  const int* order;\n  const int* lists;\n";

constexpr const char* kSecondParameters = "  int second_in[3];\n";

/// Tensors that the kernel reads: weights, bias and, with a norm, the sums of the columns and the norm's own, or the
/// order of the results and lists of stages.
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
  for (int64_t size : {p.out_width, p.out_height, p.padded_height(), p.padded_width(), p.padded_pairs()})
    add_size(arguments, size, "int");
  add({config.splits, p.vector_reads, config.stage_count(p)});
  for (size_t i = 2; i < packed.size(); ++i) arguments.add(packed[i].defined() ? packed[i].data_ptr() : nullptr);
  if (parts.norm) arguments.add(static_cast<float>(parts.norm->eps));
  if (parts.second_index) add({p.second_in[0], p.second_in[1], p.second_in[2]});
  for (size_t d = 0; d + 1 < parts.loops.sizes.size(); ++d) add_size(arguments, parts.loops.sizes[d], "int");
  parts.loops.add_arguments(arguments);
  return arguments;
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
         (pipeline ? numbers({config.stages, config.blocks}) + (config.splits > 1 ? ", true, " : ", false, ") +
                         numbers({config.teams})
                   : numbers({config.stage_count(p), config.stages, parts_kept})) +
         ">;\n" + emit_warpgroup_multiply("Multiply", parts.dtype, config.swapped() ? config.rows : config.columns);
}

/// The last argument of a product by warpgroups, as a variable `norm`.
std::string emit_norm(const GemmParts& parts) {
  if (!parts.norm) return "tw::GemmAsItIs norm;\n  ";
  return "tw::GemmNorm<Tile, Depth, Stages, " + numbers({parts.norm->parts}) +
         (parts.norm->centred ? ", true" : ", false") + (parts.norm->kept ? ", true" : ", false") +
         "> norm;\n  norm.moments = moments;\n  " + (parts.norm->kept ? "norm.normed = normed;\n  " : "");
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
  // Of few channels, pixels lie in shared memory by their coordinates.
  const bool flat = p.is_flat() && config.source != GemmSource::kPixels;
  const bool stages = config.source == GemmSource::kStages;
  std::string header = config.source == GemmSource::kRing       ? "implicit_gemm_ring.cuh"
                       : config.source == GemmSource::kPipeline ? "implicit_gemm_pipeline.cuh"
                       : parts.norm                             ? "implicit_gemm_norm.cuh"
                       : stages                                 ? "implicit_gemm_warpgroups.cuh"
                                                                : "implicit_gemm.cuh";
  return {config.by_warpgroups() ? "implicit_gemm_warpgroups" : "implicit_gemm",
          emit_head(parts.loops, {header}) + "struct Params {\n" + kParameters + (parts.norm ? kNormParameters : "") +
              (config.skips ? kSkipParameters : "") + (parts.second_index ? kSecondParameters : "") +
              "  tw::Size<I> size[" + std::to_string(parts.loops.sizes.size() - 1) + "];\n" +
              parts.loops.parameter_members() + "};\n" +
              emit_staged_elements(parts.body, parts.loops, parts.body.anchor->output()) +
              "using Tile = tw::GemmTile<" + storage_type(parts.dtype) + ", " +
              numbers({config.rows, config.columns, config.warps_m, config.warps_n, config.warps_k, config.lanes}) +
              (config.skips ? ", true" : "") + ">;\nusing Depth = tw::GemmDepth<Tile, " +
              numbers({p.channels, p.window[0], p.window[1], config.slice, config.steps(p)}) +
              (flat ? ", true" : ", false") + (parts.second_index ? ", " + std::to_string(p.first_channels) : "") +
              (p.groups > 1 ? ", " + numbers({p.channels, p.groups, p.outputs, config.groups}) : "") + ">;\n" +
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
  const GemmNorm& norm = *parts.norm;
  const bool centred = norm.centred;
  const LazyTensor& columns = parts.weight;
  TensorType per_output = contiguous_type(c10::kDouble, {columns.size(0)}, device);
  auto scaled = LazyTensor::derived(
      "weight_with_norm", {columns, norm.weight}, contiguous_type(parts.dtype, columns.type().shape, device),
      [device, dtype = parts.dtype](const std::vector<at::Tensor>& tensors) {
        return at::mul(tensors[0].to(device, c10::kDouble), tensors[1].to(device)).to(dtype);
      });
  auto bias = LazyTensor::derived(
      centred ? "bias_with_norm" : "bias_with_uncentred_norm", {columns, parts.bias, norm.bias}, per_output,
      [device, centred](const std::vector<at::Tensor>& tensors) {
        at::Tensor weight = tensors[0].to(device, c10::kDouble);
        at::Tensor bias =
            tensors[1].defined() ? tensors[1].to(device, c10::kDouble) : at::zeros_like(weight.select(1, 0));
        // What has no bias must not meet infinite weights.
        return centred ? at::add(bias, at::sum(at::mul(weight, tensors[2].to(device, c10::kDouble)), {1})) : bias;
      });
  auto sums = LazyTensor::derived("sums_with_norm", {scaled}, per_output, [](const std::vector<at::Tensor>& tensors) {
    return at::sum(tensors[0].to(c10::kDouble), {1});
  });
  auto own = [&](const LazyTensor& numbers) {
    return shared_constant(origin_of("of_norm " + device.str(), {numbers}),
                           [&] { return numbers.tensor().to(device).contiguous().clone(); });
  };
  return {packed_weights(scaled, device, parts.dtype, parts.problem, config),
          packed_columns(bias, device, parts.problem, config), packed_columns(sums, device, parts.problem, config),
          own(norm.weight), own(norm.bias)};
}

Packed packed_of(const Node& node, const GemmParts& parts, const GemmConfig& config) {
  if (is_collecting()) return Packed(parts.norm ? 5 : config.skips ? 4 : 2);
  c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(device_of(node)));
  if (parts.norm) return packed_with_norm(parts, config, device);
  Packed packed = {packed_weights(parts.weight, device, parts.dtype, parts.problem, config),
                   packed_columns(parts.bias, device, parts.problem, config)};
  if (config.skips) {
    PackedOrder order = packed_order(device, parts.problem, config);
    packed.insert(packed.end(), {order.results, order.lists});
  }
  return packed;
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
  Program program = gemm_program(node, parts, config);
  expect_compiled(program, node);
  Packed packed = packed_of(node, parts, config);
  bool in_turn = config.source == GemmSource::kPipeline;
  Shape shape{.blocks = config.launched_blocks(parts.problem, gemm_device(node)),
              .blocks_y = in_turn ? 1 : config.column_tiles(parts.problem),
              .threads = static_cast<unsigned>(config.threads() + config.loaders()),
              .shared_bytes = static_cast<unsigned>(config.shared_bytes),
              .cluster = static_cast<unsigned>(config.splits)};
  if (parts.norm) shape.shared_bytes += static_cast<unsigned>(8 * config.rows);
  return {std::move(program), shape, arguments_of(parts, config, packed), packed};
}

}  // namespace torchweld::cuda
