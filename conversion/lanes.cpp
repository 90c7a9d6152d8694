#include "conversion/lanes.h"

#include <algorithm>
#include <numeric>
#include <optional>

namespace torchweld {
namespace {

/// Indices from `begin` to before `end` along each dimension of the tensor that owns a storage.
struct Box {
  Dims begin;
  Dims end;
};

/// What of its storage a slot covers; nothing when that is no box. The owner's strides have to nest.
std::optional<Box> box_of(const Slot& slot, const TensorType& owner) {
  size_t rank = owner.shape.size();
  if (slot.type.shape.size() != rank) return std::nullopt;
  for (size_t d = 0; d < rank; ++d) {
    if (slot.type.shape[d] > owner.shape[d]) return std::nullopt;
  }
  std::vector<size_t> order(rank);
  std::iota(order.begin(), order.end(), 0);
  std::erase_if(order, [&](size_t d) { return owner.shape[d] == 1; });
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return owner.strides[a] < owner.strides[b]; });
  Box box{Dims(rank, 0), Dims(rank, 1)};
  int64_t rest = slot.element_offset;
  int64_t inside = 1;  // elements that the dimensions with smaller strides reach over
  for (size_t d : order) {
    bool nested = owner.strides[d] >= inside;
    if (!nested || (slot.type.shape[d] > 1 && slot.type.strides[d] != owner.strides[d])) return std::nullopt;
    inside = std::max<int64_t>(owner.strides[d] * owner.shape[d], 1);
  }
  for (auto d = order.rbegin(); d != order.rend(); ++d) {
    box.begin[*d] = rest / owner.strides[*d];
    box.end[*d] = box.begin[*d] + slot.type.shape[*d];
    if (box.end[*d] > owner.shape[*d]) return std::nullopt;
    rest %= owner.strides[*d];
  }
  return rest == 0 ? std::optional(box) : std::nullopt;
}

bool are_apart(const Slot& a, const Slot& b, const TensorType& owner) {
  std::optional<Box> first = box_of(a, owner);
  std::optional<Box> second = first ? box_of(b, owner) : std::nullopt;
  if (!second) return false;
  for (size_t d = 0; d < first->begin.size(); ++d) {
    if (first->end[d] <= second->begin[d] || second->end[d] <= first->begin[d]) return true;
  }
  return false;
}

/// Who has touched a storage so far, through which slot.
struct Accesses {
  std::vector<std::pair<int, int>> reads;
  std::vector<std::pair<int, int>> writes;
};

void raise(LaneCounts& counts, const LaneCounts& others) {
  for (size_t lane = 0; lane < counts.size(); ++lane) counts[lane] = std::max(counts[lane], others[lane]);
}

/// What is known to have ended along the way through the steps.
class Progress {
 public:
  explicit Progress(size_t steps) : before_(steps, LaneCounts{}) {}
  /// The next step, known to start when the one ahead of it in its lane has ended.
  void start(size_t step, int lane) { before_[step] = after_[lane]; }
  bool has_ended(int earlier, int lane, size_t step) const { return before_[earlier][lane] < before_[step][lane]; }
  void wait(int earlier, int lane, size_t step) {
    raise(before_[step], before_[earlier]);
    before_[step][lane] = std::max(before_[step][lane], before_[earlier][lane] + 1);
  }
  void end(size_t step, int lane) {
    after_[lane] = before_[step];
    ++after_[lane][lane];
  }
  std::vector<LaneCounts> take() { return std::move(before_); }

 private:
  std::vector<LaneCounts> before_;  // of its own lane, this is a step's place in it
  std::array<LaneCounts, kMostLanes> after_{};
};

/// Lays the steps out as chains, gives chains lanes, and takes those back that do not pay.
class LaneAssigner {
 public:
  explicit LaneAssigner(Plan& plan) : plan_(plan), after_(dependences(plan)), size_(plan.steps.size()) {
    // Also what is too short for the timer takes this long in a row of launches.
    constexpr double kLeastStep = 1;
    for (const Step& step : plan.steps) times_.push_back(std::max(step.microseconds, kLeastStep));
  }

  void run() {
    double limit = kWorthIt * std::accumulate(times_.begin(), times_.end(), 0.0);
    std::vector<int> lanes(size_, 0);
    if (find_chains() <= limit) {
      std::vector<int> parallel = without_waste(lanes_of_chains());
      if (duration(parallel) <= limit) lanes = std::move(parallel);
    }
    store(std::move(lanes));
  }

