// Lanes: who has to come after whom, where branches go, and that no order which lanes and waits allow mixes values up.
#include "conversion/lanes.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "conversion/place.h"

namespace torchweld {
namespace {

using Kind = Storage::Kind;

class NoKernel : public Kernel {
 public:
  NoKernel(bool may_overlap, int64_t workspace) : may_overlap_(may_overlap), workspace_(workspace) {}
  void run(const StepArgs&) const override {}
  bool may_overlap() const override { return may_overlap_; }
  int64_t workspace_bytes() const override { return workspace_; }

 private:
  bool may_overlap_;
  int64_t workspace_;
};

/// A plan by hand. Values are bytes; slots go by their numbers, steps by the order in which they are added.
struct Builder {
  Plan plan;

  int value(const Dims& shape, Kind kind = Kind::kArena) {
    Storage storage;
    storage.kind = kind;
    storage.type = contiguous_type(c10::kByte, shape, c10::kCPU);
    storage.bytes = storage.type.storage_bytes();
    plan.storages.push_back(storage);
    plan.slots.push_back({storage.type, static_cast<int>(plan.storages.size()) - 1, 0, false});
    return static_cast<int>(plan.slots.size()) - 1;
  }
  /// Part of a value along one dimension.
  int slice(int of, int axis, int64_t start, int64_t length) {
    Slot slot = plan.slots[of];
    slot.element_offset += start * slot.type.strides[axis];
    slot.type.shape[axis] = length;
    slot.is_view = true;
    plan.slots.push_back(slot);
    return static_cast<int>(plan.slots.size()) - 1;
  }
  /// A contiguous value as one row.
  int flat(int of) {
    Slot slot = plan.slots[of];
    slot.type = contiguous_type(c10::kByte, {slot.type.numel()}, c10::kCPU);
    slot.is_view = true;
    plan.slots.push_back(slot);
    return static_cast<int>(plan.slots.size()) - 1;
  }
  void step(std::vector<int> inputs, std::vector<int> outputs, double microseconds = 10, bool may_overlap = true,
            int64_t workspace = 0) {
    Step step{.kernel = std::make_shared<NoKernel>(may_overlap, workspace),
              .inputs = std::move(inputs),
              .outputs = std::move(outputs),
              .waits = {},
              .tactic = "",
              .origin = "",
              .microseconds = microseconds,
              .attrs = Attrs(nullptr, nullptr)};
    plan.steps.push_back(std::move(step));
  }
  /// A step with a result of its own.
  int apply(std::vector<int> inputs, double microseconds = 10) {
    int out = value({1024});
    step(std::move(inputs), {out}, microseconds);
    return out;
  }
  std::vector<int> lanes() const {
    std::vector<int> lanes;
    for (const Step& step : plan.steps) lanes.push_back(step.lane);
    return lanes;
  }
};

using After = std::vector<std::vector<int>>;

TEST(Dependences, AValueIsReadBehindItsWriter) {
  Builder b;
  int x = b.value({8}, Kind::kInput);
  int y = b.apply({x});
  int left = b.apply({y});
  int right = b.apply({y});
  b.apply({left, right, x});
  EXPECT_EQ(dependences(b.plan), (After{{}, {0}, {0}, {1, 2}}));
}

TEST(Dependences, WritesInPlaceKeepTheirOrder) {
  Builder b;
  int x = b.value({8}, Kind::kInput);
  int y = b.apply({x});
  b.apply({y});
  b.step({y}, {y});  // behind the writer and the reader
  b.apply({y});
  b.step({x}, {y});
  EXPECT_EQ(dependences(b.plan), (After{{}, {0}, {0, 1}, {0, 2}, {0, 1, 2, 3}}));
}

TEST(Dependences, SlicesOfAConcatenationAreApart) {
  for (int axis : {0, 1, 2}) {
    Builder b;
    int x = b.value({8}, Kind::kInput);
    int whole = b.value({6, 6, 6});
    int left = b.slice(whole, axis, 0, 2);
    int right = b.slice(whole, axis, 2, 4);
    int inner = b.slice(right, (axis + 1) % 3, 3, 3);  // of a concatenation inside the other
    int across = b.slice(whole, axis, 1, 3);
    b.step({x}, {left});
    b.step({left}, {inner});  // another slice of what it writes into
    b.apply({left});
    b.apply({right});
    b.apply({across});
    b.apply({whole});
    b.apply({b.flat(whole)});
    EXPECT_EQ(dependences(b.plan), (After{{}, {0}, {0}, {1}, {0, 1}, {0, 1}, {0, 1}})) << axis;
  }
}

TEST(Dependences, WhatIsNoSliceMayBeAnything) {
  Builder b;
  int x = b.value({8}, Kind::kInput);
  int whole = b.value({4, 4});
  int first = b.slice(whole, 0, 0, 2);
  int flat = b.flat(whole);
  int end = b.slice(flat, 0, 8, 8);
  int turned = b.slice(whole, 0, 2, 2);
  std::swap(b.plan.slots[turned].type.strides[0], b.plan.slots[turned].type.strides[1]);
  b.step({x}, {first});
  b.apply({end});
  b.apply({turned});
  EXPECT_EQ(dependences(b.plan), (After{{}, {0}, {0}}));
}

TEST(Dependences, WhatMayNotOverlapIsBetweenAllOthers) {
  Builder b;
  int x = b.value({8}, Kind::kInput);
  int y = b.apply({x});
  b.apply({x});
  b.step({x}, {b.value({8}, Kind::kKernel)}, 10, /*may_overlap=*/false);
  b.apply({y});
  b.apply({x});
  b.step({x}, {b.value({8}, Kind::kKernel)}, 10, /*may_overlap=*/false);
  EXPECT_EQ(dependences(b.plan), (After{{}, {}, {0, 1}, {2}, {2}, {2, 3, 4}}));
}

TEST(Lanes, BothSidesOfADiamond) {
  Builder b;
  int x = b.value({8}, Kind::kInput);
  int y = b.apply({x});
  int side = b.apply({y}, 8);
  int main = b.apply({b.apply({y})});
  b.apply({side, main});
  assign_lanes(b.plan);
  EXPECT_EQ(b.plan.lanes, 2);
  EXPECT_EQ(b.lanes(), (std::vector<int>{0, 1, 0, 0, 0}));  // the longer side stays
  EXPECT_EQ(b.plan.steps[1].waits, std::vector<int>{0});
  EXPECT_EQ(b.plan.steps[4].waits, std::vector<int>{1});
  EXPECT_TRUE(b.plan.steps[2].waits.empty() && b.plan.steps[3].waits.empty());
}

TEST(Lanes, ABranchThatIsNotWorthItStays) {
  for (double beside : {1.0, 20.0}) {
    Builder b;
    int x = b.value({8}, Kind::kInput);
    int y = b.apply({x}, 20);
    int side = b.apply({y}, 1.5);
    int main = b.apply({y}, beside);
    b.apply({side, main}, 20);
    assign_lanes(b.plan);
    EXPECT_EQ(b.plan.lanes, 1) << beside;
  }
}

TEST(Lanes, AChainHasOne) {
  Builder b;
  int x = b.value({8}, Kind::kInput);
  for (int i = 0; i < 10; ++i) x = b.apply({x});
  assign_lanes(b.plan);
  EXPECT_EQ(b.plan.lanes, 1);
  EXPECT_EQ(b.lanes(), std::vector<int>(10, 0));
}

TEST(Lanes, ForksInsideForks) {
  Builder b;
  int x = b.value({8}, Kind::kInput);
  std::vector<int> results;
  for (int branch = 0; branch < 2; ++branch) {
    int y = b.apply({x}, 10 + branch);
    for (int i = 0; i < 2; ++i) results.push_back(b.apply({b.apply({y})}));
  }
  b.apply(results);
  assign_lanes(b.plan);
  EXPECT_EQ(b.plan.lanes, 4);
  std::vector<int> lanes = b.lanes();
  for (int first : {1, 3, 6, 8}) EXPECT_EQ(lanes[first], lanes[first + 1]);
  EXPECT_EQ((std::set<int>{lanes[1], lanes[3], lanes[6], lanes[8]}).size(), 4u);
  EXPECT_EQ(lanes[5], 0);  // the longest way
  EXPECT_EQ(lanes[10], 0);
}

TEST(Lanes, MoreBranchesThanLanes) {
  Builder b;
  int x = b.value({8}, Kind::kInput);
  std::vector<int> results;
  for (int i = 0; i < 3 * kMostLanes; ++i) results.push_back(b.apply({b.apply({x})}));
  b.apply(results);
  assign_lanes(b.plan);
  std::map<int, int> steps;
  for (int lane : b.lanes()) ++steps[lane];
  EXPECT_EQ(b.plan.lanes, kMostLanes);
  for (auto [lane, count] : steps) EXPECT_EQ(count, lane == 0 ? 7 : 6);
}

TEST(Lanes, WaitsThatOthersCoverAreLeftOut) {
  Builder b;
  int x = b.value({8}, Kind::kInput);
  int y = b.apply({x});
  int first = b.apply({y});
  int second = b.apply({first});
  int main = b.apply({b.apply({b.apply({y}), y})});
  b.apply({first, second, main, y});
  assign_lanes(b.plan);
  EXPECT_EQ(b.plan.steps[6].waits, std::vector<int>{2});
}

TEST(Lanes, MemoryIsReusedInsideALaneOnly) {
  Builder b;
  int x = b.value({8}, Kind::kInput);
  std::vector<int> results;
  for (int branch = 0; branch < 2; ++branch) {
    int y = x;
    for (int i = 0; i < 6; ++i) y = b.apply({y});
    results.push_back(y);
  }
  b.apply(results);
  assign_arena(b.plan);
  EXPECT_EQ(b.plan.arena_bytes, 3 * 1024);
  std::shared_ptr<Plan> parallel = with_parallel_branches(b.plan);
  ASSERT_TRUE(parallel);
  EXPECT_EQ(parallel->arena_bytes, 4 * 1024);
  EXPECT_EQ(b.plan.lanes, 1);
}

/// Which write every byte comes from: a step, or below zero an input or nothing.
class Memory {
 public:
  /// `apart`: every storage has memory of its own, whatever the arena says.
  Memory(const Plan& plan, bool apart) : plan_(plan) {
    for (size_t i = 0; i < plan.storages.size(); ++i) {
      bool in_arena = plan.storages[i].kind == Kind::kArena && !apart;
      base_.push_back(in_arena ? plan.storages[i].offset : size_ + plan.arena_bytes);
      if (in_arena) continue;
      size_ += plan.storages[i].bytes;
    }
    bytes_.assign(plan.arena_bytes + size_, -1);
    for (size_t i = 0; i < plan.storages.size(); ++i) {
      if (plan.storages[i].kind != Kind::kInput) continue;
      for (int64_t k = 0; k < plan.storages[i].bytes; ++k) bytes_[base_[i] + k] = -2 - static_cast<int>(i);
    }
  }
  std::vector<int64_t> addresses(int slot) const {
    const Slot& s = plan_.slots[slot];
    std::vector<int64_t> all{base_[s.storage] + s.element_offset};
    for (size_t d = 0; d < s.type.shape.size(); ++d) {
      std::vector<int64_t> wider;
      for (int64_t at : all) {
        for (int64_t i = 0; i < s.type.shape[d]; ++i) wider.push_back(at + i * s.type.strides[d]);
      }
      all = std::move(wider);
    }
    return all;
  }
  std::vector<int64_t> written(const Step& step) const {
    std::vector<int64_t> all;
    for (int slot : step.outputs) {
      for (int64_t at : addresses(slot)) all.push_back(at);
    }
    return all;
  }
  std::vector<int64_t> workspace(const Step& step) const {
    std::vector<int64_t> all(step.kernel->workspace_bytes());
    for (size_t i = 0; i < all.size(); ++i) all[i] = step.workspace_offset + static_cast<int64_t>(i);
    return all;
  }
  std::vector<int> read(const Step& step) const {
    std::vector<int> all;
    for (int slot : step.inputs) {
      for (int64_t at : addresses(slot)) all.push_back(bytes_[at]);
    }
    return all;
  }
  void write(const std::vector<int64_t>& addresses, int by) {
    for (int64_t at : addresses) bytes_[at] = by;
  }
  bool holds(const std::vector<int64_t>& addresses, int by) const {
    return std::all_of(addresses.begin(), addresses.end(), [&](int64_t at) { return bytes_[at] == by; });
  }
  int at(int64_t address) const { return bytes_[address]; }

