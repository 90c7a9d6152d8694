#include "conversion/timing_cache.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <sstream>

#include "core/error.h"

namespace torchweld {

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
  std::lock_guard lock(mutex_);
  entries_[key] = std::move(entry);
}

void TimingCache::erase(const std::string& key) {
  std::lock_guard lock(mutex_);
  entries_.erase(key);
}

std::string TimingCache::text() const {
  std::lock_guard lock(mutex_);
  std::ostringstream out;
  for (const auto& [key, entry] : entries_) {
    out << key << '\t' << entry.tactic << '\t' << entry.config << '\t' << entry.microseconds << '\n';
  }
  return out.str();
}

void TimingCache::merge(const std::string& text) {
  std::istringstream in(text);
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream fields(line);
    std::string key;
    Entry entry;
    std::string microseconds;
    bool complete = std::getline(fields, key, '\t') && std::getline(fields, entry.tactic, '\t') &&
                    std::getline(fields, entry.config, '\t') && std::getline(fields, microseconds, '\t');
    char* end = nullptr;
    if (complete) entry.microseconds = std::strtod(microseconds.c_str(), &end);
    if (!complete || end == microseconds.c_str()) {
      throw Error(
          "line " + std::to_string(number) +
          " of the timing cache is no entry (key, tactic, config and microseconds, separated by tabs); correct or "
          "delete the line");
    }
    std::lock_guard lock(mutex_);
    entries_[key] = entry;
  }
}

void TimingCache::load(const std::string& path) {
  std::ifstream file(path);
  if (!file) return;
  std::stringstream text;
  text << file.rdbuf();
  merge(text.str());
}

void TimingCache::save(const std::string& path) const {
  std::string temporary = path + "." + std::to_string(getpid());
  {
    std::ofstream file(temporary, std::ios::trunc);
    file << text();
    if (!file.flush()) throw Error("the timing cache cannot be written to " + path + "; name a writable file");
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    throw Error("the timing cache cannot be written to " + path + "; name a writable file");
  }
}

}  // namespace torchweld