 private:
  /// Microseconds that a start behind another lane takes longer than behind the step ahead in the same lane.
  static constexpr double kWait = 1;
  static constexpr double kWorthIt = 0.98;

  bool must_be_first_lane(size_t step) const { return !plan_.steps[step].kernel->may_overlap(); }

  /// A step is followed in its chain by the one behind which most time remains, where that step has no longer way from
  /// the beginning. Returns the microseconds of the longest way.
  double find_chains() {
    std::vector<double> from_start(size_);  // to the step's end
    std::vector<double> to_end = times_;
    std::vector<int> longest(size_, -1);
    std::vector<int> heir(size_, -1);
    for (size_t i = 0; i < size_; ++i) {
      for (int d : after_[i]) {
        if (longest[i] < 0 || from_start[d] > from_start[longest[i]]) longest[i] = d;
      }
      from_start[i] = times_[i] + (longest[i] < 0 ? 0 : from_start[longest[i]]);
    }
    for (size_t i = size_; i-- > 0;) {
      for (int d : after_[i]) {
        if (heir[d] >= 0 && to_end[i] < to_end[heir[d]]) continue;
        heir[d] = static_cast<int>(i);
        to_end[d] = times_[d] + to_end[i];
      }
    }
    chain_.assign(size_, -1);
    double longest_way = 0;
    for (size_t i = 0; i < size_; ++i) {
      int d = longest[i];
      bool goes_on = d >= 0 && heir[d] == static_cast<int>(i);
      chain_[i] = goes_on ? chain_[d] : static_cast<int>(chains_.size());
      if (!goes_on) chains_.emplace_back();
      chains_[chain_[i]].push_back(static_cast<int>(i));
      if (after_[i].empty() && to_end[i] > longest_way) {
        longest_way = to_end[i];
        main_chain_ = chain_[i];
      }
    }
    return longest_way;
  }

  /// A new chain gets the lane in which it can start first, of those whose chains have ended when there are any.
  std::vector<int> lanes_of_chains() const {
    std::vector<int> lanes(size_, 0);
    std::vector<int> lane_of_chain(chains_.size(), -1);
    lane_of_chain[main_chain_] = 0;
    std::array<int, kMostLanes> last_of_chains{};
    last_of_chains.fill(-1);
    last_of_chains[0] = chains_[main_chain_].back();
    std::array<double, kMostLanes> lane_end{};
    std::vector<double> end(size_);
    for (size_t i = 0; i < size_; ++i) {
      auto start_in = [&](int lane) {
        double start = lane_end[lane];
        double wait = 0;
        for (int d : after_[i]) {
          start = std::max(start, end[d]);
          if (lanes[d] != lane) wait = kWait;
        }
        return start + wait;
      };
      int& lane = lane_of_chain[chain_[i]];
      if (lane < 0) {
        auto goes_on = [&](int l) { return last_of_chains[l] > static_cast<int>(i); };
        lane = 0;
        for (int l = 1; l < kMostLanes; ++l) {
          bool freer = goes_on(lane) && !goes_on(l);
          if (freer || (goes_on(l) == goes_on(lane) && start_in(l) < start_in(lane))) lane = l;
        }
        last_of_chains[lane] = std::max(last_of_chains[lane], chains_[chain_[i]].back());
      }
      lanes[i] = must_be_first_lane(i) ? 0 : lane;
      end[i] = start_in(lanes[i]) + times_[i];
      lane_end[lanes[i]] = end[i];
    }
    return lanes;
  }

