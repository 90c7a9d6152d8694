// Every kernel's device code compiles for every architecture that Torchweld supports; no GPU or driver is needed.
#include <gtest/gtest.h>

#include <iostream>
#include <map>
#include <regex>
#include <thread>

#include "core/error.h"
#include "kernels/cuda/jit.h"
#include "kernels/cuda/own_kernel.h"
#include "tests/cuda/nodes.h"

namespace torchweld::cuda_tests {
namespace {

const std::vector<std::string> kArchs = {"sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"};

/// Programs that the tactics make for a case, by their text.
void collect(const Case& c, std::map<std::string, std::pair<std::string, cuda::Program>>& programs) {
  bool taken = false;
  cuda::CollectPrograms collecting([&](const cuda::Program& program) {
    programs.emplace(program.text, std::pair(c.name, program));
    taken = true;
  });
  for (const NamedTactic& tactic : own_tactics()) {
    Offers offers;
    offers.set_tactic(tactic.name);
    try {
      tactic.propose(c.node(), {}, offers);
    } catch (const Unsupported&) {
      continue;
    }
    for (const Offers::Offer& offer : offers.offers()) offer.build();
  }
  bool library_only = c.name.starts_with("matmul") || c.name.starts_with("linear_");
  EXPECT_TRUE(taken || library_only) << "no own kernel takes " << c.name;
}

/// Compiles every second program, starting with `first`.
void compile_share(const std::vector<std::pair<std::string, cuda::Program>>& programs,
                   const std::vector<std::string>& archs, size_t first, size_t step, std::vector<std::string>& failures,
                   std::vector<std::string>& spills) {
  static const std::regex spill("([1-9][0-9]*) bytes spill stores");
  for (size_t i = first; i < programs.size(); i += step) {
    for (const std::string& arch : archs) {
      try {
        cuda::Compiled compiled = cuda::compile_afresh(programs[i].second, arch);
        if (compiled.cubin.empty()) failures.push_back(programs[i].first + ": no code");
        std::smatch found;
        if (std::regex_search(compiled.log, found, spill))
          spills.push_back(programs[i].first + " " + arch + ": " + found.str());
      } catch (const std::exception& error) {
        failures.push_back(programs[i].first + ": " + error.what());
      }
    }
  }
}

void compile_all(const std::map<std::string, std::pair<std::string, cuda::Program>>& programs,
                 const std::vector<std::string>& archs, bool forbid_spills) {
  std::vector<std::pair<std::string, cuda::Program>> list;
  for (const auto& [text, program] : programs) list.push_back(program);
  size_t threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::vector<std::string>> failures(threads);
  std::vector<std::vector<std::string>> spills(threads);
  std::vector<std::thread> workers;
  for (size_t t = 0; t < threads; ++t) {
    workers.emplace_back([&, t] { compile_share(list, archs, t, threads, failures[t], spills[t]); });
  }
  for (std::thread& worker : workers) worker.join();
  for (const auto& part : failures) {
    for (const std::string& failure : part) ADD_FAILURE() << failure;
  }
  for (const auto& part : spills) {
    for (const std::string& spilled : part) EXPECT_FALSE(forbid_spills) << "registers spill: " << spilled;
  }
}

const c10::Device kDevice(c10::kCUDA, 0);

TEST(DeviceCode, CompilesForEveryArchitecture) {
  std::map<std::string, std::pair<std::string, cuda::Program>> programs;
  for (const Case& c : cases(c10::kHalf, kDevice, false)) collect(c, programs);
  compile_all(programs, kArchs, true);
}

TEST(DeviceCode, CompilesForOtherDtypes) {
  std::map<std::string, std::pair<std::string, cuda::Program>> programs;
  for (c10::ScalarType dtype : {c10::kFloat, c10::kBFloat16, c10::kDouble}) {
    for (const Case& c : cases(dtype, kDevice, false)) collect(c, programs);
  }
  compile_all(programs, {"sm_80"}, true);
}

TEST(DeviceCode, EveryPointwiseFunctionCompiles) {
  std::map<std::string, std::pair<std::string, cuda::Program>> programs;
  for (c10::ScalarType dtype :
       {c10::kFloat, c10::kDouble, c10::kHalf, c10::kLong, c10::kShort, c10::kByte, c10::kBool}) {
    for (const Case& c : all_pointwise(dtype, kDevice)) collect(c, programs);
  }
  // Functions of the C library in f64 may spill; nobody would unroll less for them.
  compile_all(programs, {"sm_80"}, false);
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
