// What is made of weights is found again by where it came from, and by nothing else.
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "conversion/passes/facts.h"
#include "conversion/plan.h"
#include "core/error.h"
#include "core/lazy_tensor.h"
#include "kernels/shared_constants.h"
#include "kernels/without_compiler.h"

namespace torchweld {
namespace {

std::string origin_now(const at::Tensor& weight) { return WeightMark(weight).origin(); }

/// What a plan made at once packs of `weight`: its numbers in memory of their own. Counts how often it has to.
at::Tensor pack_at_once(const at::Tensor& weight, int& packed) {
  WithoutCompiler a_call_waits;
  LazyTensor constant(weight, origin_now(weight));
  return shared_constant(origin_of("packed", {constant}), [&] {
    ++packed;
    return constant.tensor().clone();
  });
}

TEST(WeightOrigin, IsTheSameForTheSameNumbersOnly) {
  at::Tensor weight = at::ones({4});
  at::Tensor other = at::ones({4});
  std::string first = origin_now(weight);
  EXPECT_FALSE(first.empty());
  EXPECT_EQ(origin_now(weight), first);
  EXPECT_NE(origin_now(other), first);
  weight.add_(1);
  std::string written = origin_now(weight);
  EXPECT_NE(written, first);
  weight.sub_(1);
  EXPECT_NE(origin_now(weight), first);
  EXPECT_NE(origin_now(weight), written);
}

TEST(WeightOrigin, IsNewInOtherMemory) {
  at::Tensor weight = at::ones({1024});
  std::set<std::string> seen{origin_now(weight)};
  // The freed memory, and what describes it, is likely to be used again; versions stay what they were.
  for (int i = 0; i < 50; ++i) {
    weight.set_data(at::full({1024}, i));
    EXPECT_TRUE(seen.insert(origin_now(weight)).second) << i;
  }
  for (int i = 0; i < 50; ++i) {
    weight = at::full({1024}, i);
    EXPECT_TRUE(seen.insert(origin_now(weight)).second) << i;
  }
}

TEST(WeightOrigin, IsNewInAnotherShape) {
  at::Tensor weight = at::ones({2, 8});
  std::string before = origin_now(weight);
  weight.set_data(weight.view({4, 4}));
  EXPECT_NE(origin_now(weight), before);
}

TEST(WeightOrigin, IsUnknownWhereWritesAreNotCounted) {
  c10::InferenceMode uncounted;
  EXPECT_EQ(origin_now(at::ones({4})), "");
}

TEST(WeightOrigin, IsUnknownOfAnEarlierState) {
  at::Tensor weight = at::ones({4});
  WeightMark mark(weight);
  weight.add_(1);
  EXPECT_FALSE(mark.is_current());
  EXPECT_EQ(mark.origin(), "");
}

TEST(WeightMark, KnowsMemoryThatIsUsedAgain) {
  at::Tensor weight = at::ones({1024});
  for (int i = 0; i < 50; ++i) {
    WeightMark mark(weight);
    weight.set_data(at::full({1024}, i));
    EXPECT_FALSE(mark.is_current()) << i;
  }
}

TEST(WeightMark, NoticesAnotherPartOrOrderOfTheSameMemory) {
  at::Tensor bank = at::ones({2, 4, 4});
  const at::Tensor others[] = {bank[1], bank[0].t(), bank[0].narrow(0, 0, 2)};
  for (const at::Tensor& other : others) {
    at::Tensor weight = bank[0].clone();
    weight.set_data(bank[0]);
    WeightMark mark(weight);
    EXPECT_TRUE(mark.is_current());
    std::string before = mark.origin();
    weight.set_data(other);
    EXPECT_FALSE(mark.is_current());
    EXPECT_EQ(mark.origin(), "");
    EXPECT_NE(origin_now(weight), before);
  }
}

TEST(SharedConstant, IsPackedOnceForAllPlansThatLive) {
  at::Tensor weight = at::ones({4});
  int packed = 0;
  at::Tensor first = pack_at_once(weight, packed);
  EXPECT_TRUE(pack_at_once(weight, packed).is_same(first));
  EXPECT_EQ(packed, 1);
  first.reset();  // No plan holds it any more.
  first = pack_at_once(weight, packed);
  EXPECT_EQ(packed, 2);
  weight.add_(1);
  at::Tensor second = pack_at_once(weight, packed);
  EXPECT_EQ(packed, 3);
  EXPECT_EQ(second[0].item<float>(), 2);
  EXPECT_EQ(first[0].item<float>(), 1);
}

TEST(SharedConstant, IsPackedAgainWhereNoCallWaits) {
  at::Tensor weight = at::ones({4});
  int packed = 0;
  at::Tensor first = pack_at_once(weight, packed);
  // Written behind the version counter's back.
  weight.variable_data().add_(1);
  EXPECT_TRUE(pack_at_once(weight, packed).is_same(first));
  std::string origin = origin_of("packed", {LazyTensor(weight, origin_now(weight))});
  at::Tensor second = shared_constant(origin, [&] { return weight.clone(); });
  EXPECT_EQ(second[0].item<float>(), 2);
  EXPECT_TRUE(pack_at_once(weight, packed).is_same(second));
}

TEST(SharedConstant, IsNeverSharedWhereTheOriginIsUnknown) {
  c10::InferenceMode uncounted;
  at::Tensor weight = at::ones({4});
  int packed = 0;
  at::Tensor first = pack_at_once(weight, packed);
  at::Tensor second = pack_at_once(weight, packed);
  EXPECT_EQ(packed, 2);
  EXPECT_FALSE(first.is_same(second));
}

TEST(SharedConstant, KeepsUpWithAThreadThatWrites) {
  at::Tensor weight = at::zeros({1 << 12});
  std::atomic<bool> stop{false};
  auto look = [&] {
    std::vector<at::Tensor> held;
    while (!stop) {
      int packed = 0;
      held.push_back(pack_at_once(weight, packed));
      if (held.size() > 64) held.clear();
    }
  };
  std::thread one(look), two(look);
  for (int i = 0; i < 300; ++i) {
    weight.add_(1);
    int packed = 0;
    EXPECT_EQ(pack_at_once(weight, packed)[0].item<float>(), i + 1);
  }
  stop = true;
  one.join();
  two.join();
}

TEST(SharedConstant, ManyThatAreGoneAreForgotten) {
  int packed = 0;
  for (int i = 0; i < 5000; ++i) pack_at_once(at::full({2}, i), packed);
  EXPECT_EQ(packed, 5000);
}

TEST(LazyTensor, IsComputedAtTheFirstReadAndOnce) {
  std::atomic<int> computed{0};
  LazyTensor source(at::ones({3}), "weight a");
  LazyTensor sum = LazyTensor::derived("sum", {source, source}, source.type(), [&](const std::vector<at::Tensor>& in) {
    ++computed;
    return at::add(in[0], in[1]);
  });
  LazyTensor copy = sum;
  EXPECT_EQ(computed, 0);
  EXPECT_EQ(copy.size(0), 3);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { EXPECT_EQ(sum.tensor()[0].item<float>(), 2); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(computed, 1);
  EXPECT_TRUE(copy.tensor().is_same(sum.tensor()));
}

TEST(LazyTensor, GetsTheStridesThatItsTypeSays) {
  TensorType type{c10::kFloat, {2, 3}, {1, 2}, c10::kCPU};
  LazyTensor turned = LazyTensor::derived("turned", {}, type, [](const auto&) { return at::ones({2, 3}); });
  EXPECT_EQ(turned.tensor().stride(1), 2);
}

TEST(LazyTensor, OfAnotherTypeThanItSaysIsRefused) {
  TensorType type = contiguous_type(c10::kFloat, {2}, c10::kCPU);
  LazyTensor wrong = LazyTensor::derived("wrong", {}, type, [](const auto&) { return at::ones({3}); });
  EXPECT_THROW(wrong.tensor(), InternalError);
}

TEST(LazyTensor, OriginsTellWhatWasDoneWithWhat) {
  LazyTensor a(at::ones({2}), "weight a"), b(at::ones({2}), "weight b"), unknown(at::ones({2}));
  std::set<std::string> origins{origin_of("sum", {a, b}), origin_of("sum", {b, a}), origin_of("product", {a, b}),
                                origin_of("sum", {a}), origin_of("sum", {a, LazyTensor()})};
  EXPECT_EQ(origins.size(), 5u);
  EXPECT_FALSE(origins.count(""));
  EXPECT_EQ(origin_of("sum", {a, unknown}), "");
  // However much has been done.
  LazyTensor chain = a;
  for (int i = 0; i < 40; ++i)
    chain = LazyTensor::derived("sum", {chain, chain}, a.type(), [](const auto& in) { return at::add(in[0], in[1]); });
  EXPECT_LT(chain.origin().size(), 500u);
  EXPECT_FALSE(chain.origin().empty());
}

TEST(Facts, AreRememberedOfKnownNumbersForCallsThatWait) {
  at::Tensor weight = at::ones({4});
  int looks = 0;
  auto ask = [&] {
    return fact(LazyTensor(weight, origin_now(weight)), "all are 1", [&](const at::Tensor& tensor) {
      ++looks;
      return tensor.eq(1).all().item<bool>();
    });
  };
  EXPECT_TRUE(ask());
  EXPECT_TRUE(ask());
  EXPECT_EQ(looks, 2);  // No call waits.
  WithoutCompiler a_call_waits;
  EXPECT_TRUE(ask());
  EXPECT_EQ(looks, 2);
  weight.add_(1);
  EXPECT_FALSE(ask());
  EXPECT_EQ(looks, 3);
}

}  // namespace
}  // namespace torchweld
