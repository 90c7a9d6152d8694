// Which tactics are asked for offers; no GPU is needed.
#include <gtest/gtest.h>

#include "kernels/cuda/own_kernel.h"
#include "tests/cuda/conv_nodes.h"

namespace torchweld::cuda_tests {
namespace {

/// Why a tactic makes no offer for a 3x3 convolution of so many images; empty when it makes one.
std::string refusal_of(const std::string& tactic, int64_t batch) {
  cuda::CollectPrograms nothing_is_compiled([](const cuda::Program&) {});
  Case c = conv_case({.name = "conv", .x = {batch, 64, 28, 28}, .outputs = 64, .window = {3, 3}, .padding = {1, 1}},
                     c10::kHalf, kDevice, false);
  Offers offers = offers_for(c.node(), {});
  for (const auto& [name, reason] : offers.refusals()) {
    if (name == tactic) return reason;
  }
  return "";
}

TEST(Offers, LibrariesAreAskedAboutLargeLayersOnly) {
  const std::string small = "a kernel ahead of it is expected to be faster than it has ever been";
  EXPECT_EQ(refusal_of("cuda_implicit_gemm", 1), "");
  EXPECT_EQ(refusal_of("cudnn_conv", 1), small);
  EXPECT_EQ(refusal_of("cuda_implicit_gemm", 64), "");
  EXPECT_NE(refusal_of("cudnn_conv", 64), small);
}

}  // namespace
}  // namespace torchweld::cuda_tests
