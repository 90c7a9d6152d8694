// Memos that forget what is gone.
#pragma once

#include <algorithm>
#include <cstddef>

namespace torchweld {

/// Takes out of a map the entries that are gone, now and then: once it is twice as large as the last time left it.
class Sweeper {
 public:
  template <class Map, class IsGone>
  void sweep(Map& map, IsGone is_gone) {
    constexpr size_t kFew = 1024;
    if (map.size() < std::max(kFew, 2 * left_)) return;
    std::erase_if(map, [&](const auto& entry) { return is_gone(entry.second); });
    left_ = map.size();
  }

 private:
  size_t left_ = 0;
};

}  // namespace torchweld
