#include "runtime/background.h"

#include <system_error>

#include "core/environment.h"

namespace torchweld {

Background& Background::get() {
  static Background background;
  return background;
}

bool Background::post(std::function<void()> work) {
  if (is_forked()) return false;
  std::lock_guard lock(mutex_);
  if (stops_ || waiting_.size() >= kMostWaiting) return false;
  if (!thread_.joinable()) {
    try {
      thread_ = std::thread([this] { loop(); });
    } catch (const std::system_error& error) {
      log(1, std::string("no thread for work in the background: ") + error.what());
      return false;
    }
    owner_ = getpid();
  }
  waiting_.push_back(std::move(work));
  changed_.notify_all();
  return true;
}

int64_t Background::finish() {
  if (is_forked()) return 0;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return waiting_.empty() && !working_; });
  return done_;
}

void Background::stop() {
  if (is_forked()) {
    thread_.detach();
    return;
  }
  {
    std::lock_guard lock(mutex_);
    stops_ = true;
    // What waits holds modules, whose memory on a device must not be freed this late.
    new std::deque<std::function<void()>>(std::move(waiting_));
    waiting_.clear();
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Background::loop() {
  // Calls go first. On Linux this is the thread's own priority, and that of the threads which it starts.
  constexpr int kLower = 10;
  nice(kLower);
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stops_ || !waiting_.empty(); });
    if (stops_) return;
    std::function<void()> work = std::move(waiting_.front());
    waiting_.pop_front();
    working_ = true;
    lock.unlock();
    try {
      work();
    } catch (const std::exception& error) {
      log(1, std::string("work in the background failed: ") + error.what());
    }
    work = nullptr;
    lock.lock();
    working_ = false;
    ++done_;
    changed_.notify_all();
  }
}

}  // namespace torchweld
