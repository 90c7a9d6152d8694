// Every kernel's device code compiles for every architecture that Torchweld supports; no GPU or driver is needed.
#include <gtest/gtest.h>

#include <iostream>
#include <map>
#include <regex>
#include <set>

#include "conversion/workers.h"
#include "core/error.h"
#include "core/ops/fused.h"
#include "core/ops/pointwise.h"
#include "kernels/cuda/implicit_gemm.h"
#include "kernels/cuda/jit.h"
#include "tests/cuda/conv_nodes.h"
#include "tests/cuda/running.h"
#include "tests/cuda/transformer_nodes.h"

namespace torchweld::cuda_tests {
namespace {

const std::vector<std::string> kArchs = {"sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"};

/// Programs by their text, each with the name of the first case that has it.
using Programs = std::map<std::string, std::pair<std::string, cuda::Program>>;

void collect(const Case& c, Programs& programs) {
  std::vector<cuda::Program> found = programs_of(c);
  std::map<std::string, int> count;
  for (const cuda::Program& program : found) {
    // Tiles of matrix products differ in numbers only.
    constexpr int kEnough = 2;
    if (++count[program.name] <= kEnough) programs.emplace(program.text, std::pair(c.name, program));
  }
  bool library_only = c.name.starts_with("matmul") || c.name.starts_with("linear_");
  EXPECT_TRUE(!found.empty() || library_only) << "no own kernel takes " << c.name;
}

constexpr int kAnySpill = 1 << 20;

/// What is wrong with a program on an architecture; empty when nothing is.
std::string compile_one(const cuda::Program& program, const std::string& arch, int most_spilled) {
  static const std::regex spill("([1-9][0-9]*) bytes spill stores");
  try {
    cuda::Compiled compiled = cuda::compile_afresh(program, arch);
    if (compiled.cubin.empty()) return "no code";
    std::smatch found;
    if (std::regex_search(compiled.log, found, spill) && std::stoi(found[1]) > most_spilled)
      return "registers spill: " + found.str();
    // ptxas says so where it has to put a wait between products, and in its information only.
    if (compiled.log.find("serialized") != std::string::npos) return "warpgroups wait for each product";
    return "";
  } catch (const std::exception& error) {
    return error.what();
  }
}

void compile_all(const Programs& programs, const std::vector<std::string>& archs, int most_spilled = 0) {
  std::vector<std::pair<std::string, cuda::Program>> list;
  for (const auto& [text, program] : programs) list.push_back(program);
  std::vector<std::string> wrong(list.size() * archs.size());
  for_each_in_parallel(wrong.size(), c10::kCPU, [&](size_t i) {
    wrong[i] = compile_one(list[i / archs.size()].second, archs[i % archs.size()], most_spilled);
  });
  for (size_t i = 0; i < wrong.size(); ++i) {
    const auto& [name, program] = list[i / archs.size()];
    EXPECT_EQ(wrong[i], "") << name << " by " << program.name << " for " << archs[i % archs.size()];
  }
  std::cout << list.size() << " programs for " << archs.size() << " architectures\n";
}

TEST(DeviceCode, CompilesForEveryArchitecture) {
  Programs programs;
  for (const Case& c : cases(c10::kHalf, kDevice, false)) collect(c, programs);
  compile_all(programs, kArchs);
}

TEST(DeviceCode, CompilesForOtherDtypes) {
  Programs programs;
  for (c10::ScalarType dtype : {c10::kFloat, c10::kBFloat16, c10::kDouble}) {
    for (const Case& c : cases(dtype, kDevice, false)) collect(c, programs);
  }
  compile_all(programs, {"sm_80"});
}

/// Those of `list` whose text calls `entry`.
Programs programs_with(const std::string& entry, const std::vector<Case>& list) {
  Programs programs;
  for (const Case& c : list) {
    for (const cuda::Program& program : programs_of(c)) {
      if (program.text.find(entry) != std::string::npos) programs.emplace(program.text, std::pair(c.name, program));
    }
  }
  EXPECT_FALSE(programs.empty()) << entry;
  return programs;
}

TEST(DeviceCode, EveryDepthwiseTileCompiles) {
  compile_all(programs_with("tw::depthwise<", cases(c10::kHalf, kDevice, false)), {"sm_75", "sm_90a"});
  compile_all(programs_with("tw::depthwise<", cases(c10::kFloat, kDevice, false)), {"sm_80"});
}

TEST(DeviceCode, OddProductsCompile) {
  Programs programs;
  for (const Case& c : odd_products(c10::kHalf, kDevice, false)) collect(c, programs);
  compile_all(programs, {"sm_75", "sm_90a"});
}

/// Whether stages of k take the places of earlier ones.
bool has_stages_in_turns(const cuda::Program& program) {
  static const std::regex stages("GemmStages<Tile, Depth, [a-z]+, ([0-9]+), 1, ([0-9]+)>");
  std::smatch found;
  return std::regex_search(program.text, found, stages) && std::stoi(found[1]) > std::stoi(found[2]);
}

TEST(DeviceCode, ProductsInTf32Compile) {
  std::vector<Case> list = odd_products(c10::kFloat, kDevice, false);
  Programs programs;
  for (const Case& c : list) collect(c, programs);
  compile_all(programs, {"sm_80"});
  programs.merge(programs_with("tw::implicit_gemm_warpgroups<", list));
  int in_turns = 0;
  for (const auto& [text, program] : programs) in_turns += has_stages_in_turns(program.second);
  EXPECT_GT(in_turns, 0);
  compile_all(programs, {"sm_90a"});
}

/// Whether warpgroups take the weights' columns for rows.
bool is_swapped(const cuda::Program& program) {
  static const std::regex tile("GemmTile<[a-z0-9:]+, [0-9]+, [0-9]+, 1, [48], 1, ");
  return program.text.find("tw::GemmStages<") != std::string::npos && std::regex_search(program.text, tile);
}

TEST(DeviceCode, SwappedOperandsCompile) {
  for (c10::ScalarType dtype : {c10::kHalf, c10::kFloat}) {
    std::vector<Case> products = odd_products(dtype, kDevice, false);
    Programs programs = programs_with("tw::implicit_gemm_warpgroups<", products);
    if (dtype == c10::kHalf)
      programs.merge(programs_with("tw::implicit_gemm_warpgroups<", deferred_norms(dtype, kDevice, false)));
    bool split = false, norm = false;
    std::erase_if(programs, [](const auto& entry) { return !is_swapped(entry.second.second); });
    for (const auto& [text, program] : programs) {
      split = split || text.find("Multiply, true") != std::string::npos;
      norm = norm || text.find("tw::GemmNorm<") != std::string::npos;
    }
    EXPECT_TRUE(split);
    EXPECT_EQ(norm, dtype == c10::kHalf);
    compile_all(programs, {"sm_90a"});
  }
}

TEST(DeviceCode, LargeProductsCompile) {
  // Where two blocks share a processor's registers, some are kept in memory while a tile ends.
  for (c10::ScalarType dtype : {c10::kHalf, c10::kFloat}) {
    std::vector<Case> list = large_products(dtype, kDevice, false);
    compile_all(programs_with("tw::implicit_gemm_pipeline<", list), {"sm_90a"},
                static_cast<int>(52 * c10::elementSize(dtype)));
  }
}

TEST(DeviceCode, GroupsCompile) {
  for (c10::ScalarType dtype : {c10::kHalf, c10::kFloat}) {
    Programs programs;
    for (const Case& c : grouped_products(dtype, kDevice, false)) collect(c, programs);
    compile_all(programs, {"sm_80", "sm_90a"});
    if (dtype == c10::kHalf) compile_all(programs, {"sm_75"});
  }
}

TEST(DeviceCode, ProductsThatSkipStagesCompile) {
  for (c10::ScalarType dtype : {c10::kHalf, c10::kFloat}) {
    std::map<std::string, Programs> programs;  // By what makes them differ in more than numbers.
    for (const Case& c : dilated_products(dtype, kDevice, false)) {
      std::map<std::string, int> count;
      for (const cuda::Program& program :
           programs_of(c, {{"all", cuda::propose_implicit_gemm}, {"rings", propose_rings_that_skip}})) {
        if (program.text.find("const int* order") == std::string::npos) continue;
        for (const char* form : {"implicit_gemm_pipeline<", "1, true, 1>;\nstruct Multiply", "Multiply, false, ",
                                 "Multiply, true, ", "implicit_gemm_ring<"}) {
          if (program.text.find(form) != std::string::npos && ++count[form] <= 1)
            programs[form].emplace(program.text, std::pair(c.name, program));
        }
      }
    }
    EXPECT_EQ(programs.size(), 5u);
    compile_all(programs["implicit_gemm_pipeline<"], {"sm_90a"}, static_cast<int>(52 * c10::elementSize(dtype)));
    compile_all(programs["implicit_gemm_ring<"], {"sm_80", "sm_90a"});
    for (const char* form : {"1, true, 1>;\nstruct Multiply", "Multiply, false, ", "Multiply, true, "})
      compile_all(programs[form], {"sm_90a"});
  }
}

TEST(DeviceCode, AttentionCompiles) {
  const std::set<std::string> chosen = {"encoder",      "odd_heads", "causal",      "many_mask",
                                        "added_f32",    "long_keys", "image",       "image_mask",
                                        "uneven_heads", "many_odd",  "many_causal", "many_added"};
  for (c10::ScalarType dtype : {c10::kHalf, c10::kFloat}) {
    Programs programs;
    for (const Case& c : attention_nodes(dtype, kDevice)) {
      std::string name = c.name.substr(c.name.find('_') + 1);
      if (chosen.count(name.substr(0, name.find('/')))) collect(c, programs);
    }
    compile_all(programs, {"sm_80", "sm_90a", "sm_120"});
    if (dtype == c10::kHalf) compile_all(programs, {"sm_75"}, kAnySpill);
  }
}

TEST(DeviceCode, AttentionOfEncodersCompilesWithoutSpills) {
  compile_all(programs_with("tw::attention", encoder_attention(c10::kHalf, kDevice)), {"sm_90a"});
  compile_all(programs_with("tw::attention_whole<", encoder_attention(c10::kBFloat16, kDevice)), {"sm_80"});
}

TEST(DeviceCode, KernelsThatWriteIntoSlicesCompile) {
  Programs programs;
  for (c10::ScalarType dtype : {c10::kFloat, c10::kBFloat16, c10::kDouble, c10::kHalf}) {
    for (const Case& c : sliced_results(dtype, kDevice, false, 3)) collect(c, programs);
  }
  compile_all(programs, {"sm_80"});
}

TEST(DeviceCode, DeferredNormsCompile) {
  Programs programs;
  for (const Case& c : deferred_norms(c10::kHalf, kDevice, false)) collect(c, programs);
  compile_all(programs, {"sm_90a"});
}

TEST(DeviceCode, JoinedShortcutsCompile) {
  std::vector<Case> list = joined_shortcuts(c10::kHalf, kDevice, false);
  Programs programs;
  for (const Case& c : list) collect(c, programs);
  compile_all(programs, {"sm_80", "sm_90a"});
  compile_all(programs_with("tw::implicit_gemm_warpgroups<", list), {"sm_90a"});
}

TEST(DeviceCode, LookupsAndComputedRowsCompile) {
  for (c10::ScalarType dtype : {c10::kHalf, c10::kFloat}) {
    Programs programs;
    for (auto make : {lookups, computed_rows}) {
      for (const Case& c : make(dtype, kDevice, false)) collect(c, programs);
    }
    compile_all(programs, {"sm_75", "sm_90a"});
  }
}

TEST(DeviceCode, EveryPointwiseFunctionCompiles) {
  Programs programs;
  for (c10::ScalarType dtype :
       {c10::kFloat, c10::kDouble, c10::kHalf, c10::kLong, c10::kShort, c10::kByte, c10::kBool}) {
    for (const Case& c : all_pointwise(dtype, kDevice)) collect(c, programs);
  }
  // Functions of the C library in f64 may spill; nobody would unroll less for them. Functions differ only between the
  // oldest architecture and the others (tw::max).
  compile_all(programs, {"sm_75", "sm_90a"}, kAnySpill);
}

TEST(DeviceCode, EveryPointwiseFunctionIsAmongTheCases) {
  std::set<std::string> seen;
  for (c10::ScalarType dtype : {c10::kFloat, c10::kLong}) {
    for (const Case& c : all_pointwise(dtype, kDevice)) {
      for (const auto& node : c.node().as<Fused>()->body->nodes()) {
        if (auto* pointwise = node->as<Pointwise>()) seen.insert(pointwise->fn);
      }
    }
  }
  for (const PointwiseFn& fn : pointwise_table()) EXPECT_TRUE(seen.count(fn.name)) << fn.name;
}

// The offers' programs are the same; which of them comes first may differ.
TEST(DeviceCode, IsTheSameForEveryBatchSize) {
  auto texts = [](c10::ScalarType dtype, int64_t batch) {
    std::map<std::string, std::set<std::string>> result;
    for (const Case& c : cases_of_batch(dtype, kDevice, batch)) {
      for (const cuda::Program& program : programs_of(c)) result[c.name].insert(program.text);
    }
    return result;
  };
  for (c10::ScalarType dtype : {c10::kFloat, c10::kHalf}) {
    auto expected = texts(dtype, 2);
    for (int64_t batch : {1, 3, 64}) {
      auto found = texts(dtype, batch);
      for (const auto& [name, programs] : expected) {
        EXPECT_FALSE(programs.empty()) << name;
        EXPECT_EQ(found[name], programs) << name << " at batch " << batch;
      }
    }
  }
}

TEST(DeviceCode, ErrorsCarryTheCompilersWords) {
  try {
    cuda::compile_afresh({"broken", "extern \"C\" __global__ void kernel() { nonsense; }"}, "sm_80");
    FAIL() << "no error";
  } catch (const InternalError& error) {
    EXPECT_NE(std::string(error.what()).find("nonsense"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace torchweld::cuda_tests
