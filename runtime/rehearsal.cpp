#include "runtime/rehearsal.h"

#include <algorithm>
#include <vector>

#include "core/environment.h"

namespace torchweld {

std::optional<Contest> race(Executor& first, Executor& second, double budget_ms) try {
  // Short ones several times in a row, so that launching does not hide the device's time.
  constexpr double kTurn = 2000;
  double expected = 0;
  for (const Step& step : first.plan().steps) expected += step.microseconds;
  int runs = static_cast<int>(std::clamp(kTurn / std::max(expected, 1.0), 1.0, 8.0));
  std::vector<at::Tensor> inputs;
  for (int slot : first.plan().inputs) inputs.push_back(random_tensor(first.plan().slots[slot].type));
  auto runs_of = [&](Executor& executor) {
    return [&] {
      for (int i = 0; i < runs; ++i) executor.run(inputs);
    };
  };
  Contest times = contest(runs_of(first), runs_of(second), first.plan().device, budget_ms);
  return Contest{times.first / runs, times.second / runs};
} catch (const std::exception& error) {
  log(3, std::string("two plans cannot be compared: ") + error.what());
  return std::nullopt;
}

bool Rehearsal::operator()(const std::shared_ptr<const Plan>& plan, const std::shared_ptr<const Plan>& other) {
  // A short look, and a longer one at what seems to be a gain.
  constexpr double kMargin = 0.995;
  constexpr double kLook = 10;
  constexpr double kLongLook = 40;
  if (!standing_ || &standing_->plan() != plan.get())
    standing_ = std::make_shared<Executor>(plan, /*cuda_graphs=*/true);
  auto trial = std::make_shared<Executor>(other, /*cuda_graphs=*/true);
  for (double budget_ms : {kLook, kLongLook}) {
    std::optional<Contest> times = race(*standing_, *trial, budget_ms);
    if (!times || times->second > kMargin * times->first) return false;
  }
  standing_ = std::move(trial);
  return true;
}

}  // namespace torchweld
