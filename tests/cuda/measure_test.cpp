// How often a kernel runs while it is timed; only on a GPU.
#include "conversion/measure.h"

#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/Sleep.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "tests/cuda/nodes.h"

namespace torchweld::cuda_tests {
namespace {

/// Keeps the device busy for so many cycles: all runs but the second, and that one.
class Waiting : public Kernel {
 public:
  Waiting(int64_t cycles, int64_t second) : cycles_(cycles), second_(second) {}
  void run(const StepArgs&) const override {
    ++runs;
    at::cuda::sleep(runs == 2 ? second_ : cycles_);
  }
  mutable int runs = 0;  ///< Or how often it was recorded.

 private:
  int64_t cycles_, second_;
};

class Measure : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  }
  /// Runs of a kernel, and microseconds of one.
  std::pair<int, double> measure_cycles(int64_t cycles, double hopeless, int64_t second = 0) {
    c10::InferenceMode inference;
    Case c = std::move(cases(c10::kHalf, kDevice, true).front());
    Workbench bench(c.node());
    Waiting kernel(cycles, second > 0 ? second : cycles);
    double time = measure(kernel, bench, kDevice, /*budget_ms=*/1, hopeless);
    return {kernel.runs, time};
  }
  static constexpr double kNever = std::numeric_limits<double>::infinity();
  static constexpr int64_t kLong = 20'000'000;  // About 10 ms.
  static constexpr int64_t kShort = 20'000;     // About 10 us.
};

TEST_F(Measure, ShortKernelsRunManyTimesInARow) {
  auto [runs, time] = measure_cycles(kShort, kNever);
  EXPECT_GE(runs, 2 + 8);
  EXPECT_GT(time, 5);
  EXPECT_LT(time, 100);
}

TEST_F(Measure, LongKernelsRunOnceAtATime) {
  auto [runs, time] = measure_cycles(kLong, kNever);
  EXPECT_EQ(runs, 2 + 1);  // The third is recorded.
  EXPECT_GT(time, 5'000);
}

TEST_F(Measure, HopelessKernelsAreGivenUp) {
  auto [runs, time] = measure_cycles(kLong, /*hopeless=*/200);
  EXPECT_EQ(runs, 3);
  EXPECT_GT(time, 5'000);
  EXPECT_GE(measure_cycles(kShort, /*hopeless=*/0.1).first, 2 + 8) << "what is short may be launching";
}

TEST_F(Measure, OneLongRunIsNotBelieved) {
  auto [runs, time] = measure_cycles(kShort, /*hopeless=*/200, /*second=*/kLong);
  EXPECT_GE(runs, 3 + 8);
  EXPECT_LT(time, 100);
}

}  // namespace
}  // namespace torchweld::cuda_tests
