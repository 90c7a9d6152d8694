// Which steps of a plan may run at the same time, and on which streams.
#pragma once

#include <array>
#include <vector>

#include "conversion/plan.h"

namespace torchweld {

/// Streams that a plan is recorded on at most.
constexpr int kMostLanes = 4;
/// For each lane a number of its steps: the first so many.
using LaneCounts = std::array<int, kMostLanes>;

/// For each step the earlier ones that it has to come after: those that write what it reads, and those that read or
/// write what it writes. Views are the storage they look into; slices of one storage that share no element are apart,
/// so that what is written into different places of a concatenation is. A step whose kernel may not overlap others
/// comes after all steps ahead of it and before all behind it. Arena offsets play no part: see assign_arena.
std::vector<std::vector<int>> dependences(const Plan& plan);

/// Gives every step its lane and what it waits for there, by the steps' times. Chains stay in one lane, the longest one
/// in lane 0, where all steps are that may not overlap others. A branch has another lane only where that is expected
/// to shorten the run; when nothing is, all steps stay in lane 0.
void assign_lanes(Plan& plan);

/// For each step, how many steps of every lane are sure to have ended when it starts.
std::vector<LaneCounts> ended_before(const Plan& plan);

}  // namespace torchweld
