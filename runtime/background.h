// Work that no call waits for: plans for new shapes on a GPU, whose kernels take a compiler.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace torchweld {

/// One thread that does one piece of work after the other. At the end of the process the piece at hand is waited for,
/// and what has not begun is left.
class Background {
 public:
  /// The process's own; its thread begins with the first piece of work.
  static Background& get();
  Background() = default;
  ~Background();
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  /// False, and the work is refused, when `most` pieces are waiting already. An exception that it throws is logged.
  bool post(std::function<void()> work, size_t most);
  /// Waits for everything posted so far; returns how many pieces have been done since the process began.
  int64_t finish();

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> waiting_;
  bool working_ = false;
  int64_t done_ = 0;
  bool stops_ = false;
  std::thread thread_;
};

}  // namespace torchweld
