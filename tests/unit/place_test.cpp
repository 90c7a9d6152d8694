#include "conversion/place.h"

#include <gtest/gtest.h>

#include <random>

#include "core/ops/pointwise.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

TEST(AssignOffsets, BuffersAliveTogetherNeverOverlap) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<Buffer> buffers(1 + random() % 40);
    for (Buffer& buffer : buffers) {
      buffer.bytes = 256 * (1 + random() % 20);
      buffer.begin[0] = static_cast<int>(random() % 30);
      buffer.end[0] = buffer.begin[0] + 1 + static_cast<int>(random() % 8);
    }
    int64_t size = assign_offsets(buffers);
    for (size_t i = 0; i < buffers.size(); ++i) {
      EXPECT_LE(buffers[i].offset + buffers[i].bytes, size);
      for (size_t k = i + 1; k < buffers.size(); ++k) {
        bool together = buffers[i].begin[0] < buffers[k].end[0] && buffers[k].begin[0] < buffers[i].end[0];
        bool apart = buffers[i].offset + buffers[i].bytes <= buffers[k].offset ||
                     buffers[k].offset + buffers[k].bytes <= buffers[i].offset;
        EXPECT_TRUE(!together || apart) << "round " << round << ", buffers " << i << " and " << k;
      }
    }
  }
}

TEST(AssignOffsets, AChainNeedsTwoBuffers) {
  std::vector<Buffer> buffers;
  for (int i = 0; i < 10; ++i) buffers.push_back({1024, {i}, {i + 2}});
  EXPECT_EQ(assign_offsets(buffers), 2048);
}

/// The buffers of a network, one step after another.
class Network {
 public:
  /// A step that reads values and makes one of so many bytes; returns its number.
  size_t step(std::initializer_list<size_t> inputs, int64_t bytes) { return step(std::vector<size_t>(inputs), bytes); }
  size_t step(const std::vector<size_t>& inputs, int64_t bytes) {
    for (size_t input : inputs) buffers_[input].end[0] = steps_ + 1;
    buffers_.push_back({(bytes + 255) / 256 * 256, {steps_}, {steps_ + 1}});
    ++steps_;
    return buffers_.size() - 1;
  }

  /// Size of the arena over the largest sum of what is alive at one step, which no arrangement is smaller than.
  double over_the_bound() {
    int64_t bound = 0;
    for (int step = 0; step < steps_; ++step) {
      int64_t alive = 0;
      for (const Buffer& b : buffers_) alive += b.begin[0] <= step && step < b.end[0] ? b.bytes : 0;
      bound = std::max(bound, alive);
    }
    return static_cast<double>(assign_offsets(buffers_)) / static_cast<double>(bound);
  }

 private:
  std::vector<Buffer> buffers_;
  int steps_ = 0;
};

constexpr double kNearTheBound = 1.1;

TEST(AssignOffsets, ChainsOfResidualsAreNearTheBound) {
  for (int expansion : {1, 2, 4, 6}) {
    Network net;
    int64_t bytes = 802816;
    size_t x = net.step({}, bytes);
    for (int stage = 0; stage < 4; ++stage, bytes /= 2) {
      for (int block = 0; block < 3; ++block) {
        size_t a = net.step({x}, bytes * expansion);
        size_t b = net.step({a}, bytes * expansion / (block == 0 ? 4 : 1));
        size_t c = net.step({b}, bytes);
        x = net.step({c, x}, bytes);
      }
    }
    EXPECT_LE(net.over_the_bound(), kNearTheBound) << "expansion " << expansion;
  }
}

TEST(AssignOffsets, BranchesAndConcatenationsAreNearTheBound) {
  std::mt19937 random(11);
  for (int round = 0; round < 100; ++round) {
    Network net;
    size_t x = net.step({}, 288 * 35 * 35 * 2);
    for (int block = 0; block < 8; ++block) {
      int64_t pixels = block < 3 ? 35 * 35 : block < 6 ? 17 * 17 : 8 * 8;
      std::vector<size_t> branches;
      int64_t channels = 0;
      for (int branch = 0; branch < 4; ++branch) {
        size_t y = x;
        int64_t of_branch = 0;
        for (unsigned depth = 0; depth <= random() % 4; ++depth) {
          of_branch = 32 * (1 + static_cast<int64_t>(random() % 10));
          y = net.step({y}, of_branch * pixels * 2);
        }
        channels += of_branch;
        branches.push_back(y);
      }
      x = net.step(branches, channels * pixels * 2);
    }
    EXPECT_LE(net.over_the_bound(), kNearTheBound) << "round " << round;
  }
}

