// Plans compared by running them on random data.
#pragma once

#include <memory>
#include <optional>

#include "conversion/convert.h"
#include "conversion/measure.h"
#include "runtime/executor.h"

namespace torchweld {

/// Microseconds of two ways to run the same plan, on random data; nothing where that cannot be measured: an operator
/// raises on random numbers, or memory is short.
std::optional<Contest> race(Executor& first, Executor& second, double budget_ms);

/// Compares plans by running them, as convert() asks for. Keeps the faster one ready for the next comparison.
class Rehearsal {
 public:
  bool operator()(const std::shared_ptr<const Plan>& plan, const std::shared_ptr<const Plan>& other);

 private:
  std::shared_ptr<Executor> standing_;
};

}  // namespace torchweld
