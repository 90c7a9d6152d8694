#include "runtime/unit_lock.h"

#include <mutex>

namespace torchweld {
namespace {

std::function<std::shared_ptr<void>()>& take_lock() {
  static auto& take = *new std::function<std::shared_ptr<void>()>([] {
    static auto& mutex = *new std::recursive_mutex;
    return std::make_shared<std::unique_lock<std::recursive_mutex>>(mutex);
  });
  return take;
}

}  // namespace

std::shared_ptr<void> lock_units() { return take_lock()(); }

void set_unit_lock(std::function<std::shared_ptr<void>()> take) { take_lock() = std::move(take); }

}  // namespace torchweld
