// Work on all cores.
#pragma once

#include <c10/core/Device.h>

#include <cstddef>
#include <functional>

namespace torchweld {

/// Threads that for_each_in_parallel uses at most, the caller's among them.
size_t most_workers();

/// Calls `work(i)` for 0..count-1 on all cores, without gradients and with `device` and the caller's stream there as
/// the current ones; what it enqueues on the stream has ended when this returns. The first exception is thrown again
/// when all have ended.
void for_each_in_parallel(size_t count, c10::Device device, const std::function<void(size_t)>& work);

}  // namespace torchweld