  /// Puts a chain into a lane ahead of its own where the run is not expected to take longer for that, short ones first.
  std::vector<int> without_waste(std::vector<int> lanes) const {
    std::vector<double> length(chains_.size(), 0);
    for (size_t i = 0; i < size_; ++i) length[chain_[i]] += times_[i];
    std::vector<int> order(chains_.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return length[a] < length[b]; });
    double best = duration(lanes);
    for (int chain : order) {
      const std::vector<int>& steps = chains_[chain];
      int own = 0;
      for (int i : steps) own = std::max(own, lanes[i]);
      for (int lane = 0; lane < own; ++lane) {
        std::vector<int> other = lanes;
        for (int i : steps) other[i] = must_be_first_lane(i) ? 0 : lane;
        double time = duration(other);
        if (time > best) continue;
        best = time;
        lanes = std::move(other);
        break;
      }
    }
    return lanes;
  }

  /// Calls `on_wait` for each step of another lane that a step waits for, as it comes after that one and no earlier
  /// wait covers it, and `on_step` behind the waits of each step.
  template <class OnWait, class OnStep>
  void walk(const std::vector<int>& lanes, OnWait on_wait, OnStep on_step) const {
    Progress progress(size_);
    for (size_t i = 0; i < size_; ++i) {
      progress.start(i, lanes[i]);
      for (auto d = after_[i].rbegin(); d != after_[i].rend(); ++d) {
        if (progress.has_ended(*d, lanes[*d], i)) continue;
        progress.wait(*d, lanes[*d], i);
        on_wait(i, *d);
      }
      progress.end(i, lanes[i]);
      on_step(i);
    }
  }

  /// Microseconds of a run, were the device large enough for every step beside all others.
  double duration(const std::vector<int>& lanes) const {
    std::array<double, kMostLanes> lane_end{};
    std::vector<double> end(size_);
    double others_end = 0;  // of what the next step waits for
    walk(
        lanes, [&](size_t, int earlier) { others_end = std::max(others_end, end[earlier]); },
        [&](size_t i) {
          double& here = lane_end[lanes[i]];
          here = std::max(here, others_end) + (others_end > 0 ? kWait : 0) + times_[i];
          end[i] = here;
          others_end = 0;
        });
    return *std::max_element(lane_end.begin(), lane_end.end());
  }

  void store(std::vector<int> lanes) {
    std::array<int, kMostLanes> number{};
    number.fill(-1);
    number[0] = 0;
    plan_.lanes = 1;
    for (int& lane : lanes) {
      if (number[lane] < 0) number[lane] = plan_.lanes++;
      lane = number[lane];
    }
    for (size_t i = 0; i < size_; ++i) {
      plan_.steps[i].lane = lanes[i];
      plan_.steps[i].waits.clear();
    }
    walk(lanes, [&](size_t i, int earlier) { plan_.steps[i].waits.push_back(earlier); }, [](size_t) {});
  }

  Plan& plan_;
  std::vector<std::vector<int>> after_;
  size_t size_;
  std::vector<double> times_;
  std::vector<std::vector<int>> chains_;
  std::vector<int> chain_;  // of each step
  int main_chain_ = 0;
};

}  // namespace

std::vector<std::vector<int>> dependences(const Plan& plan) {
  std::vector<std::vector<int>> after(plan.steps.size());
  std::vector<Accesses> touched(plan.storages.size());
  int last_alone = -1;  // the last step that may not overlap others
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    const Step& step = plan.steps[i];
    auto come_after = [&](int slot, const std::vector<std::pair<int, int>>& accesses) {
      const Slot& s = plan.slots[slot];
      for (auto [earlier, other] : accesses) {
        if (earlier <= last_alone || are_apart(s, plan.slots[other], plan.storages[s.storage].type)) continue;
        after[i].push_back(earlier);
      }
    };
    for (int slot : step.inputs) come_after(slot, touched[plan.slots[slot].storage].writes);
    for (int slot : step.outputs) {
      come_after(slot, touched[plan.slots[slot].storage].writes);
      come_after(slot, touched[plan.slots[slot].storage].reads);
    }
    auto number = static_cast<int>(i);
    for (int slot : step.inputs) touched[plan.slots[slot].storage].reads.emplace_back(number, slot);
    for (int slot : step.outputs) touched[plan.slots[slot].storage].writes.emplace_back(number, slot);
    if (last_alone >= 0) after[i].push_back(last_alone);
    if (!step.kernel->may_overlap()) {
      for (int earlier = last_alone + 1; earlier < number; ++earlier) after[i].push_back(earlier);
      last_alone = number;
    }
    std::sort(after[i].begin(), after[i].end());
    after[i].erase(std::unique(after[i].begin(), after[i].end()), after[i].end());
  }
  return after;
}

void assign_lanes(Plan& plan) {
  if (!plan.steps.empty()) LaneAssigner(plan).run();
}

std::vector<LaneCounts> ended_before(const Plan& plan) {
  Progress progress(plan.steps.size());
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    const Step& step = plan.steps[i];
    progress.start(i, step.lane);
    for (int earlier : step.waits) progress.wait(earlier, plan.steps[earlier].lane, i);
    progress.end(i, step.lane);
  }
  return progress.take();
}

}  // namespace torchweld
