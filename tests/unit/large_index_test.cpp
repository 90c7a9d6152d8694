// Positions and offsets beyond 2^31. Tensors so large take no memory here: most of one is never touched, or its rows
// overlap.
#include <ATen/ops/arange.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones.h>

#include "kernels/cpu/block_runner.h"
#include "tests/unit/cpu_offers.h"
#ifdef TORCHWELD_WITH_CUDA
#include "kernels/cuda/codegen.h"
#endif

namespace torchweld {
namespace {

constexpr int64_t kRows = (int64_t{1} << 21) + 2;
constexpr int64_t kColumns = 1024;

TEST(LargeIndex, Blocks) {
  constexpr int64_t kCount = 3 * kColumns;  // 2^31 lies between
  for (const Dims& strides : {Dims{kColumns, 1}, Dims{1, kRows}, Dims{0, 1}}) {
    TensorType type{.dtype = c10::kByte, .shape = {kRows, kColumns}, .strides = strides};
    auto graph = Graph::parse("graph(%x: " + to_string(type) + ") {\n %y = copy{strides=[1024,1]}(%x)\n return %y\n}");
    cpu::BlockRunner runner(cpu::compile_blocks(*graph->nodes().back()));
    at::Tensor x = empty_tensor(graph->inputs()[0]->type);
    at::Tensor y = empty_tensor(graph->outputs()[0]->type);
    at::Tensor last_rows = x.narrow(0, kRows - 3, strides[0] ? 3 : 1);
    last_rows.copy_(at::arange(last_rows.numel()).remainder(100).view(last_rows.sizes()));
    const void* in[] = {x.const_data_ptr()};
    void* out[] = {y.mutable_data_ptr()};
    runner.run(in, out, x.numel() - kCount, x.numel());
    EXPECT_TRUE(y.narrow(0, kRows - 3, 3).equal(last_rows.expand({3, kColumns}))) << to_string(strides);
  }
}

TEST(LargeIndex, Sums) {
  TensorType type{.dtype = c10::kFloat, .shape = {kRows, kColumns}, .strides = {2, 1}};
  at::Tensor x = at::ones({2 * kRows + kColumns}).as_strided(type.shape, type.strides);
  for (const char* axes : {"[0,1]", "[0]", "[1]"}) {
    auto graph = Graph::parse("graph(%x: " + to_string(type) + ") {\n %y = reduce{kind=\"sum\", axes=" + axes +
                              ", keepdim=false, parameter=1}(%x)\n return %y\n}");
    Offers offers = offers_for(*graph->nodes().back(), {});
    ASSERT_EQ(offers.offers().front().tactic, "cpu_reduce");
    at::Tensor y = test::run_offer(*graph, offers.offers().front(), {x}).front();
    EXPECT_TRUE(y.equal(at::full_like(y, static_cast<double>(x.numel() / y.numel())))) << axes;
  }
}

#ifdef TORCHWELD_WITH_CUDA
TEST(LargeIndex, TypeInDeviceCode) {
  constexpr int64_t kMost = int64_t{1} << 30;
  auto index_type = [](Dims sizes, Dims strides, int64_t other_extent) {
    cuda::Loops loops{.sizes = std::move(sizes), .operands = {}, .other_extent = other_extent};
    loops.operands.push_back({.name = "x0", .strides = std::move(strides)});
    return loops.index_type();
  };
  EXPECT_EQ(index_type({kMost - 1}, {1}, 0), "int");
  EXPECT_EQ(index_type({kMost}, {0}, 0), "long long");  // positions
  EXPECT_EQ(index_type({2, 3}, {kMost - 3, 1}, 0), "int");
  EXPECT_EQ(index_type({2, 3}, {kMost - 2, 1}, 0), "long long");    // an operand's offsets
  EXPECT_EQ(index_type({1, 3}, {4 * kMost, 1}, kMost - 1), "int");  // that stride is never taken
  EXPECT_EQ(index_type({2, 3}, {3, 1}, kMost), "long long");        // what the kernel reads beside its operands
}
#endif

}  // namespace
}  // namespace torchweld
