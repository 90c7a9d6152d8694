// Work that no call waits for: plans for new shapes on a GPU, whose kernels take a compiler.
#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace torchweld {

/// One thread that does one piece of work after the other, at a lower priority than the one that calls.
class Background {
 public:
  /// The process's own; its thread begins with the first piece of work.
  static Background& get();
  Background() = default;
  ~Background() { stop(); }
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  /// False when the work is refused: too much is waiting, or the thread was stopped, cannot be started, or belongs to
  /// the process that this one was forked from. An exception that the work throws is logged.
  bool post(std::function<void()> work);
  /// Waits until nothing is left to do; returns how many pieces have been done since the process began.
  int64_t finish();
  /// Waits for the piece at hand and leaves what has not begun. To be called before the process takes down what work
  /// needs: Python does so at its exit.
  void stop();

 private:
  void loop();
  bool is_forked() const { return owner_ != 0 && owner_ != getpid(); }

  static constexpr size_t kMostWaiting = 64;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> waiting_;
  bool working_ = false;
  bool stops_ = false;
  int64_t done_ = 0;
  std::atomic<pid_t> owner_ = 0;  // whose process the thread is part of
  std::thread thread_;
};

}  // namespace torchweld
