// The list of op families.
#pragma once

namespace torchweld {

class OpSet;
/// Adds every op and every importer to `ops`.
void define_all_ops(OpSet& ops);

}  // namespace torchweld
