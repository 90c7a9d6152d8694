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
