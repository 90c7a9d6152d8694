// Times of blocks against their parts, and of products and attention by every offer; only on a GPU, and only when
// TORCHWELD_BLOCK_TIMES, TORCHWELD_PRODUCT_TIMES, TORCHWELD_GROUP_TIMES, TORCHWELD_WINDOW_TIMES,
// TORCHWELD_DEPTHWISE_TIMES or TORCHWELD_ATTENTION_TIMES is set.
#include <ATen/cuda/CUDAContext.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "conversion/measure.h"
#include "conversion/passes/groups.h"
#include "conversion/place.h"
#include "conversion/workers.h"
#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/resize.h"
#include "kernels/cuda/excited_residual.h"
#include "kernels/cuda/inverted_residual.h"
#include "kernels/cuda/pooled_blocks.h"
#include "kernels/cuda/stem.h"
#include "tests/cuda/blocks.h"
#include "tests/cuda/conv_nodes.h"
#include "tests/cuda/transformer_nodes.h"

namespace torchweld::cuda_tests {
namespace {

struct Timed {
  std::string what;
  double microseconds = 0;
};

/// Offers for a part of a block. Those of libraries take long to build: only when TORCHWELD_BLOCK_PARTS is set.
Offers part_offers(const Node& part) {
  bool all = std::getenv("TORCHWELD_BLOCK_PARTS") != nullptr;
  Offers found = offers_for(part, {});
  Offers kept;
  for (const Offers::Offer& offer : found.offers()) {
    bool ours = offer.tactic.starts_with("cuda_") && offer.tactic != "cuda_direct_conv";
    if (!all && !ours) continue;
    kept.set_tactic(offer.tactic);
    kept.add(offer.config, offer.build);
  }
  return kept;
}

/// Every offer that builds and runs, in the order of the offers.
std::vector<Timed> time_offers(const Node& node, const Offers& offers) {
  std::vector<std::shared_ptr<Kernel>> kernels(offers.offers().size());
  for_each_in_parallel(kernels.size(), c10::kCPU, [&](size_t i) {
    try {
      kernels[i] = offers.offers()[i].build();
    } catch (const std::exception& error) {
      std::printf("%s %s: %s\n", offers.offers()[i].tactic.c_str(), offers.offers()[i].config.c_str(), error.what());
    }
  });
  cudaDeviceSynchronize();
  Workbench bench(node);
  std::vector<Timed> times;
  for (size_t i = 0; i < kernels.size(); ++i) {
    if (!kernels[i]) continue;
    const Offers::Offer& offer = offers.offers()[i];
    times.push_back({offer.tactic + " " + offer.config, measure(*kernels[i], bench, kDevice, 2)});
  }
  return times;
}

Timed best_of(const std::vector<Timed>& times) {
  Timed best{"nothing", 0};
  for (const Timed& t : times) {
    if (best.microseconds == 0 || t.microseconds < best.microseconds) best = t;
  }
  return best;
}

struct BlockTime {
  double block = 0;  ///< Of the fastest offer; 0 when there is none.
  double parts = 0;
};

/// Times and prints a block, with the first `most` configurations of tactics that rank many, and its parts.
BlockTime time_block(const Case& c, size_t most) {
  Offers offers;
  auto offer = [&](auto propose) {
    try {
      propose(c.node(), offers);
    } catch (const Unsupported&) {
    }
  };
  offers.set_tactic("block");
  offer([&](const Node& n, Offers& o) { cuda::propose_excited_residual(n, {}, o); });
  offer([&](const Node& n, Offers& o) { cuda::offer_inverted_residuals(n, most, o); });
  offer([&](const Node& n, Offers& o) { cuda::offer_stems(n, most, o); });
  offer([&](const Node& n, Offers& o) { cuda::propose_squeeze_excite(n, {}, o); });
  offer([&](const Node& n, Offers& o) { cuda::propose_pooled_linear(n, {}, o); });
  std::vector<Timed> times = time_offers(c.node(), offers);
  double parts = 0;
  std::string what;
  auto graph = parts_of(c.node());
  for (const auto& node : graph->nodes()) {
    int64_t view = 0;
    if (node->as<Constant>() || is_free_view(*node, &view)) continue;
    Timed best = best_of(time_offers(*node, part_offers(*node)));
    parts += best.microseconds;
    what += (what.empty() ? "" : " + ") + best.what + " " + std::to_string(best.microseconds);
  }
  Timed best = best_of(times);
  std::printf("%s: block %.2f us (%s), parts %.2f us (%s)\n", c.name.c_str(), best.microseconds, best.what.c_str(),
              parts, what.c_str());
  for (const Timed& t : times) std::printf("    %s %.2f\n", t.what.c_str(), t.microseconds);
  std::fflush(stdout);
  return {best.microseconds, parts};
}

/// TORCHWELD_BLOCK_TIMES: how many configurations; 0 when nothing is to be timed.
size_t wanted_configurations() {
  const char* wanted = std::getenv("TORCHWELD_BLOCK_TIMES");
  return wanted && at::cuda::is_available() ? static_cast<size_t>(std::max(1, std::atoi(wanted))) : 0;
}

TEST(BlockTimes, AgainstTheirParts) {
  size_t most = wanted_configurations();
  if (most == 0) GTEST_SKIP() << "not asked for, or no CUDA device";
  c10::InferenceMode inference;
  for (const char* network : {"MobileNetV2", "MobileNetV3-L", "EfficientNet-B0"}) {
    double all = 0;
    double all_parts = 0;
    for (const auto& [c, count] : blocks_of_network(network)) {
      BlockTime time = time_block(c, most);
      std::printf("    x%d\n", count);
      all += count * (time.block > 0 ? std::min(time.block, time.parts) : time.parts);
      all_parts += count * time.parts;
    }
    std::printf("%s: blocks %.1f us, parts %.1f us\n", network, all, all_parts);
  }
}

TEST(BlockTimes, StemsAgainstTheirParts) {
  size_t most = wanted_configurations();
  if (most == 0) GTEST_SKIP() << "not asked for, or no CUDA device";
  c10::InferenceMode inference;
  for (const Case& c : stems_of_networks(c10::kHalf, true)) EXPECT_GT(time_block(c, most).block, 0) << c.name;
}

/// Prints times, the shortest first.
void print_sorted(std::vector<Timed> times) {
  std::sort(times.begin(), times.end(), [](const Timed& a, const Timed& b) { return a.microseconds < b.microseconds; });
  for (const Timed& t : times) std::printf("    %s %.2f\n", t.what.c_str(), t.microseconds);
  std::fflush(stdout);
}

/// Times and prints a node by every offer, or by all of some tactics.
void print_offers(const Case& c, const std::vector<std::string>& tactics = {""}) {
  std::vector<Timed> times;
  for (const std::string& tactic : tactics) {
    for (const Timed& t : time_offers(c.node(), offers_for(c.node(), {}, tactic))) times.push_back(t);
  }
  std::printf("%s\n", c.name.c_str());
  print_sorted(times);
}

/// The same for a block, and for each of its parts.
void print_offers_with_parts(const Case& c) {
  print_offers(c);
  auto graph = parts_of(c.node());
  for (const auto& node : graph->nodes()) {
    if (node->as<Constant>()) continue;
    std::printf("  part %s\n", to_string(node->output()->type).c_str());
    print_sorted(time_offers(*node, offers_for(*node, {})));
  }
}

// TORCHWELD_PRODUCT_TIMES: the rows.
TEST(ProductTimes, OfAnEncoderLayerByEveryOffer) {
  const char* rows = std::getenv("TORCHWELD_PRODUCT_TIMES");
  if (!rows || !at::cuda::is_available()) GTEST_SKIP() << "not asked for, or no CUDA device";
  c10::InferenceMode inference;
  for (c10::ScalarType dtype : {c10::kHalf, c10::kFloat}) {
    for (const Case& c : encoder_products(dtype, kDevice, std::max(1, std::atoi(rows)))) {
      print_offers(c);
    }
  }
}

TEST(ProductTimes, OfDeferredNormsByEveryOffer) {
  if (!std::getenv("TORCHWELD_PRODUCT_TIMES") || !at::cuda::is_available())
    GTEST_SKIP() << "not asked for, or no CUDA device";
  c10::InferenceMode inference;
  for (const Case& c : deferred_norms(c10::kHalf, kDevice, true)) {
    constexpr int64_t kManyNumbers = 50000;
    if (c.node().input(0)->type.numel() > kManyNumbers) print_offers_with_parts(c);
  }
}

// TORCHWELD_GROUP_TIMES: the images. Libraries are asked about small layers too.
TEST(ProductTimes, OfGroupsByEveryOffer) {
  const char* images = std::getenv("TORCHWELD_GROUP_TIMES");
  if (!images || !at::cuda::is_available()) GTEST_SKIP() << "not asked for, or no CUDA device";
  c10::InferenceMode inference;
  for (const Case& c : grouped_layers(c10::kHalf, kDevice, std::max(1, std::atoi(images))))
    print_offers(c, {"cuda_implicit_gemm", "cudnn_conv", "cuda_direct_conv"});
}

// Large windows: those of DeepLabV3, and of the last stage of ResNet50 at batch 32.
TEST(ProductTimes, OfLargeWindowsByEveryOffer) {
  if (!std::getenv("TORCHWELD_WINDOW_TIMES") || !at::cuda::is_available())
    GTEST_SKIP() << "not asked for, or no CUDA device";
  c10::InferenceMode inference;
  auto print = [](const char* name, const Dims& x, int64_t outputs, int64_t dilation) {
    ConvSpec spec{.name = name,
                  .x = x,
                  .outputs = outputs,
                  .window = {3, 3},
                  .padding = {dilation, dilation},
                  .dilation = {dilation, dilation},
                  .after = ConvSpec::After::kRelu};
    print_offers(conv_case(spec, c10::kHalf, kDevice, true));
  };
  print("pyramid12", {1, 2048, 64, 64}, 256, 12);
  print("pyramid24", {1, 2048, 64, 64}, 256, 24);
  print("pyramid36", {1, 2048, 64, 64}, 256, 36);
  print("pyramid24 batch 8", {8, 2048, 64, 64}, 256, 24);
  print("last_stage2", {1, 512, 64, 64}, 512, 2);
  print("last_stage4", {1, 512, 64, 64}, 512, 4);
  print("resnet50 batch 32", {32, 512, 7, 7}, 512, 1);
}

// TORCHWELD_DEPTHWISE_TIMES: the images. Layers of MobileNets and EfficientNets, and of ConvNeXt.
TEST(ProductTimes, OfDepthwiseLayersByEveryOffer) {
  const char* images = std::getenv("TORCHWELD_DEPTHWISE_TIMES");
  if (!images || !at::cuda::is_available()) GTEST_SKIP() << "not asked for, or no CUDA device";
  c10::InferenceMode inference;
  struct Layer {
    int64_t window, channels, size, stride;
  };
  for (const Layer& layer : {Layer{3, 32, 112, 1}, Layer{3, 144, 56, 1}, Layer{3, 384, 14, 1}, Layer{3, 576, 14, 1},
                             Layer{3, 576, 14, 2}, Layer{3, 960, 7, 1}, Layer{5, 120, 28, 1}, Layer{5, 672, 14, 1},
                             Layer{5, 672, 14, 2}, Layer{5, 960, 7, 1}, Layer{5, 1152, 7, 1}, Layer{7, 384, 14, 1}}) {
    std::string name = std::to_string(layer.window) + "x" + std::to_string(layer.window) + " " +
                       std::to_string(layer.channels) + " channels of " + std::to_string(layer.size) + ", stride " +
                       std::to_string(layer.stride);
    ConvSpec spec{.name = name.c_str(),
                  .x = {std::max(1, std::atoi(images)), layer.channels, layer.size, layer.size},
                  .outputs = layer.channels,
                  .window = {layer.window, layer.window},
                  .stride = {layer.stride, layer.stride},
                  .padding = {layer.window / 2, layer.window / 2},
                  .groups = layer.channels,
                  .after = ConvSpec::After::kRelu6};
    print_offers(conv_case(spec, c10::kHalf, kDevice, true), {"cuda_depthwise"});
  }
}

// The class scores of a segmentation network.
TEST(ProductTimes, OfInterpolatedScores) {
  const char* images = std::getenv("TORCHWELD_DEPTHWISE_TIMES");
  if (!images || !at::cuda::is_available()) GTEST_SKIP() << "not asked for, or no CUDA device";
  c10::InferenceMode inference;
  auto graph = std::make_unique<Graph>();
  Dims shape = {std::max(1, std::atoi(images)), 21, 64, 64};
  Value* x = graph->add_input({c10::kHalf, shape, channels_last_strides(shape), kDevice});
  Value* y = graph->add(Resize{.mode = "linear", .output = {512, 512}, .scales = {}}, {x});
  y->type.device = kDevice;
  graph->add_output(y);
  print_offers({"scores", std::move(graph)}, {"cuda_resize"});
}

TEST(AttentionTimes, OfEncodersByEveryOffer) {
  if (!std::getenv("TORCHWELD_ATTENTION_TIMES") || !at::cuda::is_available())
    GTEST_SKIP() << "not asked for, or no CUDA device";
  c10::InferenceMode inference;
  for (const Case& c : encoder_attention(c10::kHalf, kDevice)) print_offers(c);
}

}  // namespace
}  // namespace torchweld::cuda_tests
