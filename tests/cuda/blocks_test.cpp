// Kernels for blocks: their device code compiles everywhere, and on a GPU they mean what their parts mean.
#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <map>
#include <regex>
#include <set>

#include "conversion/passes/groups.h"
#include "conversion/workers.h"
#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "kernels/cuda/own_kernel.h"
#include "kernels/cuda/stem.h"
#include "tests/cuda/blocks.h"
#include "tests/cuda/running.h"
#include "tests/tolerance.h"

namespace torchweld::cuda_tests {
namespace {

Offers offers_of(const Case& c) {
  Offers offers;
  for (const NamedTactic& tactic : block_tactics()) {
    offers.set_tactic(tactic.name);
    try {
      tactic.propose(c.node(), {}, offers);
    } catch (const Unsupported& reason) {
      offers.refuse(reason.what());
    }
  }
  return offers;
}

/// Kernels of some sizes in which warpgroups multiply.
Offers stems_by_warpgroups(const Case& c) {
  constexpr size_t kAll = 1 << 20, kSome = 7;
  Offers all;
  all.set_tactic("stem");
  cuda::offer_stems(c.node(), kAll, all);
  std::vector<std::string> names;
  for (const Offers::Offer& offer : all.offers()) {
    if (offer.config.ends_with("warpgroups")) names.push_back(offer.config);
  }
  std::set<std::string> wanted;
  for (size_t i = 0; i < std::min(names.size(), kSome); ++i) wanted.insert(names[i * names.size() / kSome]);
  Offers offers;
  offers.set_tactic("stem");
  cuda::offer_stems(c.node(), 0, offers, &wanted);
  return offers;
}

std::vector<cuda::Program> block_programs(const Case& c) {
  std::vector<cuda::Program> programs;
  cuda::CollectPrograms collecting([&](const cuda::Program& program) { programs.push_back(program); });
  Offers offers = offers_of(c);
  for (const Offers::Offer& offer : offers.offers()) offer.build();
  for (const auto& [tactic, reason] : offers.refusals())
    std::cout << c.name << ": " << tactic << ": " << reason << "\n";
  return programs;
}

void put_specials(at::Tensor& t) {
  t.view({-1})[0].fill_(INFINITY);
  if (t.size(0) > 1) t[1].fill_(NAN);
}

/// In each sample one pixel of each kind, so that most windows have none.
void put_lone_specials(at::Tensor& t) {
  at::Tensor pixels = t.flatten(2);
  int64_t last = pixels.size(2) - 1;
  pixels.select(2, 0).fill_(INFINITY);
  pixels.select(2, last / 2).fill_(-INFINITY);
  pixels.select(2, last).fill_(NAN);
}

/// Runs a kernel on copies of the inputs that begin `offset` elements behind an aligned address, and compares.
void expect_like(const Case& c, const Kernel& kernel, const std::vector<at::Tensor>& inputs,
                 const std::vector<at::Tensor>& eager, const std::vector<at::Tensor>& reference, int64_t offset,
                 const std::string& what) {
  std::vector<at::Tensor> placed;
  for (const auto& value : c.graph->inputs()) {
    placed.push_back(place(value->type, offset));
    placed.back().copy_(inputs[value->index()]);
  }
  std::vector<at::Tensor> outputs = run_kernel(c, kernel, placed, offset);
  for (size_t k = 0; k < outputs.size(); ++k) {
    std::string wrong = test::compare(outputs[k], eager[k], reference[k], test::largest_number(inputs));
    EXPECT_TRUE(wrong.empty()) << what << (offset ? " misaligned" : "") << ", result " << k << ": " << wrong;
  }
}

/// Runs every offer of every case, with tensors at each of the offsets, and compares. `put` changes the first input.
void expect_meaning(const std::vector<Case>& cases, const std::vector<int64_t>& offsets, void (*put)(at::Tensor&),
                    Offers (*offers_of_case)(const Case&) = offers_of) {
  int ran = 0;
  for (size_t number = 0; number < cases.size(); number += case_stride()) {
    const Case& c = cases[number];
    std::vector<at::Tensor> inputs;
    for (const auto& value : c.graph->inputs()) {
      at::Tensor numbers = at::randn(value->type.shape);
      if (put && inputs.empty()) put(numbers);
      inputs.push_back(place(value->type, 0));
      inputs.back().copy_(numbers);
    }
    std::vector<at::Tensor> eager = run_eager(*c.graph, inputs);
    std::vector<at::Tensor> reference = run_f64(*c.graph, inputs);
    Offers offers = offers_of_case(c);
    for (const auto& [tactic, reason] : offers.refusals())
      std::cout << c.name << ": " << tactic << ": " << reason << "\n";
    EXPECT_FALSE(offers.offers().empty()) << c.name;
    std::vector<std::future<std::unique_ptr<Kernel>>> kernels = build_all(offers);
    for (size_t i = 0; i < kernels.size(); ++i) {
      const Offers::Offer& offer = offers.offers()[i];
      std::string what = c.name + " by " + offer.tactic + " " + offer.config;
      try {
        std::unique_ptr<Kernel> kernel = kernels[i].get();
        for (int64_t offset : offsets) {
          expect_like(c, *kernel, inputs, eager, reference, offset, what);
          cudaError_t status = cudaDeviceSynchronize();
          ASSERT_EQ(status, cudaSuccess) << what << ": " << cudaGetErrorString(status);
        }
        ++ran;
      } catch (const std::exception& error) {
        ADD_FAILURE() << what << ": " << error.what();
      }
    }
  }
  std::cout << ran << " kernels run\n";
  EXPECT_GT(ran, 0);
}

using CasesOfDtype = std::vector<Case> (*)(c10::ScalarType dtype, bool constants_on_device);

/// Compiles up to `most` programs of each case, one in bf16; none may spill registers.
void expect_compiles(CasesOfDtype cases, size_t most) {
  std::map<std::string, std::pair<std::string, cuda::Program>> programs;
  for (c10::ScalarType dtype : {c10::kHalf, c10::kBFloat16}) {
    for (const Case& c : cases(dtype, false)) {
      std::vector<cuda::Program> found = block_programs(c);
      EXPECT_FALSE(found.empty()) << c.name;
      // The other offers differ from these in sizes, or only in the type.
      if (size_t kept = dtype == c10::kHalf ? most : 1; found.size() > kept)
        found.erase(found.begin() + static_cast<std::ptrdiff_t>(kept), found.end());
      for (const cuda::Program& program : found) programs.emplace(program.text, std::pair(c.name, program));
    }
  }
  std::vector<std::pair<std::string, cuda::Program>> list;
  for (const auto& [text, program] : programs) list.push_back(program);
  // All programs for one architecture, and some for each of the others.
  std::vector<std::pair<size_t, std::string>> jobs;
  for (size_t i = 0; i < list.size(); ++i) jobs.emplace_back(i, "sm_90a");
  for (const char* arch : {"sm_80", "sm_86", "sm_89", "sm_100", "sm_120"}) {
    for (size_t i = 0; i < list.size(); i += 16) jobs.emplace_back(i, arch);
  }
  std::vector<std::string> wrong(jobs.size());
  for_each_in_parallel(jobs.size(), c10::kCPU, [&](size_t i) {
    static const std::regex spill("([1-9][0-9]*) bytes spill stores");
    try {
      cuda::Compiled compiled = cuda::compile_afresh(list[jobs[i].first].second, jobs[i].second);
      std::smatch found;
      if (std::regex_search(compiled.log, found, spill)) wrong[i] = "registers spill: " + found.str();
    } catch (const std::exception& error) {
      wrong[i] = error.what();
    }
  });
  for (size_t i = 0; i < jobs.size(); ++i)
    EXPECT_EQ(wrong[i], "") << list[jobs[i].first].first << " for " << jobs[i].second;
  std::cout << list.size() << " programs, " << jobs.size() << " compilations\n";
}

TEST(BlockCode, CompilesForEveryArchitectureWithTensorCores) { expect_compiles(block_cases, 4); }

TEST(BlockCode, StemsCompileForEveryArchitectureWithTensorCores) {
  expect_compiles(stem_cases, 4);
  expect_compiles(wide_stem_cases, 4);
  expect_compiles(stems_of_networks, 4);
}

class CudaBlocks : public ::testing::TestWithParam<c10::ScalarType> {
 protected:
  void SetUp() override {
    if (!at::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  }
  c10::InferenceMode inference_;
};

TEST_P(CudaBlocks, MeanWhatTheirPartsMean) {
  std::vector<Case> cases = block_cases(GetParam(), true);
  compile_ahead(cases, block_programs);
  expect_meaning(cases, {0, 1}, nullptr);
}

TEST_P(CudaBlocks, KeepNanAndInfinities) {
  std::vector<Case> cases = block_cases(GetParam(), true);
  compile_ahead(cases, block_programs);
  expect_meaning(cases, {0}, put_specials);
}

TEST_P(CudaBlocks, StemsMeanWhatTheirPartsMean) {
  std::vector<Case> cases = stem_cases(GetParam(), true);
  compile_ahead(cases, block_programs);
  expect_meaning(cases, {0, 1}, nullptr);
  expect_meaning(cases, {0, 1}, put_lone_specials);
}

TEST_P(CudaBlocks, StemsByWarpgroupsMeanWhatTheirPartsMean) {
  if (cuda::arch_of_device(0) != "sm_90a") GTEST_SKIP() << "no warpgroups";
  std::vector<Case> cases = wide_stem_cases(GetParam(), true);
  expect_meaning(cases, {0, 1}, nullptr, stems_by_warpgroups);
  expect_meaning(cases, {0, 1}, put_lone_specials, stems_by_warpgroups);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, CudaBlocks, ::testing::Values(c10::kHalf, c10::kBFloat16),
                         [](const auto& info) { return dtype_name(info.param); });

}  // namespace
}  // namespace torchweld::cuda_tests
