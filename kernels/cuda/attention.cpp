#include "kernels/cuda/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/ops/attention.h"
#include "kernels/cuda/block_parts.h"
#include "kernels/cuda/own_kernel.h"
#include "kernels/cuda/warpgroup_multiply.h"

namespace torchweld::cuda {
namespace {

/// How keys come to the tensor cores: tile by tile through shared memory, from where warps fetch them (attention.cuh)
/// or warpgroups multiply them (attention_warpgroups.cuh); or all at once, to the lanes that multiply them, in
/// registers or in places in shared memory of their own (attention_whole.cuh). All tiles at once through shared memory
/// were tried for many heads: 21 us instead of 15 for 384 heads of 128 keys, since nothing is multiplied while they
/// come.
enum class KeyRoute { kTiles, kWarpgroups, kRegisters, kPlaces };

/// One way to run it; see AttentionTile in attention.cuh.
struct AttentionConfig {
  int warps_q = 1, warps_k = 1, warp_keys = 32;
  int stages = 1;
  KeyRoute route = KeyRoute::kTiles;
  int64_t shared_bytes = 0;
  double cycles = 0;  ///< Estimate for the whole kernel.

  int threads() const { return 32 * warps_q * warps_k; }
  int queries() const { return 16 * warps_q; }
  int keys() const { return warps_k * warp_keys; }
  bool whole() const { return route == KeyRoute::kRegisters || route == KeyRoute::kPlaces; }
  std::string text() const {
    return std::to_string(queries()) + "x" + std::to_string(keys()) + " w" + std::to_string(warps_q) + "," +
           std::to_string(warps_k) +
           (route == KeyRoute::kWarpgroups  ? " warpgroups"
            : route == KeyRoute::kRegisters ? " whole"
            : route == KeyRoute::kPlaces    ? " whole staged"
                                            : "");
  }
};

/// What the kernel computes: `heads` of all batches, `queries` x `keys` scores each.
struct AttentionProblem {
  int64_t heads = 0, queries = 0, keys = 0;
  int64_t head = 0, value = 0;  ///< Sizes of the rows of q and k, and of v.
  int64_t element_bytes = 2;
  bool causal = false;
};

int64_t padded(int64_t size) { return ceil_div(size, 16) * 16; }

int64_t shared_bytes_of(const AttentionProblem& p, const AttentionConfig& c) {
  int64_t head_pitch = p.element_bytes * padded(p.head) + 16;
  int64_t value_pitch = p.element_bytes * padded(p.value) + 16;
  int64_t parts = c.warps_k > 1 ? c.threads() / 32 * 16 * (4 * (padded(p.value) + 8) + 8) : 0;
  return c.queries() * head_pitch + c.stages * c.keys() * (head_pitch + value_pitch) + parts;
}

/// Cycles on a device like the H100, roughly; the order is what matters.
double estimate(const AttentionProblem& p, const AttentionConfig& c, const DeviceLimits& device) {
  constexpr double kStart = 1300;
  constexpr double kBytesPerCycle = 40;
  constexpr double kMultiply = 9;  // Of a warp that has its part of the processor for itself.
  auto blocks = static_cast<double>(ceil_div(p.queries, c.queries()) * p.heads);
  int64_t resident = std::min<int64_t>({device.shared_bytes / (c.shared_bytes + 1024), 1536 / c.threads(), 16});
  double waves = std::ceil(blocks / static_cast<double>(device.processors * resident));
  double beside = std::min(static_cast<double>(resident), std::ceil(blocks / device.processors));
  double tiles = static_cast<double>(ceil_div(p.keys, c.keys())) * (p.causal ? 0.6 : 1);
  auto bytes = static_cast<double>(p.element_bytes * (padded(p.head) + padded(p.value)));  // Of a key.
  double multiplications = c.warp_keys / 8.0 * bytes / 32;
  constexpr double kSoftmaxPerKey = 7;
  double busy = multiplications * kMultiply + c.warp_keys * kSoftmaxPerKey;
  double sharing = std::max(1.0, beside * c.threads() / 32 / 4);
  double load = beside * bytes * c.keys() / kBytesPerCycle;
  double merge = c.warps_k > 1 ? 150 + beside * 0.1 * static_cast<double>(p.value) * c.threads() / 32 : 0;
  return waves *
         (kStart + (c.stages == 1 ? load + busy * sharing : tiles * (150 + std::max(load, busy * sharing))) + merge);
}

std::vector<AttentionConfig> configs_of(const AttentionProblem& p, const DeviceLimits& device, size_t most) {
  std::vector<AttentionConfig> found;
  constexpr int kMostWarps = 8;
  AttentionConfig c;
  for (c.warps_q = 1; c.warps_q <= kMostWarps; c.warps_q *= 2) {
    for (c.warp_keys = 16; c.warp_keys <= 64; c.warp_keys *= 2) {
      for (c.warps_k = 1; c.warps_k <= kMostWarps; ++c.warps_k) {
        bool whole = c.keys() >= p.keys;
        bool power_of_two = (c.warps_k & (c.warps_k - 1)) == 0;
        if (c.warps_q * c.warps_k > kMostWarps || (!whole && !power_of_two)) continue;
        // Warps without a query or a key would have nothing to do.
        if (16 * (c.warps_q - 1) >= p.queries || c.warp_keys * (c.warps_k - 1) >= p.keys) continue;
        c.stages = whole ? 1 : 2;
        c.shared_bytes = shared_bytes_of(p, c);
        if (c.shared_bytes > device.shared_bytes) continue;
        c.cycles = estimate(p, c, device);
        found.push_back(c);
      }
    }
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const AttentionConfig& a, const AttentionConfig& b) { return a.cycles < b.cycles; });
  if (found.size() > most) found.resize(most);
  return found;
}

/// Configurations of attention_whole.cuh. Of more keys than four warps take 32 of, eight warps take 32 each (which
/// leaves two warps to hide each other's waiting) or four 64 (which halves the exponentials that go through shared
/// memory).
std::vector<AttentionConfig> whole_configs_of(const AttentionProblem& p, const DeviceLimits& device) {
  constexpr int64_t kMostKeys = 256;
  constexpr int kMostWarps = 16;
  std::vector<AttentionConfig> found;
  if (p.element_bytes != 2 || p.head % 32 != 0 || p.keys > kMostKeys) return found;
  auto offer = [&](KeyRoute route, int warps_q, int warp_keys) {
    AttentionConfig c{.warps_q = warps_q, .warp_keys = warp_keys, .route = route};
    while (c.keys() < p.keys) c.warps_k *= 2;
    bool even = p.value % (8 * c.warps_k) == 0;
    int64_t value_tiles = p.value / 8 / c.warps_k;
    bool idle = 16 * (warps_q - 1) >= p.queries;
    if (!even || (value_tiles % 2 != 0 && value_tiles != 1) || idle || warps_q * c.warps_k > kMostWarps) return;
    c.shared_bytes = c.keys() * (2 * padded(p.value) + 16) + c.queries() * (2 * c.keys() + 8 * c.warps_k) +
                     (route == KeyRoute::kPlaces ? 2 * warps_q * c.keys() * p.head : 0);
    if (c.shared_bytes <= device.shared_bytes) found.push_back(c);
  };
  offer(KeyRoute::kRegisters, 1, 32);
  offer(KeyRoute::kPlaces, 1, 32);
  offer(KeyRoute::kRegisters, 2, 32);
  constexpr int64_t kManyKeys = 128;
  if (p.keys > kManyKeys) offer(KeyRoute::kRegisters, 1, 64);
  return found;
}

/// Configurations of attention_warpgroups.cuh: of tiles with at most so many keys the fewest, all of about one size.
std::vector<AttentionConfig> warpgroup_configs_of(const AttentionProblem& p, const DeviceLimits& device) {
  std::vector<AttentionConfig> found;
  if (device.major != 9 || p.element_bytes != 2) return found;
  for (int groups : {1, 2}) {
    for (int64_t most : {64, 128, 32}) {
      int64_t tiles = ceil_div(p.keys, most);
      AttentionConfig c{.warps_q = 4 * groups,
                        .warp_keys = static_cast<int>(padded(ceil_div(p.keys, tiles))),
                        .stages = tiles > 1 ? 2 : 1,
                        .route = KeyRoute::kWarpgroups};
      constexpr int64_t kAlignment = 1024;
      constexpr int64_t kSegment = 64;
      int64_t head_bytes = 128 * ceil_div(p.head, kSegment);
      int64_t value_bytes = 128 * ceil_div(p.value, kSegment);
      c.shared_bytes = kAlignment + c.queries() * head_bytes + c.stages * c.keys() * (head_bytes + value_bytes);
      bool idle = 64 * (groups - 1) >= p.queries;
      bool known = std::any_of(found.begin(), found.end(),
                               [&](const AttentionConfig& other) { return other.text() == c.text(); });
      if (!idle && !known && c.shared_bytes <= device.shared_bytes) found.push_back(c);
    }
  }
  return found;
}

/// A node taken apart.
struct AttentionParts {
  Attention op;
  AttentionProblem problem;
  const TensorType *q, *k, *v, *mask;
  const TensorType* y;
};

AttentionParts take_apart(const Node& node, const KernelContext& context) {
  AttentionParts parts{.op = *node.as<Attention>(),
                       .problem = {},
                       .q = &node.input(0)->type,
                       .k = &node.input(1)->type,
                       .v = &node.input(2)->type,
                       .mask = node.inputs().size() > 3 ? &node.input(3)->type : nullptr,
                       .y = &node.output()->type};
  c10::ScalarType dtype = parts.q->dtype;
  expect(dtype == c10::kHalf || dtype == c10::kBFloat16 || dtype == c10::kFloat, "only f16, bf16 and f32");
  expect(dtype != c10::kFloat || context.allow_tf32, "f32 without TF32");
  for (const TensorType* x : {parts.q, parts.k, parts.v, parts.mask, parts.y}) {
    if (!x) continue;
    constexpr int64_t kMost = int64_t{1} << 30;
    expect(x->numel() > 0, "an empty tensor");
    expect(x->device.is_cuda(), "an operand lies in host memory");
    expect(x->storage_bytes() / static_cast<int64_t>(c10::elementSize(x->dtype)) < kMost,
           "a tensor of more than 2^30 elements");
  }
  parts.problem = {.heads = parts.q->shape[0] * parts.q->shape[1],
                   .queries = parts.q->shape[2],
                   .keys = parts.k->shape[2],
                   .head = parts.q->shape[3],
                   .value = parts.v->shape[3],
                   .element_bytes = static_cast<int64_t>(c10::elementSize(dtype)),
                   .causal = parts.op.causal};
  const AttentionProblem& p = parts.problem;
  expect(p.head % 8 == 0 && p.value % 8 == 0 && p.head <= 128 && p.value <= 128,
         "head sizes are not multiples of 8 up to 128");
  expect(parts.y->strides[3] == 1, "the result's head dimension is not innermost");
  return parts;
}

/// Strides of a mask as one of [batch, heads, queries, keys]: 0 where it is repeated.
Dims mask_strides(const TensorType* mask) {
  Dims strides(4, 0);
  if (!mask) return strides;
  size_t lead = 4 - mask->shape.size();
  for (size_t d = 0; d < mask->shape.size(); ++d) {
    if (mask->shape[d] > 1) strides[lead + d] = mask->strides[d];
  }
  return strides;
}

/// Whether there are several blocks for every processor.
bool are_many(const AttentionParts& parts, const AttentionConfig& c, const DeviceLimits& device) {
  return ceil_div(parts.problem.queries, c.queries()) * parts.problem.heads >= 2 * device.processors;
}

/// How many blocks share a processor's registers, so that they hide each other's waiting; where there are enough
/// blocks.
int64_t blocks_beside(const Node& node, const AttentionParts& parts, const AttentionConfig& c) {
  const AttentionProblem& p = parts.problem;
  constexpr int kThreadsOfTwo = 256;
  if (c.whole()) return c.threads() <= kThreadsOfTwo ? 2 : 1;
  if (!are_many(parts, c, limits_of(node))) return 1;
  if (c.route == KeyRoute::kWarpgroups) {
    // Sums of both products, the mask, and what else a thread has; the least that needs no memory.
    int64_t mask_rows = mask_strides(parts.mask)[2] == 0 ? 1 : 2;
    int64_t mask_bytes = parts.mask ? mask_rows * static_cast<int64_t>(c10::elementSize(parts.mask->dtype)) : 0;
    constexpr int64_t kOthers = 32;
    int64_t registers = c.keys() / 2 + padded(p.value) / 2 + mask_bytes * c.keys() / 16 + kOthers;
    constexpr int64_t kRegisters = 65536;
    return std::max<int64_t>(kRegisters / registers / c.threads(), 1);
  }
  constexpr int64_t kThreads = 512;
  constexpr int64_t kFewRegistersHead = 128;  // Bytes.
  bool few_registers = p.element_bytes * std::max(p.head, p.value) <= kFewRegistersHead;
  return few_registers ? std::max<int64_t>(kThreads / c.threads(), 1) : 1;
}

/// The type `Tile` of the device code, with what it needs.
std::string emit_tile(const AttentionParts& parts, const AttentionConfig& c) {
  const AttentionProblem& p = parts.problem;
  c10::ScalarType dtype = parts.q->dtype;
  std::string sizes = storage_type(dtype) + ", " + std::to_string(p.head) + ", " + std::to_string(p.value) + ", " +
                      std::to_string(c.warps_q) + ", ";
  std::string stages = std::to_string(c.warp_keys) + ", " + std::to_string(c.stages);
  if (c.route != KeyRoute::kWarpgroups)
    return "using Tile = tw::AttentionTile<" + sizes + std::to_string(c.warps_k) + ", " + stages + ">;\n";
  return emit_warpgroup_multiply("Scores", dtype, c.warp_keys) +
         emit_warpgroup_multiply("Values", dtype, padded(p.value), WarpgroupRows::kRegisters) +
         "using Tile = tw::AttentionGroups<" + sizes + stages + ", Scores, Values>;\n";
}

Program program_of(const Node& node, const AttentionParts& parts, const AttentionConfig& c) {
  bool alike = mask_strides(parts.mask)[2] == 0;
  std::string mask = parts.mask ? storage_type(parts.mask->dtype) : "tw::NoMask";
  std::string entry = c.whole() ? "attention_whole" : "attention";
  std::string header = c.route == KeyRoute::kWarpgroups ? "attention_warpgroups" : entry;
  return {.name = header,
          .text = "#include \"" + header + ".cuh\"\n" +
                  "struct Params {\n  float scale;\n  int queries, keys;\n  tw::Divider tiles, heads, group;\n"
                  "  int q[4], k[4], v[4], mask[4], y[4];\n  int vector, vector_writes, mask_pairs;\n};\n" +
                  emit_tile(parts, c) + "extern \"C\" __global__ void __launch_bounds__(Tile::threads, " +
                  std::to_string(blocks_beside(node, parts, c)) + ") kernel(" + emit_pointers(node, {}) +
                  "const __grid_constant__ Params p) {\n  tw::" + entry + "<Tile, " + mask +
                  (parts.op.causal ? ", true" : ", false") + (parts.op.nan_rows ? ", true" : ", false") +
                  (alike ? ", true" : ", false") +
                  (c.whole() ? c.route == KeyRoute::kRegisters ? ", true" : ", false" : "") + ">(x0, x1, x2, " +
                  (parts.mask ? "x3" : "static_cast<const tw::NoMask*>(nullptr)") + ", y0, p);\n}\n",
          .coarse = true};
}

/// True when 16 bytes can move at once, as far as the strides say.
bool moves_words(const TensorType& type) {
  auto chunk = static_cast<int64_t>(16 / c10::elementSize(type.dtype));
  return type.strides[3] == 1 && std::all_of(type.strides.begin(), type.strides.begin() + 3,
                                             [chunk](int64_t stride) { return stride % chunk == 0; });
}

/// True when two neighbours of the mask can be read at once, as far as strides and keys say.
bool has_pairs(const AttentionParts& parts) {
  Dims strides = mask_strides(parts.mask);
  return parts.mask && strides[3] == 1 && parts.problem.keys % 2 == 0 &&
         std::all_of(strides.begin(), strides.begin() + 3, [](int64_t stride) { return stride % 2 == 0; });
}

bool moves_words(const AttentionParts& parts) {
  return moves_words(*parts.q) && moves_words(*parts.k) && moves_words(*parts.v);
}

std::unique_ptr<Kernel> make(const Node& node, const AttentionParts& parts, const AttentionConfig& config) {
  const AttentionProblem& p = parts.problem;
  int64_t tiles = ceil_div(p.queries, config.queries());
  bool adds = parts.mask && parts.mask->dtype != c10::kBool;
  constexpr double kLog2E = 1.44269504088896340736;
  Arguments arguments;
  arguments.add(static_cast<float>(parts.op.scale * (adds ? 1 : kLog2E)));
  arguments.add(static_cast<int32_t>(p.queries));
  arguments.add(static_cast<int32_t>(p.keys));
  for (int64_t size : {tiles, parts.q->shape[1], parts.q->shape[1] / parts.k->shape[1]})
    add_size(arguments, size, "int");
  for (const Dims& strides :
       {parts.q->strides, parts.k->strides, parts.v->strides, mask_strides(parts.mask), parts.y->strides}) {
    for (int64_t stride : strides) arguments.add(static_cast<int32_t>(stride));
  }
  arguments.add(static_cast<int32_t>(moves_words(parts)));
  arguments.add(static_cast<int32_t>(moves_words(*parts.y)));
  arguments.add(static_cast<int32_t>(has_pairs(parts)));
  Shape shape{.blocks = tiles * p.heads,
              .threads = static_cast<unsigned>(config.threads()),
              .shared_bytes = static_cast<unsigned>(config.shared_bytes)};
  return make_own_kernel(node, program_of(node, parts, config), shape, std::move(arguments), {});
}

}  // namespace

