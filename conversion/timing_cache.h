// What is known about the speed of kernels: node and device -> tactic, configuration, microseconds; of plans, with and
// without parallel branches; and of engines beside LibTorch. A text file that people can read, diff, merge, edit and
// ship.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>

namespace torchweld {

/// Safe to use from many threads.
class TimingCache {
 public:
  struct Entry {
    std::string tactic;
    std::string config;
    double microseconds = 0;  ///< 0: chosen without timing.
    bool operator==(const Entry&) const = default;
  };
  using Entries = std::map<std::string, Entry>;

  /// Throws Error unless save() can write to `path`; nothing is left there.
  static void require_writable(const std::string& path);

  std::optional<Entry> find(const std::string& key) const;
  /// The configurations of all entries.
  std::set<std::string> configs() const;
  /// Microseconds are kept with six digits, as in the text.
  void set(const std::string& key, Entry entry);
  void erase(const std::string& key);
  void clear();
  /// One line per entry: `key <tab> tactic <tab> config <tab> microseconds`, sorted.
  std::string text() const;
  /// Sets the entries of a text. Throws Error naming the first line that is none.
  void merge(const std::string& text);
  /// merge() of a file's content; a missing file is an empty cache.
  void load(const std::string& path);
  /// Writes the file anew, whole or not at all, with what has been set here and what others have written since load().
  /// Threads and processes may do that at once. Throws Error when it fails.
  void save(const std::string& path) const;

 private:
  mutable std::mutex mutex_;
  Entries entries_;
  Entries loaded_;  // by load()
};

}  // namespace torchweld
