#include "kernels/cuda/implicit_gemm_packing.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <string>
#include <vector>

#include "kernels/cuda/implicit_gemm_order.h"
#include "kernels/cuda/own_kernel.h"
#include "kernels/shared_constants.h"

namespace torchweld::cuda {
namespace {

/// f32 numbers rounded to TF32; infinities and NaN stay.
at::Tensor rounded_to_tf32(const at::Tensor& numbers) {
  at::Tensor bits = numbers.contiguous().view(c10::kInt);
  constexpr int kHalf = 0x1000;
  constexpr int kKept = ~0x1fff;
  at::Tensor rounded = bits.add(kHalf).bitwise_and(kKept).view(c10::kFloat);
  return at::where(at::isfinite(numbers), rounded, numbers);
}

/// The order of weight columns in shared memory: within every 8 * group columns, those that one lane holds of the
/// products become neighbours.
at::Tensor column_order(const GemmConfig& config) {
  int n_tiles = config.columns / config.warps_n / 8;
  int group = n_tiles % 4 == 0 ? 4 : n_tiles % 2 == 0 ? 2 : 1;
  std::vector<int64_t> order(config.columns);
  for (int row = 0; row < config.columns; ++row) {
    int within = row % (8 * group);
    int lane = within % 8 / 2;
    order[row] = row - within + lane * 2 * group + within / 8 * 2 + within % 2;
  }
  return at::tensor(order);
}

/// [tiles, columns, k] as [tile][stage of 8 chunks][column][8 chunks], the chunks of each column exchanged; see
/// implicit_gemm_warpgroups.cuh.
at::Tensor swizzled(const at::Tensor& weight, int64_t chunk) {
  const int64_t stage = 8 * chunk;
  int64_t stages = ceil_div(weight.size(2), stage);
  at::Tensor whole = at::constant_pad_nd(weight, {0, stages * stage - weight.size(2)});
  whole = whole.reshape({weight.size(0), weight.size(1), stages, 8, chunk}).transpose(1, 2);
  std::vector<at::Tensor> columns;
  for (int64_t r = 0; r < 8; ++r) {
    std::vector<int64_t> order(8);
    for (int64_t c = 0; c < 8; ++c) order[c] = c ^ r;
    columns.push_back(at::index_select(whole.slice(2, r, std::nullopt, 8), 3, at::tensor(order).to(weight.device())));
  }
  return at::stack(columns, 3).contiguous();
}

/// Weights [outputs of all groups, channels, window...] of a CUDA device, in the dtype of the product. What is read of
/// problem and configuration stands in text_of_order().
at::Tensor in_order(at::Tensor weight, const GemmProblem& p, const GemmConfig& config) {
  if (weight.scalar_type() == c10::kFloat) weight = rounded_to_tf32(weight);
  int64_t tiles = config.column_tiles(p);
  int64_t more = config.group_columns(p) - p.outputs;
  if (config.source == GemmSource::kPixels) {
    weight = weight.reshape({p.groups, p.outputs, p.channels, p.window[0], p.window[1]}).permute({0, 1, 3, 4, 2});
    int64_t columns = config.slice * p.chunk() / 4;
    weight = at::constant_pad_nd(weight, {0, 4 - p.channels, 0, columns - p.window[1], 0, 0, 0, more});
  } else {
    int64_t channels = config.splits * config.slice * p.chunk();
    weight = weight.reshape({p.groups, p.outputs, p.channels, p.taps()}).transpose(2, 3);
    weight = at::constant_pad_nd(weight, {0, channels - p.channels, 0, 0, 0, more});
  }
  weight = weight.reshape({tiles, config.columns, -1, config.splits, config.slice * p.chunk()});
  weight = at::index_select(weight, 1, column_order(config).to(weight.device())).permute({0, 3, 1, 2, 4});
  int64_t depth = p.taps() * config.slice * p.chunk();
  if (config.by_warpgroups()) return swizzled(weight.reshape({-1, config.columns, depth}), p.chunk());
  if (config.source == GemmSource::kRing) {
    int64_t stage = config.stage_chunks * p.chunk();
    weight =
        at::constant_pad_nd(weight.reshape({tiles, config.columns, depth}), {0, config.stage_count(p) * stage - depth});
    weight = weight.reshape({tiles, config.columns, -1, stage}).transpose(1, 2);
  } else {
    weight = weight.reshape({tiles, config.splits, config.columns, -1});
  }
  int64_t pitch = config.source == GemmSource::kRing ? config.stage_chunks + 1 : config.pitch(p);
  return at::constant_pad_nd(weight, {0, pitch * p.chunk() - weight.size(3)}).contiguous();
}

/// How weights are packed: all that in_order() reads.
std::string text_of_order(const GemmProblem& p, const GemmConfig& config) {
  std::string text = "implicit_gemm";
  for (int64_t number :
       {p.groups, p.outputs, p.channels, p.window[0], p.window[1], p.taps(), p.chunk(), config.column_tiles(p),
        config.group_columns(p), static_cast<int64_t>(config.source), int64_t{config.columns}, int64_t{config.warps_n},
        int64_t{config.splits}, int64_t{config.slice}, int64_t{config.stage_chunks}, config.stage_count(p),
        int64_t{config.pitch(p)}}) {
    text += " " + std::to_string(number);
  }
  return text;
}

}  // namespace

at::Tensor packed_weights(const LazyTensor& weight, c10::Device device, c10::ScalarType dtype, const GemmProblem& p,
                          const GemmConfig& config) {
  std::string what = text_of_order(p, config) + " " + dtype_name(dtype) + " " + device.str();
  return shared_constant(origin_of(what, {weight}),
                         [&] { return in_order(weight.tensor().to(device, dtype), p, config); });
}

PackedOrder packed_order(c10::Device device, const GemmProblem& p, const GemmConfig& config) {
  GemmOrder order = gemm_order(p, config);
  auto pack = [&](const std::vector<int32_t>& list) {
    return shared_constant(at::tensor(list, at::TensorOptions(c10::kInt)).to(device));
  };
  return {pack(order.results), pack(order.lists)};
}

at::Tensor packed_columns(const LazyTensor& numbers, c10::Device device, const GemmProblem& p,
                          const GemmConfig& config) {
  int64_t columns = config.column_tiles(p) * config.columns;
  int64_t more = config.group_columns(p) - p.outputs;
  std::string what = "columns";
  for (int64_t number : {columns, p.groups, p.outputs, more}) what += " " + std::to_string(number);
  return shared_constant(origin_of(what + " " + device.str(), {numbers}), [&] {
    if (!numbers.defined()) return at::zeros({columns}, at::TensorOptions(c10::kFloat).device(device));
    at::Tensor groups = numbers.tensor().to(device, c10::kFloat).reshape({p.groups, p.outputs});
    return at::constant_pad_nd(groups, {0, more}).clone(c10::MemoryFormat::Contiguous);
  });
}

}  // namespace torchweld::cuda
