// Timing two ways side by side, and what is timed.
#include "conversion/measure.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace torchweld {
namespace {

TEST(Contest, TellsTheSlowerWay) {
  int firsts = 0;
  int seconds = 0;
  auto wait = [](int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); };
  auto first = [&] {
    ++firsts;
    wait(6);
  };
  auto second = [&] {
    ++seconds;
    wait(1);
  };
  Contest times = contest(first, second, c10::kCPU, /*budget_ms=*/1);
  EXPECT_GT(times.first, times.second);
  EXPECT_GE(times.first, 6000);
  EXPECT_EQ(firsts, seconds);
}

TEST(RandomTensor, FillsExpandedAndPaddedTypes) {
  at::Tensor expanded = torchweld::random_tensor({.dtype = c10::kFloat, .shape = {2, 3, 4}, .strides = {4, 0, 1}});
  EXPECT_TRUE(expanded.strides() == (c10::IntArrayRef{4, 0, 1}));
  EXPECT_TRUE(expanded.select(1, 0).equal(expanded.select(1, 2)));
  EXPECT_GT(expanded.std().item<float>(), 0.1F);
  at::Tensor padded = torchweld::random_tensor({.dtype = c10::kLong, .shape = {3, 5}, .strides = {8, 1}});
  EXPECT_TRUE(padded.equal(at::zeros({3, 5}, c10::kLong)));
}

}  // namespace
}  // namespace torchweld
