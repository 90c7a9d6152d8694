#include "runtime/background.h"

#include "core/environment.h"

namespace torchweld {

Background& Background::get() {
  static Background background;
  return background;
}

Background::~Background() {
  {
    std::lock_guard lock(mutex_);
    stops_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  // What waits holds modules, whose memory on a device must not be freed this late.
  new std::deque<std::function<void()>>(std::move(waiting_));
}

bool Background::post(std::function<void()> work, size_t most) {
  std::lock_guard lock(mutex_);
  if (waiting_.size() >= most) return false;
  waiting_.push_back(std::move(work));
  if (!thread_.joinable()) thread_ = std::thread([this] { loop(); });
  changed_.notify_all();
  return true;
}

int64_t Background::finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return waiting_.empty() && !working_; });
  return done_;
}

void Background::loop() {
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
