// Timing two ways side by side.
#include "conversion/measure.h"

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

}  // namespace
}  // namespace torchweld
