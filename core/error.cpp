#include "core/error.h"

namespace torchweld {

void check(bool condition, std::string_view what, std::source_location where) {
  if (condition) return;
  throw InternalError("torchweld internal error: " + std::string(what) + " (" + where.file_name() + ":" +
                      std::to_string(where.line()) + "); please report it with the output of TORCHWELD_DUMP=<folder>");
}

}  // namespace torchweld
