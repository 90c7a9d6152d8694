// The pass table and its runner.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "conversion/passes/passes.h"
#include "conversion/place.h"
#include "core/ops/fused.h"

namespace torchweld {
namespace {

/// Sets an environment variable for the length of a test.
class Setting {
 public:
  Setting(const char* name, const std::string& value) : name_(name) { setenv(name, value.c_str(), 1); }
  ~Setting() { unsetenv(name_); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  const char* name_;
};

constexpr const char* kChain = R"(graph(%x: f32[8]) {
  %a = pointwise{fn="relu"}(%x)
  %b = pointwise{fn="relu"}(%a)
  %c = pointwise{fn="tanh"}(%b)
  return %c
})";

TEST(PassRunner, RunsTheWholeTable) {
  auto graph = Graph::parse(kChain);
  optimize(*graph, {});
  ASSERT_EQ(graph->nodes().size(), 1u);
  EXPECT_TRUE(graph->nodes().front()->as<Fused>());
}

TEST(PassRunner, LeavesOutWhatIsDisabled) {
  Setting disable("TORCHWELD_DISABLE", "simplify,fuse");
  auto graph = Graph::parse(kChain);
  std::string before = graph->text();
  optimize(*graph, {});
  EXPECT_EQ(graph->text(), before);
}

TEST(PassRunner, KeepsResultsApartThatWereApart) {
  // What needs no computing must not hand out the memory of an input, nor equal results the same memory; a view that
  // the program itself takes of an input stays one.
  auto graph = Graph::parse(R"(graph(%x: f32[1,8]) {
  %sum = reduce{kind="sum", axes=[0], keepdim=false, parameter=0.0}(%x)
  %a = pointwise{fn="relu"}(%x)
  %b = pointwise{fn="relu"}(%x)
  %view = reshape{shape=[8]}(%x)
  return %sum, %a, %b, %view
})");
  optimize(*graph, {});
  std::set<const Value*> memory;
  for (const Value* output : graph->outputs()) memory.insert(memory_of(output));
  EXPECT_EQ(memory.size(), 4u);
  EXPECT_EQ(memory_of(graph->outputs()[3]), graph->inputs()[0].get());
}

TEST(PassRunner, WritesStagesThatChangedTheGraph) {
  // Not std::filesystem::remove_all: LibTorch exports one of its own, which crashes in programs built with another GCC.
  std::string folder = testing::TempDir() + "torchweld_passes_XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  Setting dump("TORCHWELD_DUMP", folder);
  auto graph = Graph::parse(kChain);
  optimize(*graph, {.precisions = {c10::kFloat}, .name = "chain"});
  // simplify drops the second relu; what is left is fused.
  std::set<std::string> changing = {"simplify", "fuse"};
  for (size_t i = 0; i <= passes().size(); ++i) {
    std::string stage = (i < 10 ? "0" : "") + std::to_string(i);
    std::string path = folder + "/chain." + stage + ".txt";
    std::ifstream file(path);
    bool changed = i == 0 || changing.erase(passes()[i - 1].name) > 0;
    EXPECT_EQ(file.good(), changed) << stage;
    std::stringstream text;
    text << file.rdbuf();
    if (i > 0 && std::string(passes()[i - 1].name) == "fuse") {
      EXPECT_EQ(text.str(), "# after fuse\n" + graph->text() + "\n");
    }
    if (changed) std::remove(path.c_str());
  }
  rmdir(folder.c_str());
}

}  // namespace
}  // namespace torchweld
