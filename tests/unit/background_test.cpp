#include "runtime/background.h"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <stdexcept>

namespace torchweld {
namespace {

TEST(Background, DoesWorkInOrderAndCountsIt) {
  Background background;
  EXPECT_EQ(background.finish(), 0);
  std::vector<int> done;
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(background.post([&done, i] { done.push_back(i); }, 10));
  EXPECT_EQ(background.finish(), 5);
  EXPECT_EQ(done, (std::vector<int>{0, 1, 2, 3, 4}));
}

TEST(Background, RefusesWorkWhenTooMuchIsWaiting) {
  Background background;
  std::latch begun(1), may_end(1);
  background.post(
      [&] {
        begun.count_down();
        may_end.wait();
      },
      1);
  begun.wait();
  EXPECT_TRUE(background.post([] {}, 1));
  EXPECT_FALSE(background.post([] {}, 1));
  may_end.count_down();
  EXPECT_EQ(background.finish(), 2);
  EXPECT_TRUE(background.post([] {}, 1));
}

TEST(Background, GoesOnAfterAnError) {
  Background background;
  std::atomic<bool> done = false;
  background.post([] { throw std::runtime_error("no plan"); }, 10);
  background.post([&] { done = true; }, 10);
  background.finish();
  EXPECT_TRUE(done);
}

TEST(Background, ItsEndWaitsForWhatIsAtHandOnly) {
  std::latch begun(1);
  std::atomic<int> done = 0;
  {
    Background background;
    background.post(
        [&] {
          begun.count_down();
          std::this_thread::sleep_for(std::chrono::milliseconds(50));
          ++done;
        },
        10);
    background.post([&] { ++done; }, 10);
    begun.wait();
  }
  EXPECT_EQ(done, 1);
}

}  // namespace
}  // namespace torchweld
