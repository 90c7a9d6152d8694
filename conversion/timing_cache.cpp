#include "conversion/timing_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <locale>
#include <random>
#include <sstream>
#include <utility>

#include "core/error.h"

namespace torchweld {
namespace {

Error not_writable(const std::string& path, const std::string& why) {
  return Error("the timing cache cannot be written to " + path + " (" + why + "); name a writable file");
}

std::string print_time(double microseconds) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  out << microseconds;
  return out.str();
}

/// The microseconds of an entry; nothing when the field is anything else than a time.
std::optional<double> parse_time(const std::string& field) {
  double time = 0;
  auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), time);
  bool whole = error == std::errc() && end == field.data() + field.size();
  return whole && std::isfinite(time) && time >= 0 ? std::optional(time) : std::nullopt;
}

TimingCache::Entries parse_entries(const std::string& text) {
  TimingCache::Entries entries;
  std::istringstream in(text);
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty() || line[0] == '#') continue;
    std::istringstream fields(line);
    std::string key;
    std::string microseconds;
    TimingCache::Entry entry;
    bool complete = std::getline(fields, key, '\t') && std::getline(fields, entry.tactic, '\t') &&
                    std::getline(fields, entry.config, '\t') && std::getline(fields, microseconds);
    std::optional<double> time = complete ? parse_time(microseconds) : std::nullopt;
    if (!time) {
      throw Error(
          "line " + std::to_string(number) +
          " of the timing cache is no entry (key, tactic, config and microseconds, separated by tabs); correct or "
          "delete the line");
    }
    entry.microseconds = *time;
    entries[key] = std::move(entry);
  }
  return entries;
}

std::string print_entries(const TimingCache::Entries& entries) {
  std::string text;
  for (const auto& [key, entry] : entries)
    text += key + '\t' + entry.tactic + '\t' + entry.config + '\t' + print_time(entry.microseconds) + '\n';
  return text;
}

/// The content of a file; empty when there is none.
std::string content_of(const std::string& path) {
  std::ifstream file(path);
  if (!file && access(path.c_str(), F_OK) == 0) throw Error("the timing cache " + path + " cannot be read");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

/// A file under a name of its own beside `path`, which takes that one's place or goes.
class Replacement {
 public:
  explicit Replacement(const std::string& path) : path_(path) {
    std::random_device random;
    name_ = path + "." + std::to_string(getpid()) + "." + std::to_string(random());
    file_ = std::fopen(name_.c_str(), "wx");
    if (!file_) throw not_writable(path, std::strerror(errno));
  }
  Replacement(const Replacement&) = delete;
  ~Replacement() {
    if (file_) std::fclose(file_);
    if (!name_.empty()) std::remove(name_.c_str());
  }

  void finish(const std::string& text) {
    bool whole = std::fwrite(text.data(), 1, text.size(), file_) == text.size();
    whole = std::fclose(std::exchange(file_, nullptr)) == 0 && whole;
    if (!whole || std::rename(name_.c_str(), path_.c_str()) != 0) throw not_writable(path_, std::strerror(errno));
    name_.clear();
  }

 private:
  std::string path_;
  std::string name_;
  std::FILE* file_ = nullptr;
};

/// Keeps others, threads and processes, from replacing a file (which is made when it is not there). Where the file
/// system has no locks it does nothing.
class FileLock {
 public:
  explicit FileLock(const std::string& path) {
    struct stat held;
    struct stat named;
    do {  // until the file that is locked still has the name: who had the lock before has replaced the file
      if (file_ >= 0) close(file_);
      file_ = open(path.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC, 0666);
      if (file_ < 0) throw not_writable(path, std::strerror(errno));
      while (flock(file_, LOCK_EX) != 0) {
        if (errno != EINTR) return;
      }
    } while (fstat(file_, &held) != 0 || stat(path.c_str(), &named) != 0 || held.st_ino != named.st_ino ||
             held.st_dev != named.st_dev);
  }
  FileLock(const FileLock&) = delete;
  ~FileLock() { close(file_); }

 private:
  int file_ = -1;
};

}  // namespace

void TimingCache::require_writable(const std::string& path) {
  struct stat now;
  if (stat(path.c_str(), &now) == 0 && S_ISDIR(now.st_mode)) throw not_writable(path, std::strerror(EISDIR));
  Replacement probe(path);
}

std::optional<TimingCache::Entry> TimingCache::find(const std::string& key) const {
  std::lock_guard lock(mutex_);
  auto found = entries_.find(key);
  return found == entries_.end() ? std::nullopt : std::optional(found->second);
}

std::set<std::string> TimingCache::configs() const {
  std::lock_guard lock(mutex_);
  std::set<std::string> all;
  for (const auto& [key, entry] : entries_) all.insert(entry.config);
  return all;
}

void TimingCache::set(const std::string& key, Entry entry) {
  // Of a number in memory and its text one must not choose otherwise than the other.
  entry.microseconds = parse_time(print_time(entry.microseconds)).value_or(entry.microseconds);
  std::lock_guard lock(mutex_);
  entries_[key] = std::move(entry);
}

void TimingCache::erase(const std::string& key) {
  std::lock_guard lock(mutex_);
  entries_.erase(key);
}

void TimingCache::clear() {
  std::lock_guard lock(mutex_);
  entries_.clear();
  loaded_.clear();
}

std::string TimingCache::text() const {
  std::lock_guard lock(mutex_);
  return print_entries(entries_);
}

void TimingCache::merge(const std::string& text) {
  Entries read = parse_entries(text);
  std::lock_guard lock(mutex_);
  for (auto& [key, entry] : read) entries_[key] = std::move(entry);
}

void TimingCache::load(const std::string& path) {
  Entries read = parse_entries(content_of(path));
  std::lock_guard lock(mutex_);
  for (const auto& [key, entry] : read) entries_[key] = entry;
  loaded_ = std::move(read);
}

void TimingCache::save(const std::string& path) const {
  FileLock alone(path);
  Entries all = parse_entries(content_of(path));
  {
    std::lock_guard lock(mutex_);
    for (const auto& [key, entry] : entries_) {
      auto before = loaded_.find(key);
      bool is_own = before == loaded_.end() || before->second != entry;
      if (is_own) {
        all[key] = entry;
      } else {
        all.emplace(key, entry);
      }
    }
  }
  Replacement(path).finish(print_entries(all));
}

}  // namespace torchweld
