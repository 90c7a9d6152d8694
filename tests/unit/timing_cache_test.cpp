#include "conversion/timing_cache.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace torchweld {
namespace {

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

}  // namespace
}  // namespace torchweld
