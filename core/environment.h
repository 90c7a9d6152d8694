// Every environment variable that Torchweld reads, in one table.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace torchweld {

/// One row: name, what it does, and what it holds when unset.
struct EnvironmentVariable {
  const char* name;
  const char* meaning;
  const char* fallback;
};

/// All rows; `python -m torchweld env` prints them.
const std::vector<EnvironmentVariable>& environment_table();
/// The value of a variable of the table (InternalError for any other); read anew at each call.
std::string environment(std::string_view name);
/// True when TORCHWELD_DISABLE lists `name` (a pass or a tactic).
bool is_disabled(std::string_view name);
/// Writes one line to standard error when TORCHWELD_LOG is at least `level`: 1 warnings, 2 stages, 3 decisions, 4 all.
void log(int level, const std::string& message);

}  // namespace torchweld
