#include "core/environment.h"

#include <cstdlib>
#include <iostream>

#include "core/error.h"

namespace torchweld {

const std::vector<EnvironmentVariable>& environment_table() {
  static const std::vector<EnvironmentVariable> table{
      {"TORCHWELD_LOG", "how much is written to standard error: 1 warnings, 2 stages, 3 decisions, 4 everything", "1"},
      {"TORCHWELD_DUMP", "folder that receives the graph after every stage that changed it", ""},
      {"TORCHWELD_VERIFY", "1: run every step beside its ATen meaning and stop at the first difference", "0"},
      {"TORCHWELD_DISABLE", "names of passes and tactics to leave out, separated by commas", ""},
      {"TORCHWELD_EARLY_START", "0: own kernels do without programmatic dependent launch, which they use from sm_90 on",
       "1"},
      {"TORCHWELD_CACHE", "folder for compiled device code; empty: ~/.cache/torchweld", ""},
  };
  return table;
}

std::string environment(std::string_view name) {
  for (const EnvironmentVariable& row : environment_table()) {
    if (row.name != name) continue;
    const char* value = std::getenv(row.name);
    return value ? value : row.fallback;
  }
  check(false, "environment variable without a row: " + std::string(name));
  return "";
}

bool is_disabled(std::string_view name) {
  std::string list = "," + environment("TORCHWELD_DISABLE") + ",";
  return list.find("," + std::string(name) + ",") != std::string::npos;
}

void log(int level, const std::string& message) {
  static const int limit = std::atoi(environment("TORCHWELD_LOG").c_str());
  if (level <= limit) std::cerr << "[torchweld] " << message << "\n";
}

}  // namespace torchweld
