#include "runtime/background.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <atomic>
#include <latch>
#include <memory>
#include <stdexcept>
#include <thread>

namespace torchweld {
namespace {

/// Gives the thread a piece of work that lasts until `may_end`, and returns when it has begun.
void occupy(Background& background, std::latch& may_end) {
  auto begun = std::make_shared<std::latch>(1);
  background.post([begun, &may_end] {
    begun->count_down();
    may_end.wait();
  });
  begun->wait();
}

TEST(Background, DoesWorkInOrderAndCountsIt) {
  Background background;
  EXPECT_EQ(background.finish(), 0);
  std::vector<int> done;
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(background.post([&done, i] { done.push_back(i); }));
  EXPECT_EQ(background.finish(), 5);
  EXPECT_EQ(done, (std::vector<int>{0, 1, 2, 3, 4}));
}

TEST(Background, ThreadsStartedByWorkLetCallsGoFirst) {
  auto priority = [] { return getpriority(PRIO_PROCESS, 0); };
  const int of_calls = priority();
  ASSERT_LT(of_calls, 19) << "nothing is lower";
  int of_work = of_calls;
  int of_its_thread = of_calls;
  Background background;
  background.post([&] {
    of_work = priority();
    std::thread([&] { of_its_thread = priority(); }).join();
  });
  background.finish();
  EXPECT_GT(of_work, of_calls);
  EXPECT_EQ(of_its_thread, of_work);
  EXPECT_EQ(priority(), of_calls);
}

TEST(Background, RefusesWorkWhenTooMuchIsWaiting) {
  std::latch may_end(1);
  Background background;
  occupy(background, may_end);
  int accepted = 0;
  while (accepted < 1000 && background.post([] {})) ++accepted;
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, 1000);
  may_end.count_down();
  EXPECT_EQ(background.finish(), 1 + accepted);
  EXPECT_TRUE(background.post([] {}));
}

TEST(Background, GoesOnAfterAnError) {
  Background background;
  std::atomic<bool> done = false;
  background.post([] { throw std::runtime_error("no plan"); });
  background.post([&] { done = true; });
  background.finish();
  EXPECT_TRUE(done);
}

TEST(Background, StoppingWaitsForWhatIsAtHandOnly) {
  std::latch begun(1);
  std::atomic<int> done = 0;
  Background background;
  background.post([&] {
    begun.count_down();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ++done;
  });
  background.post([&] { ++done; });
  begun.wait();
  background.stop();
  EXPECT_EQ(done, 1);
  EXPECT_FALSE(background.post([] {}));
  EXPECT_EQ(background.finish(), 1);
}

TEST(Background, AForkedProcessDoesNotWaitForIt) {
  std::latch may_end(1);
  Background background;
  occupy(background, may_end);
  pid_t child = fork();
  if (child == 0) {
    bool refused = !background.post([] {});
    background.finish();
    _exit(refused ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  may_end.count_down();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace torchweld