 private:
  const Plan& plan_;
  std::vector<int64_t> base_;
  int64_t size_ = 0;
  std::vector<int> bytes_;
};

/// What each step reads when one runs after the other in memory without reuse.
std::vector<std::vector<int>> reads_in_order(const Plan& plan) {
  Memory memory(plan, /*apart=*/true);
  std::vector<std::vector<int>> reads;
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    reads.push_back(memory.read(plan.steps[i]));
    memory.write(memory.written(plan.steps[i]), static_cast<int>(i));
  }
  return reads;
}

/// Runs the lanes in some order that they and the waits allow, where a step reads and writes all the time from its
/// start to its end. Returns the first step that finds what it should not; -1 when none does.
int run_in_some_order(const Plan& plan, const std::vector<std::vector<int>>& expected, std::mt19937& random) {
  constexpr int kWorkspaceOf = 1 << 20;
  Memory memory(plan, /*apart=*/false);
  std::vector<std::vector<int>> queue(plan.lanes);
  for (size_t i = 0; i < plan.steps.size(); ++i) queue[plan.steps[i].lane].push_back(static_cast<int>(i));
  std::vector<size_t> next(plan.lanes, 0);
  std::vector<bool> running(plan.lanes, false);
  std::vector<bool> ended(plan.steps.size(), false);
  for (size_t left = 2 * plan.steps.size(); left > 0;) {
    size_t lane = random() % queue.size();
    if (next[lane] == queue[lane].size()) continue;
    int number = queue[lane][next[lane]];
    const Step& step = plan.steps[number];
    std::vector<int64_t> written = memory.written(step);
    if (!running[lane]) {
      if (!std::all_of(step.waits.begin(), step.waits.end(), [&](int w) { return ended[w]; })) continue;
      if (memory.read(step) != expected[number]) return number;
      memory.write(written, number);
      memory.write(memory.workspace(step), kWorkspaceOf + number);
      running[lane] = true;
    } else {
      bool kept = memory.holds(written, number) && memory.holds(memory.workspace(step), kWorkspaceOf + number);
      std::set<int64_t> own(written.begin(), written.end());
      size_t k = 0;
      for (int slot : step.inputs) {
        for (int64_t at : memory.addresses(slot)) {
          kept = kept && (own.count(at) || memory.at(at) == expected[number][k]);
          ++k;
        }
      }
      if (!kept) return number;
      running[lane] = false;
      ended[number] = true;
      ++next[lane];
    }
    --left;
  }
  return -1;
}

/// Steps that read values, slices and rows of values, and write new values, into places of others, or over them.
Plan random_plan(std::mt19937& random) {
  Builder b;
  auto any = [&](const std::vector<int>& of) {
    size_t recent = std::min<size_t>(of.size(), 6);
    return of[random() % 2 ? random() % of.size() : of.size() - 1 - random() % recent];
  };
  std::vector<int> readable{b.value({4, 6}, Kind::kInput), b.value({6, 4}, Kind::kInput)};
  std::vector<int> writable;
  int whole = 0;
  std::vector<int> places;  // in it that are not written yet
  int steps = 5 + static_cast<int>(random() % 40);
  for (int i = 0; i < steps; ++i) {
    std::vector<int> inputs;
    for (size_t k = 1 + random() % 3; k > 0; --k) {
      int slot = any(readable);
      const Slot& s = b.plan.slots[slot];
      if (random() % 4 == 0 && s.type.shape[0] > 1) slot = b.slice(slot, 0, 1, s.type.shape[0] - 1);
      if (random() % 6 == 0 && !b.plan.slots[slot].is_view) slot = b.flat(slot);
      inputs.push_back(slot);
    }
    std::vector<int> outputs;
    if (places.empty() && random() % 4 == 0) {
      whole = b.value({4, 6, 12}, random() % 4 ? Kind::kArena : Kind::kOutput);
      int axis = static_cast<int>(random() % 2);
      int64_t size = b.plan.slots[whole].type.shape[axis];
      for (int64_t at = 0; at < size; at += 2) places.push_back(b.slice(whole, axis, at, 2));
    }
    if (!places.empty() && random() % 2) {
      outputs.push_back(places.back());
      places.pop_back();
      if (places.empty()) readable.push_back(whole);
    } else if (!writable.empty() && random() % 5 == 0) {
      outputs.push_back(any(writable));
      inputs.push_back(outputs.back());
    } else {
      outputs.push_back(b.value({4, static_cast<int64_t>(20 * (1 + random() % 4))}));
    }
    readable.push_back(outputs.back());
    writable.push_back(outputs.back());
    b.step(inputs, outputs, static_cast<double>(1 + random() % 12), random() % 16 != 0,
           random() % 3 ? 0 : static_cast<int64_t>(80 * (1 + random() % 4)));
  }
  assign_arena(b.plan);
  return b.plan;
}

TEST(Lanes, EveryOrderThatTheyAllowGivesTheSameValues) {
  std::mt19937 random(11);
  int in_lanes = 0;
  int races_without_waits = 0;
  for (int round = 0; round < 300; ++round) {
    Plan plan = random_plan(random);
    std::vector<std::vector<int>> expected = reads_in_order(plan);
    ASSERT_EQ(run_in_some_order(plan, expected, random), -1) << round;
    std::shared_ptr<Plan> parallel = with_parallel_branches(plan);
    if (!parallel) continue;
    ++in_lanes;
    ASSERT_LE(parallel->lanes, kMostLanes);
    for (size_t i = 0; i < parallel->steps.size(); ++i) {
      const Step& step = parallel->steps[i];
      ASSERT_LT(step.lane, parallel->lanes);
      ASSERT_TRUE(step.kernel->may_overlap() || step.lane == 0);
      for (int earlier : step.waits) {
        ASSERT_LT(earlier, static_cast<int>(i));
        ASSERT_NE(parallel->steps[earlier].lane, step.lane);
      }
    }
    for (int order = 0; order < 20; ++order) {
      ASSERT_EQ(run_in_some_order(*parallel, expected, random), -1) << "round " << round;
    }
    for (Step& step : parallel->steps) step.waits.clear();
    if (run_in_some_order(*parallel, expected, random) >= 0) ++races_without_waits;
  }
  EXPECT_GT(in_lanes, 100);
  EXPECT_GT(races_without_waits, in_lanes / 2);  // so a race would have been seen
}

}  // namespace
}  // namespace torchweld