void propose_attention(const Node& node, const KernelContext& context, Offers& offers) {
  if (!node.as<Attention>()) return;
  AttentionParts parts = take_apart(node, context);
  DeviceLimits limits = limits_of(node);
  expect(limits.major >= 8 || parts.q->dtype == c10::kHalf, "only f16 before sm_80");
  constexpr size_t kMostOffers = 6;
  constexpr size_t kAll = 1000;
  std::vector<AttentionConfig> configs = configs_of(parts.problem, limits, context.wanted ? kAll : kMostOffers);
  expect(!configs.empty(), "the operands of a block do not fit into shared memory");
  // On an H100 11.5 us instead of 15.1 for 384 heads of 128 keys, and 3.2 instead of 2.2 for 12.
  std::vector<AttentionConfig> groups = warpgroup_configs_of(parts.problem, limits);
  bool many = !groups.empty() && are_many(parts, groups.front(), limits);
  configs.insert(many ? configs.begin() : configs.end(), groups.begin(), groups.end());
  if (moves_words(parts)) {
    // On an H100 2.0 us instead of 2.8 for 128 keys, and as long as the others for 197 and 256.
    constexpr int64_t kSurelyFaster = 128;
    std::vector<AttentionConfig> whole = whole_configs_of(parts.problem, limits);
    bool first = parts.problem.keys <= kSurelyFaster && !many;
    configs.insert(first ? configs.begin() : configs.end(), whole.begin(), whole.end());
  }
  if (context.wanted) {
    std::erase_if(configs, [&](const AttentionConfig& config) { return !context.wanted->count(config.text()); });
    expect(!configs.empty(), kNoneWanted);
  }
  if (!context.tune) {
    size_t chosen = choose_untimed(
        node, configs.size(), [&](size_t i) { return program_of(node, parts, configs[i]); },
        [](size_t) { return int64_t{1}; });
    configs = {configs[chosen]};
  }
  for (const AttentionConfig& config : configs)
    offers.add(config.text(), [&node, parts, config] { return make(node, parts, config); });
}

}  // namespace torchweld::cuda
