#include "kernels/cuda/pooled_blocks.h"

#include <algorithm>
#include <bit>
#include <optional>

#include "core/error.h"
#include "core/ops/fused.h"
#include "core/ops/reduce.h"
#include "kernels/cuda/own_kernel.h"
#include "kernels/cuda/pooled_parts.h"

namespace torchweld::cuda {
namespace {

/// True when all positions of a tensor lie at one distance from one another, and channels side by side.
bool has_even_pixels(const TensorType& t) {
  return t.strides[1] == 1 && t.strides[0] % 8 == 0 && t.strides[3] % 8 == 0 &&
         (t.shape[2] == 1 || t.strides[2] == t.shape[3] * t.strides[3]);
}

DeviceLimits expect_kernel_takes(const Node& node, const PooledParts& parts) {
  expect(parts.x.dtype == c10::kHalf || parts.x.dtype == c10::kBFloat16, "only f16 and bf16");
  for (const BlockPart& part : parts.products)
    expect(part.node->output()->type.dtype == parts.x.dtype, "the parts have several dtypes");
  expect(parts.channels() % 8 == 0 && has_even_pixels(parts.x), "not channels-last with a multiple of 8 channels");
  constexpr int64_t kMost = int64_t{1} << 30;
  expect(parts.pixels() > 0 && parts.x.storage_bytes() < kMost, "no positions, or too many for 32-bit offsets");
  DeviceLimits limits = limits_of(node);
  constexpr int kClusters = 9;
  expect(limits.major >= kClusters, "the GPU has no clusters of blocks (before sm_90)");
  return limits;
}

/// How a sample's channels are shared.
struct Sharing {
  int64_t channels = 8;  ///< Of one block of threads.
  int64_t channel_shares = 1;
  int64_t pixel_shares = 1;
  int64_t threads = 512;
  int64_t blocks() const { return channel_shares * pixel_shares; }  ///< Of a cluster.
  std::string text() const {
    return "cluster" + std::to_string(channel_shares) + "x" + std::to_string(pixel_shares) + " threads" +
           std::to_string(threads);
  }
};

/// `shares` of the channels at most, and as many of the pixels as the cluster leaves room for.
Sharing share_out(const PooledParts& parts, int64_t shares, int64_t cluster, int64_t threads) {
  constexpr int64_t kFewPixels = 16;
  Sharing sharing{.channels = ceil_div(parts.channels() / 8, shares) * 8, .threads = threads};
  sharing.channel_shares = ceil_div(parts.channels(), sharing.channels);
  sharing.pixel_shares = std::clamp<int64_t>(parts.pixels() / kFewPixels, 1, cluster / sharing.channel_shares);
  return sharing;
}

/// Channels per thread: few, so that few partial sums of a channel are to be added up; 16 bytes where x is kept.
int64_t thread_width(const Sharing& sharing, bool keeps) {
  constexpr int64_t kFewSums = 16;
  if (keeps) return 8;
  for (int64_t width : {2, 4}) {
    int64_t groups = sharing.threads / (sharing.channels / width);
    if (groups > 0 && groups <= kFewSums) return width;
  }
  return 8;
}

/// Where things lie in shared memory; names are those of device code.
struct SharedPlaces {
  std::vector<std::pair<std::string, int64_t>> constants;
  int64_t end = 0;
  int64_t take(const std::string& name, int64_t bytes) {
    int64_t at = end;
    constants.emplace_back(name, at);
    end += (bytes + 15) / 16 * 16;
    return at;
  }
  std::string text() const {
    std::string text;
    for (const auto& [name, value] : constants)
      text += "  static constexpr int " + name + " = " + std::to_string(value) + ";\n";
    return text;
  }
};

/// What every kernel of this file needs beside its own constants.
struct Config {
  Sharing sharing;
  SharedPlaces weights;
  SharedPlaces memory;
  std::string text;