TEST(AssignOffsets, NetworksShapedLikeAUAreNearTheBound) {
  for (int levels = 2; levels <= 6; ++levels) {
    for (int growth : {1, 2}) {  // of channels where pixels become a quarter
      Network net;
      int64_t bytes = 64 * 256 * 256;
      size_t x = net.step({}, bytes);
      std::vector<std::pair<size_t, int64_t>> skips;
      for (int level = 0; level < levels; ++level) {
        x = net.step({net.step({x}, bytes)}, bytes);
        skips.emplace_back(x, bytes);
        x = net.step({x}, bytes / 4);
        bytes = bytes / 4 * growth;
      }
      x = net.step({net.step({x}, bytes)}, bytes);
      for (auto skip = skips.rbegin(); skip != skips.rend(); ++skip) {
        size_t up = net.step({x}, skip->second);
        size_t both = net.step({up, skip->first}, 2 * skip->second);
        x = net.step({net.step({both}, skip->second)}, skip->second);
      }
      EXPECT_LE(net.over_the_bound(), kNearTheBound) << levels << " levels, growth " << growth;
    }
  }
}

TEST(AssignOffsets, ConcatenationsThatGrowAreNearTheBound) {
  Network net;
  for (int64_t pixels : {56 * 56, 28 * 28, 14 * 14, 7 * 7}) {
    std::vector<size_t> features{net.step({}, 64 * pixels * 2)};
    for (int64_t layer = 0; layer < 12; ++layer) {
      size_t all = net.step(features, (64 + 32 * layer) * pixels * 2);
      features.push_back(net.step({net.step({all}, 128 * pixels * 2)}, 32 * pixels * 2));
    }
  }
  EXPECT_LE(net.over_the_bound(), kNearTheBound);
}

TEST(AssignOffsets, RandomNetworksAreNearTheBound) {
  std::mt19937 random(5);
  double sum = 0;
  double worst = 0;
  constexpr int kRounds = 300;
  for (int round = 0; round < kRounds; ++round) {
    Network net;
    size_t last = net.step({}, 1 << 16);
    size_t steps = 20 + random() % 100;
    for (size_t i = 1; i < steps; ++i) {
      // Mostly the last value, now and then an older one, too.
      std::vector<size_t> inputs{last};
      if (random() % 3 == 0) inputs.push_back(last - random() % std::min<size_t>(last + 1, 8));
      last = net.step(inputs, 4096 * (1 + static_cast<int64_t>(random() % 64)));
    }
    double ratio = net.over_the_bound();
    sum += ratio;
    worst = std::max(worst, ratio);
  }
  EXPECT_LE(sum / kRounds, 1.01);
  EXPECT_LE(worst, 1.15);
}

TEST(FreeView, FollowsTheStrides) {
  Graph graph;
  Value* x = graph.add_input(contiguous_type(c10::kFloat, {2, 6, 4}, c10::kCPU));
  int64_t offset = -1;
  Value* rows = graph.add(Slice{.axis = 1, .start = 2, .end = 5, .step = 1}, {x});
  EXPECT_TRUE(is_free_view(*rows->producer(), &offset));
  EXPECT_EQ(offset, 8);
  Value* turned = graph.add(Permute{.order = {2, 0, 1}}, {x});
  EXPECT_TRUE(is_free_view(*turned->producer(), &offset));
  EXPECT_EQ(offset, 0);
  // Row-major order of the turned tensor is not the order in memory: this reshape has to copy.
  Value* flat = graph.add(Reshape{.shape = {48}}, {turned});
  EXPECT_FALSE(is_free_view(*flat->producer(), &offset));
  Value* sum = graph.add(Pointwise{.fn = "relu"}, {x});
  EXPECT_FALSE(is_free_view(*sum->producer(), &offset));
}

}  // namespace
}  // namespace torchweld
