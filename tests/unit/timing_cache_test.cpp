#include "conversion/timing_cache.h"

#include <dirent.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "core/error.h"

namespace torchweld {
namespace {

/// A folder for the files of one test.
class TimingCacheFile : public ::testing::Test {
 protected:
  TimingCacheFile() { mkdir(folder_.c_str(), 0777); }
  ~TimingCacheFile() override {
    for (const std::string& name : files()) std::remove((folder_ + "/" + name).c_str());
    rmdir(folder_.c_str());
  }

  /// As many compilations do: each reads the file, learns something, and writes.
  void learn(int learner) const {
    for (int i = 0; i < kTimes; ++i) {
      TimingCache cache;
      cache.load(path_);
      cache.set("learner " + std::to_string(learner) + ", " + std::to_string(i), {"aten", "", 1.0 * i});
      cache.save(path_);
    }
  }
  void expect_all_of(int learners) const {
    TimingCache cache;
    cache.load(path_);
    for (int learner = 0; learner < learners; ++learner) {
      for (int i = 0; i < kTimes; ++i) {
        std::string key = "learner " + std::to_string(learner) + ", " + std::to_string(i);
        EXPECT_TRUE(cache.find(key)) << key;
      }
    }
    EXPECT_EQ(files(), std::vector<std::string>{"timings.txt"});
  }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    DIR* folder = opendir(folder_.c_str());
    while (dirent* entry = readdir(folder)) {
      if (entry->d_name[0] != '.') names.push_back(entry->d_name);
    }
    closedir(folder);
    return names;
  }

  static constexpr int kTimes = 20;
  const std::string folder_ = ::testing::TempDir() + "timing_cache_test." + std::to_string(getpid());
  const std::string path_ = folder_ + "/timings.txt";
};

TEST_F(TimingCacheFile, ManyThreadsWriteOneFile) {
  constexpr int kThreads = 8;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back([this, i] { learn(i); });
  for (std::thread& thread : threads) thread.join();
  expect_all_of(kThreads);
}

TEST_F(TimingCacheFile, ManyProcessesWriteOneFile) {
  constexpr int kProcesses = 8;
  std::vector<pid_t> children;
  for (int i = 0; i < kProcesses; ++i) {
    pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      try {
        learn(i);
      } catch (...) {
        _exit(1);
      }
      _exit(0);
    }
    children.push_back(child);
  }
  for (pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  expect_all_of(kProcesses);
}

TEST_F(TimingCacheFile, KeepsWhatOthersHaveWrittenMeanwhile) {
  std::ofstream(path_) << "a\taten\t\t1\nb\taten\t\t1\n";
  TimingCache mine;
  mine.load(path_);
  TimingCache other;
  other.load(path_);
  other.set("a", {"of another", "", 2});
  other.set("b", {"of another", "", 2});
  other.set("c", {"of another", "", 2});
  other.save(path_);
  mine.set("b", {"mine", "", 3});
  mine.save(path_);
  TimingCache file;
  file.load(path_);
  EXPECT_EQ(file.text(), "a\tof another\t\t2\nb\tmine\t\t3\nc\tof another\t\t2\n");
}

TEST_F(TimingCacheFile, SaysAtOnceWhereNothingCanBeWritten) {
  TimingCache::require_writable(path_);
  EXPECT_TRUE(files().empty());
  std::ofstream(path_) << "a\taten\t\t1\n";
  for (const std::string& path : {folder_ + "/missing/timings.txt", folder_, path_ + "/below"}) {
    EXPECT_THROW(TimingCache::require_writable(path), Error) << path;
    EXPECT_THROW(TimingCache().save(path), Error) << path;
  }
  EXPECT_EQ(files(), std::vector<std::string>{"timings.txt"});
}

TEST(TimingCache, TextReadsBack) {
  TimingCache cache;
  cache.set("cpu | relu(f32[2])", {"cpu_pointwise", "block 1024", 1.5});
  cache.set("cpu | conv(f32[2])", {"aten", "-", 20});
  TimingCache again;
  again.merge(cache.text());
  EXPECT_EQ(again.text(), cache.text());
  auto entry = again.find("cpu | relu(f32[2])");
  ASSERT_TRUE(entry.has_value());
  EXPECT_EQ(entry->tactic, "cpu_pointwise");
  EXPECT_EQ(entry->config, "block 1024");
  EXPECT_EQ(entry->microseconds, 1.5);
  EXPECT_FALSE(again.find("cpu | tanh(f32[2])").has_value());
}

TEST(TimingCache, TimesAreKeptAsTheTextHasThem) {
  TimingCache cache;
  cache.set("node", {"tactic", "config", 10117.4999});
  TimingCache read;
  read.merge(cache.text());
  EXPECT_EQ(cache.find("node"), read.find("node"));
  EXPECT_EQ(cache.find("node")->microseconds, 10117.5);
}

TEST(TimingCache, AnEmptyConfigurationReadsBack) {
  TimingCache cache;
  cache.set("key", {"aten", "", 0});
  TimingCache again;
  again.merge(cache.text());
  EXPECT_TRUE(again.find("key").has_value());
}

TEST(TimingCache, WhatIsReadLastStands) {
  TimingCache cache;
  cache.set("key", {"aten", "", 7});
  cache.merge("key\tsplit\t\t3\nother\tsplit\t\t4\n");
  EXPECT_EQ(cache.find("key")->tactic, "split");
  EXPECT_EQ(cache.find("key")->microseconds, 3);
  EXPECT_EQ(cache.find("other")->microseconds, 4);
  cache.erase("key");
  EXPECT_FALSE(cache.find("key"));
}

TEST(TimingCache, NamesTheLineThatIsNoEntry) {
  TimingCache cache;
  try {
    cache.merge("# a comment\nkey\taten\t\t7\nnonsense\n");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("line 3 of the timing cache is no entry"), std::string::npos);
  }
}

TEST(TimingCache, TimesAreWholeFiniteAndNotNegative) {
  for (const char* time : {"nan", "inf", "-5", "1e400", "1.5garbage", "0x1p3", "", " 1", "1 ", "1\t2"}) {
    TimingCache cache;
    EXPECT_THROW(cache.merge(std::string("key\taten\t\t") + time + "\n"), Error) << "'" << time << "'";
    EXPECT_EQ(cache.text(), "");
  }
  for (const auto& [text, time] : {std::pair("0", 0.0), {"1.5", 1.5}, {"2e+06", 2e6}, {"1.5\r", 1.5}}) {
    TimingCache cache;
    cache.merge(std::string("key\taten\t\t") + text + "\n");
    EXPECT_EQ(cache.find("key")->microseconds, time) << text;
  }
}

}  // namespace
}  // namespace torchweld