  /// Lays out what pool_share needs, behind the weights.
  void begin_memory(const PooledParts& parts, bool keeps) {
    constexpr int64_t kBarriers = 16;
    memory.end = kBarriers;
    memory.take("weights_at", weights.end);
    memory.take("x_at", keeps ? ceil_div(parts.pixels(), sharing.pixel_shares) * sharing.channels * 2 : 0);
    int64_t width = thread_width(sharing, keeps);
    memory.take("pool_at", std::max<int64_t>(sharing.threads / (sharing.channels / width), 16) * sharing.channels * 4);
    memory.take("means_at", sharing.channels * 4);
    text = "struct Config {\n  using S = " + storage_type(parts.x.dtype) +
           ";\n  static constexpr bool keeps = " + (keeps ? "true" : "false") + ";\n" +
           number("total", parts.channels()) + number("channels", sharing.channels) + number("width", width) +
           number("channel_shares", sharing.channel_shares) + number("pixel_shares", sharing.pixel_shares) +
           number("blocks", sharing.blocks()) + number("threads", sharing.threads) +
           number("weights_bytes", weights.end);
  }
  static std::string number(const std::string& name, int64_t value) {
    return "  static constexpr int " + name + " = " + std::to_string(value) + ";\n";
  }
  std::string finish() const { return text + weights.text() + memory.text() + "};\n"; }
};

Program program_of(const Node& node, const PooledParts& parts, const Config& config, const std::string& name) {
  return {name,
          "#include \"types.cuh\"\n#include \"math.cuh\"\n#include \"pooled_blocks.cuh\"\n"
          "struct Params {\n  const void* weights;\n  int pixels;\n  int x[2], y[2];\n};\n" +
              config.finish() + "extern \"C\" __global__ void __launch_bounds__(" +
              std::to_string(config.sharing.threads) + ") kernel(" + emit_pointers(node, parts.packed) +
              "const __grid_constant__ Params p) {\n  tw::" + name + "<Config>(x" + std::to_string(parts.x_index) +
              ", y0, p);\n}\n",
          true};
}

std::unique_ptr<Kernel> make_kernel(const Node& node, const PooledParts& parts, const Config& config,
                                    const std::string& name, const std::function<at::Tensor()>& pack, int64_t blocks,
                                    int64_t blocks_y) {
  Program program = program_of(node, parts, config, name);
  at::Tensor weights;
  if (!is_collecting()) {
    std::vector<LazyTensor> numbers;
    for (const BlockPart& product : parts.products) numbers.insert(numbers.end(), {product.weight, product.bias});
    weights = packed_for(node, program, numbers, pack);
  }
  const TensorType& out = node.output()->type;
  Arguments arguments;
  arguments.add(weights.defined() ? weights.data_ptr() : nullptr);
  for (int64_t number : {parts.pixels(), parts.x.strides[0], parts.x.strides[3], out.strides[0],
                         out.rank() == 4 ? out.strides[3] : int64_t{0}}) {
    arguments.add(static_cast<int32_t>(number));
  }
  Shape shape{.blocks = blocks,
              .blocks_y = blocks_y,
              .threads = static_cast<unsigned>(config.sharing.threads),
              .shared_bytes = static_cast<unsigned>(config.memory.end),
              .cluster = static_cast<unsigned>(config.sharing.blocks())};
  return make_own_kernel(node, program, shape, std::move(arguments), parts.packed, {weights});
}

// ---- squeeze-excitation ----

struct ExciteLayout {
  Config config;
  int64_t squeeze_step, excite_step, squeeze_at, excite_at, squeeze_bias_at, excite_bias_at;
};

ExciteLayout lay_out_excite(const PooledParts& parts, const Sharing& sharing, bool keeps) {
  ExciteLayout l{};
  int64_t squeezed = parts.products[0].weight.size(0), channels = sharing.channels;
  Config& config = l.config;
  config.sharing = sharing;
  l.squeeze_step = row_step(channels);
  l.excite_step = row_step(squeezed);
  l.squeeze_at = config.weights.take("squeeze_at", round_up(squeezed, 4) * l.squeeze_step * 2);
  l.excite_at = config.weights.take("excite_at", channels * l.excite_step * 2);
  l.squeeze_bias_at = config.weights.take("squeeze_bias_at", squeezed * 4);
  l.excite_bias_at = config.weights.take("excite_bias_at", channels * 4);
  config.begin_memory(parts, keeps);
  config.memory.take("partial_at", round_up(squeezed, 4) * 4);
  config.memory.take("sums_at", sharing.blocks() * round_up(squeezed, 4) * 4);
  config.memory.take("squeezed_at", round_up(squeezed, 8) * 4);
  config.memory.take("gates_at", channels * 4);
  config.text += std::string("  static constexpr bool gates = ") + (parts.gate ? "true" : "false") + ";\n" +
                 Config::number("squeezed", squeezed) + Config::number("squeeze_step", l.squeeze_step) +
                 Config::number("excite_step", l.excite_step) +
                 Config::number("squeeze_lanes", lanes_per_row(squeezed, channels, sharing.threads)) +
                 Config::number("excite_lanes", lanes_per_row(channels, squeezed, sharing.threads)) +
                 emit_after(parts.products[0], "after_squeeze", false) +
                 emit_after(parts.products[1], "after_excite", false);
  if (parts.gate) config.text += emit_gated(*parts.gate->graph, parts.gate_input, "after_gate");
  return l;
}

std::unique_ptr<Kernel> make_squeeze_excite(const Node& node, const PooledParts& parts, const ExciteLayout& l) {
  const Sharing& sharing = l.config.sharing;
  auto pack = [&] {
    int64_t size = l.config.weights.end;
    PackedBytes bytes(size * sharing.channel_shares, parts.x.dtype);
    at::Tensor squeeze = as_f32(parts.products[0].weight.tensor()), excite = as_f32(parts.products[1].weight.tensor());
    for (int64_t b = 0; b < sharing.channel_shares; ++b) {
      int64_t first = b * sharing.channels;
      put_rows(bytes, b * size + l.squeeze_at, l.squeeze_step, squeeze, 0, squeeze.size(0), first, sharing.channels);
      put_rows(bytes, b * size + l.excite_at, l.excite_step, excite, first, sharing.channels, 0, squeeze.size(0));
      put_bias(bytes, b * size + l.squeeze_bias_at, parts.products[0].bias.tensor(), 0, squeeze.size(0));
      put_bias(bytes, b * size + l.excite_bias_at, parts.products[1].bias.tensor(), first, sharing.channels);
    }
    return bytes.tensor();
  };
  return make_kernel(node, parts, l.config, "squeeze_excite", pack, sharing.blocks() * parts.x.shape[0], 1);
}

// ---- mean and linear ----

struct LinearLayout {
  Config config;
  int64_t rows, step, linear_at, bias_at, blocks;
};

LinearLayout lay_out_linear(const PooledParts& parts, const Sharing& sharing, int64_t clusters) {
  LinearLayout l{};
  int64_t outputs = parts.products[0].weight.size(0), depth = sharing.blocks() * sharing.channels;
  Config& config = l.config;
  config.sharing = sharing;
  l.rows = ceil_div(outputs, sharing.blocks() * clusters);
  l.blocks = round_up(ceil_div(outputs, l.rows), sharing.blocks());
  l.step = row_step(depth);
  l.linear_at = config.weights.take("linear_at", l.rows * l.step * 2);
  l.bias_at = config.weights.take("bias_at", l.rows * 4);
  config.begin_memory(parts, false);
  config.memory.take("sums_at", depth * 4);
  config.text += Config::number("rows", l.rows) + Config::number("outputs", outputs) + Config::number("step", l.step) +
                 Config::number("lanes", lanes_per_row(l.rows, depth, sharing.threads)) +
                 emit_after(parts.products[0], "after_linear", false);
  return l;
}

std::unique_ptr<Kernel> make_pooled_linear(const Node& node, const PooledParts& parts, const LinearLayout& l) {
  auto pack = [&] {
    int64_t size = l.config.weights.end;
    PackedBytes bytes(size * l.blocks, parts.x.dtype);
    at::Tensor weight = as_f32(parts.products[0].weight.tensor());
    for (int64_t b = 0; b < l.blocks; ++b) {
      put_rows(bytes, b * size + l.linear_at, l.step, weight, b * l.rows, l.rows, 0, weight.size(1));
      put_bias(bytes, b * size + l.bias_at, parts.products[0].bias.tensor(), b * l.rows, l.rows);
    }
    return bytes.tensor();
  };
  return make_kernel(node, parts, l.config, "pooled_linear", pack, l.blocks, parts.x.shape[0]);
}

constexpr int64_t kLargestCluster = 16;

/// Offers all layouts, or the one to take without timing. `make` builds a kernel of a layout.
template <class Layout, class Make>
void offer_layouts(const Node& node, const PooledParts& parts, const std::vector<Layout>& layouts,
                   const std::string& name, bool tune, Make make, Offers& offers) {
  expect(!layouts.empty(), "too few channels to share, or weights that do not fit into shared memory");
  size_t begin = 0;
  if (!tune) {
    begin = choose_untimed(
        node, layouts.size(), [&](size_t i) { return program_of(node, parts, layouts[i].config, name); },
        [&](size_t i) { return layouts[i].config.sharing.blocks(); });
  }
  for (size_t i = begin; i < (tune ? layouts.size() : std::min(layouts.size(), begin + 1)); ++i) {
    offers.add(layouts[i].config.sharing.text(), [&node, parts, layout = layouts[i], name, make] {
      expect_compiled(program_of(node, parts, layout.config, name), node);
      return make(node, parts, layout);
    });
  }
}

}  // namespace

void propose_squeeze_excite(const Node& node, const KernelContext& context, Offers& offers) {
  if (!is_pooled_block(node)) return;
  PooledParts parts = take_pooled_apart(node);
  expect(parts.products.size() == 2, "not two products after the mean");
  DeviceLimits limits = expect_kernel_takes(node, parts);
  const TensorType& out = node.output()->type;
  expect(out.dtype == parts.x.dtype, "the result has another dtype");
  expect(out.rank() == 4 && (out.shape[2] * out.shape[3] == 1 || has_even_pixels(out)),
         "the result is not channels-last");
  std::vector<ExciteLayout> layouts;
  std::vector<std::string> known;
  for (int64_t cluster : {kLargestCluster, kLargestCluster / 2}) {
    for (int64_t threads : {256, 512}) {
      for (int64_t shares : {cluster, cluster / 2, cluster / 4}) {
        Sharing sharing = share_out(parts, shares, cluster, threads);
        bool seen = std::find(known.begin(), known.end(), sharing.text()) != known.end();
        if (seen || sharing.channels > threads || sharing.blocks() < 2) continue;
        if (cluster < kLargestCluster && (!known.empty() && context.tune)) continue;
        ExciteLayout layout = lay_out_excite(parts, sharing, parts.gate.has_value());
        if (layout.config.memory.end > limits.shared_bytes) layout = lay_out_excite(parts, sharing, false);
        if (layout.config.memory.end > limits.shared_bytes) continue;
        layouts.push_back(layout);
        known.push_back(sharing.text());
      }
    }
  }
  offer_layouts(node, parts, layouts, "squeeze_excite", context.tune, make_squeeze_excite, offers);
}

void propose_pooled_linear(const Node& node, const KernelContext& context, Offers& offers) {
  if (!is_pooled_block(node)) return;
  PooledParts parts = take_pooled_apart(node);
  expect(parts.products.size() == 1 && !parts.gate, "not one product after the mean");
  DeviceLimits limits = expect_kernel_takes(node, parts);
  const TensorType& out = node.output()->type;
  expect(out.rank() == 2 && out.strides[1] == 1, "the result is not row-major");
  expect(out.dtype == parts.x.dtype || out.dtype == c10::kFloat, "the result is cast to something else than f32");
  constexpr int64_t kMostSamples = 8;
  expect(parts.x.shape[0] <= kMostSamples, "more than 8 samples, each of which would read all weights");
  std::vector<LinearLayout> layouts;
  for (int64_t threads : {256, 512}) {
    for (int64_t shares : {kLargestCluster, kLargestCluster / 2, kLargestCluster / 4}) {
      Sharing sharing = share_out(parts, shares, shares, threads);
      sharing.pixel_shares = 1;
      if (sharing.channels > threads || sharing.blocks() < 2) continue;
      LinearLayout layout = lay_out_linear(parts, sharing, std::max<int64_t>(1, limits.processors / sharing.blocks()));
      if (layout.config.memory.end <= limits.shared_bytes) layouts.push_back(layout);
    }
  }
  offer_layouts(node, parts, layouts, "pooled_linear", context.tune, make_pooled_linear, offers);
}

}  // namespace torchweld::cuda
