// Every kernel of every tactic against the ATen meaning in float64, on a GPU; skipped, and counted, without one.
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/where.h>
#include <c10/core/InferenceMode.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <map>
#include <unordered_map>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "core/ops/index.h"
#include "core/ops/pointwise.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/implicit_gemm.h"
#include "kernels/cuda/pointwise.h"
#include "tests/cuda/conv_nodes.h"
#include "tests/cuda/running.h"
#include "tests/cuda/transformer_nodes.h"
#include "tests/tolerance.h"

namespace torchweld::cuda_tests {
namespace {

/// Small integers of both signs; 0 only in the first input, since an integer divided by 0 is undefined on GPUs.
at::Tensor integers(const TensorType& type, bool with_zero) {
  bool is_signed = c10::isSignedType(type.dtype) && type.dtype != c10::kBool;
  at::Tensor numbers = at::randint(is_signed ? -4 : 0, 5, type.shape);
  return with_zero || type.dtype == c10::kBool ? numbers : at::where(at::eq(numbers, 0), 3, numbers);
}

/// Puts what is not finite into the samples 1 to 5 (of the outermost dimension): all NaN; infinity at the first of each
/// sample's channels; minus infinity there; one NaN; all minus infinity.
void put_specials(at::Tensor& t) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  int64_t samples = t.dim() > 1 ? t.size(0) : 0;
  if (samples > 1) t[1].fill_(NAN);
  if (samples > 2) t[2][0].fill_(kInfinity);
  if (samples > 3) t[3][0].fill_(-kInfinity);
  if (samples > 4) t[4].view(-1)[3] = NAN;
  if (samples > 5) t[5].fill_(-kInfinity);
}

std::vector<at::Tensor> make_inputs(const Graph& graph, int64_t offset, bool specials) {
  std::vector<at::Tensor> inputs;
  for (const auto& value : graph.inputs()) {
    const TensorType& type = value->type;
    at::Tensor numbers = type.is_floating() ? at::randn(type.shape) : integers(type, inputs.empty());
    if (specials) put_specials(numbers);
    at::Tensor input = place(type, offset);
    input.copy_(numbers);
    inputs.push_back(input);
  }
  return inputs;
}

/// How the kernels of a list of cases are run.
struct Manner {
  int64_t offset = 0;  ///< Elements between an aligned address and the tensors.
  bool allow_tf32 = false;
  bool specials = false;
};

/// Numbers that a case is run on, and what must come out.
struct Expected {
  std::vector<at::Tensor> inputs;
  std::vector<at::Tensor> eager;
  std::vector<at::Tensor> reference;
  double largest = 0;
};

Expected expect_of(const Case& c, const Manner& manner) {
  // Eager computes in the precision that our kernels are allowed.
  at::globalContext().setAllowTF32CuDNN(manner.allow_tf32);
  at::globalContext().setAllowTF32CuBLAS(manner.allow_tf32);
  Expected expected;
  expected.inputs = make_inputs(*c.graph, manner.offset, manner.specials);
  // LibTorch's own attention takes only aligned operands.
  std::vector<at::Tensor> aligned;
  for (const at::Tensor& input : expected.inputs) aligned.push_back(manner.offset > 0 ? input.clone() : input);
  expected.eager = run_eager(*c.graph, aligned);
  bool integers = !expected.inputs.empty() && !expected.inputs[0].is_floating_point();
  expected.reference = integers ? expected.eager : run_f64(*c.graph, expected.inputs);
  expected.largest = test::largest_number(expected.inputs);
  return expected;
}

/// Whether the memory round the tensor, and in its gaps, is NaN.
bool all_else_is_nan(const at::Tensor& tensor) {
  at::Tensor memory = memory_of(tensor).clone();
  memory.as_strided(tensor.sizes(), tensor.strides(), tensor.storage_offset()).fill_(std::nan(""));
  return at::isnan(memory).all().item<bool>();
}

void run_offer(const Case& c, const std::string& what, const Kernel& kernel, const Expected& expected,
               const Manner& manner) {
  std::vector<at::Tensor> outputs = run_kernel(c, kernel, expected.inputs, manner.offset);
  cudaError_t status = cudaDeviceSynchronize();
  ASSERT_EQ(status, cudaSuccess) << what << ": " << cudaGetErrorString(status);
  for (size_t i = 0; i < outputs.size(); ++i) {
    std::string wrong =
        test::compare(outputs[i], expected.eager[i], expected.reference[i], expected.largest, manner.allow_tf32);
    EXPECT_TRUE(wrong.empty()) << what << ", output " << i << ": " << wrong;
    if (outputs[i].is_floating_point()) EXPECT_TRUE(all_else_is_nan(outputs[i])) << what << " writes beside its result";
  }
}

/// Runs every offer of a tactic for a case and returns how many ran. `refusal` gets the reason when there is none.
int run_tactic(const Case& c, const NamedTactic& tactic, const Expected& expected, const Manner& manner,
               std::string& refusal) {
  KernelContext context;
  context.allow_tf32 = manner.allow_tf32;
  Offers offers;
  offers.set_tactic(tactic.name);
  try {
    tactic.propose(c.node(), context, offers);
  } catch (const Unsupported& reason) {
    refusal = reason.what();
  }
  std::vector<std::future<std::unique_ptr<Kernel>>> kernels = build_all(offers);
  int ran = 0;
  for (size_t i = 0; i < kernels.size(); ++i) {
    const Offers::Offer& offer = offers.offers()[i];
    std::string what = c.name + " by " + offer.tactic + " " + offer.config + (manner.offset ? " misaligned" : "");
    try {
      std::unique_ptr<Kernel> kernel = kernels[i].get();
      run_offer(c, what, *kernel, expected, manner);
      ++ran;
    } catch (const Unsupported& reason) {
      refusal = reason.what();
    } catch (const std::exception& error) {
      ADD_FAILURE() << what << ": " << error.what();
    }
    if (::testing::Test::HasFatalFailure()) break;
  }
  return ran;
}

/// How many kernels ran, by tactic and case.
using Ran = std::map<std::string, std::map<std::string, int>>;

Ran run_cases(const std::vector<Case>& list, const std::vector<NamedTactic>& tactics, const Manner& manner) {
  Ran ran;
  int kernels = 0;
  for (size_t i = 0; i < list.size(); i += case_stride()) {
    const Case& c = list[i];
    Expected expected = expect_of(c, manner);
    for (const NamedTactic& tactic : tactics) {
      std::string refusal;
      int count = run_tactic(c, tactic, expected, manner, refusal);
      if (::testing::Test::HasFatalFailure()) return ran;
      bool library = std::string(tactic.name) == "cudnn" || std::string(tactic.name) == "cublaslt";
      if (library && count == 0 && !refusal.empty())
        std::cout << c.name << " by " << tactic.name << ": refused: " << refusal << "\n";
      ran[tactic.name][c.name] += count;
      kernels += count;
    }
  }
  std::cout << kernels << " kernels run\n";
  return ran;
}

class CudaKernels : public ::testing::TestWithParam<c10::ScalarType> {
 protected:
  void SetUp() override {
    if (!at::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  }
  c10::InferenceMode inference_;
};

/// Runs all cases by all tactics of ours in each manner; the one named takes every case.
void expect_taken_by(const std::string& tactic, const std::vector<Case>& list, const std::vector<Manner>& manners) {
  compile_ahead(list, programs_of);
  for (const Manner& manner : manners) {
    Ran ran = run_cases(list, own_tactics(), manner);
    EXPECT_FALSE(ran[tactic].empty());
    for (const auto& [name, count] : ran[tactic]) EXPECT_GT(count, 0) << name;
  }
}

TEST_P(CudaKernels, OwnCodeMeansWhatAtenMeans) {
  std::vector<Case> list = cases(GetParam(), kDevice, true);
  for (Case& c : all_pointwise(GetParam(), kDevice)) list.push_back(std::move(c));
  compile_ahead(list, programs_of);
  for (int64_t offset : {0, 1}) run_cases(list, own_tactics(), {.offset = offset});
}

TEST_P(CudaKernels, OwnCodeWritesIntoSlices) {
  for (int64_t more : {8, 3}) {
    std::vector<Case> list = sliced_results(GetParam(), kDevice, true, more);
    compile_ahead(list, programs_of);
    run_cases(list, own_tactics(), {.offset = more});
  }
}

TEST_P(CudaKernels, LibrariesMeanWhatAtenMeans) { run_cases(cases(GetParam(), kDevice, true), library_tactics(), {}); }

INSTANTIATE_TEST_SUITE_P(Dtypes, CudaKernels, ::testing::Values(c10::kHalf, c10::kFloat, c10::kBFloat16, c10::kDouble),
                         [](const auto& info) { return dtype_name(info.param); });

using CudaProducts = CudaKernels;

TEST_P(CudaProducts, OddSizesMeanWhatAtenMeans) {
  std::vector<Case> list = odd_products(GetParam(), kDevice, true);
  compile_ahead(list, programs_of);
  for (int64_t offset : {0, 1}) run_cases(list, own_tactics(), {.offset = offset, .allow_tf32 = true});
}

TEST_P(CudaProducts, LargeSizesMeanWhatAtenMeans) {
  std::vector<Case> list = large_products(GetParam(), kDevice, true);
  compile_ahead(list, programs_of);
  for (int64_t offset : {0, 1}) run_cases(list, own_tactics(), {.offset = offset, .allow_tf32 = true});
}

// NaN and infinities too: they stay in their group.
TEST_P(CudaProducts, GroupsMeanWhatAtenMeans) {
  std::vector<Case> list = grouped_products(GetParam(), kDevice, true);
  expect_taken_by("implicit_gemm", list,
                  {{.allow_tf32 = true}, {.offset = 1, .allow_tf32 = true}, {.allow_tf32 = true, .specials = true}});
}

TEST_P(CudaProducts, TapsOutsideTheImageAreLeftOut) {
  std::vector<Case> list = dilated_products(GetParam(), kDevice, true);
  compile_ahead(list, programs_of);
  // The second: what devices without warpgroups take.
  const std::vector<NamedTactic> tactics = {{"implicit_gemm", cuda::propose_implicit_gemm},
                                            {"rings", propose_rings_that_skip}};
  Ran ran;
  for (Manner manner : {Manner{}, Manner{.offset = 1}, Manner{.specials = true}}) {
    manner.allow_tf32 = true;
    ran = run_cases(list, tactics, manner);
  }
  int rings = 0;
  for (const auto& [name, count] : ran["rings"]) rings += count;
  EXPECT_GT(rings, 0);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, CudaProducts, ::testing::Values(c10::kHalf, c10::kFloat, c10::kBFloat16),
                         [](const auto& info) { return dtype_name(info.param); });

using CudaShortcuts = CudaKernels;

TEST_P(CudaShortcuts, JoinedConvolutionsMeanWhatAtenMeans) {
  std::vector<Case> list = joined_shortcuts(GetParam(), kDevice, true);
  expect_taken_by("implicit_gemm", list, {{}, {.offset = 1}, {.specials = true}});
}

INSTANTIATE_TEST_SUITE_P(Dtypes, CudaShortcuts, ::testing::Values(c10::kHalf, c10::kBFloat16),
                         [](const auto& info) { return dtype_name(info.param); });

using CudaAttention = CudaKernels;

TEST_P(CudaAttention, MeansWhatAtenMeans) {
  std::vector<Case> list = attention_nodes(GetParam(), kDevice);
  for (Case& c : attention_nodes_with_dead_rows(GetParam(), kDevice)) list.push_back(std::move(c));
  expect_taken_by("attention", list, {{.allow_tf32 = true}, {.offset = 1, .allow_tf32 = true}});
}

INSTANTIATE_TEST_SUITE_P(Dtypes, CudaAttention, ::testing::Values(c10::kHalf, c10::kFloat, c10::kBFloat16),
                         [](const auto& info) { return dtype_name(info.param); });

using CudaTransformers = CudaKernels;

TEST_P(CudaTransformers, DeferredNormsMeanWhatAtenMeans) {
  if (cuda::arch_of_device(0) != "sm_90a") GTEST_SKIP() << "no warpgroups";
  std::vector<Case> list = deferred_norms(GetParam(), kDevice, true);
  expect_taken_by("deferred_norm", list, {{}, {.offset = 1}});
}

using CudaRows = CudaKernels;

TEST_P(CudaRows, LookupsMeanWhatAtenMeans) {
  std::vector<Case> list = lookups(GetParam(), kDevice, true);
  expect_taken_by("pointwise", list, {{}, {.offset = 1}, {.specials = true}});
}

TEST_P(CudaRows, ComputedRowsMeanWhatAtenMeans) {
  std::vector<Case> list = computed_rows(GetParam(), kDevice, true);
  expect_taken_by("rows", list, {{}, {.offset = 1}, {.specials = true}});
}

INSTANTIATE_TEST_SUITE_P(Dtypes, CudaRows, ::testing::Values(c10::kHalf, c10::kFloat, c10::kBFloat16),
                         [](const auto& info) { return dtype_name(info.param); });

INSTANTIATE_TEST_SUITE_P(Dtypes, CudaTransformers, ::testing::Values(c10::kHalf, c10::kBFloat16),
                         [](const auto& info) { return dtype_name(info.param); });

using CudaSpecials = CudaKernels;

// As LibTorch: NaN and infinities are never dropped by relu, clamp or a maximum.
TEST_P(CudaSpecials, NanAndInfinitiesPassThroughEveryKernel) {
  std::vector<Case> list = cases_for_specials(GetParam(), kDevice);
  compile_ahead(list, programs_of);
  std::vector<NamedTactic> tactics = own_tactics();
  for (const NamedTactic& tactic : library_tactics()) tactics.push_back(tactic);
  run_cases(list, tactics, {.allow_tf32 = true, .specials = true});
}

INSTANTIATE_TEST_SUITE_P(Dtypes, CudaSpecials, ::testing::Values(c10::kHalf, c10::kFloat),
                         [](const auto& info) { return dtype_name(info.param); });

class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  }
  c10::InferenceMode inference_;
};

using CudaPointwise = CudaTest;
TEST_F(CudaPointwise, IntegersMeanWhatAtenMeans) {
  std::vector<Case> list;
  for (c10::ScalarType dtype : {c10::kLong, c10::kInt, c10::kByte, c10::kBool}) {
    for (Case& c : all_pointwise(dtype, kDevice)) list.push_back(std::move(c));
  }
  compile_ahead(list, programs_of);
  run_cases(list, own_tactics(), {});
}

using CudaTake = CudaTest;

/// Looks up a row that the table does not have. Does not return.
[[noreturn]] void look_up(int64_t number, bool wraps) {
  Graph graph;
  Value* table = graph.add_input(contiguous_type(c10::kFloat, {6, 24}, kDevice));
  Value* index = graph.add_input(contiguous_type(c10::kLong, {3}, kDevice));
  graph.add_output(graph.add(Take{.axis = 0, .wraps = wraps}, {table, index}));
  Offers offers;
  offers.set_tactic("pointwise");
  cuda::propose_pointwise(*graph.nodes().back(), {}, offers);
  std::unique_ptr<Kernel> kernel = offers.offers().at(0).build();
  at::TensorOptions on_device = at::TensorOptions(kDevice);
  at::Tensor rows = at::randn({6, 24}, on_device);
  at::Tensor numbers = at::full({3}, number, on_device.dtype(c10::kLong));
  at::Tensor result = at::empty({3, 24}, on_device);
  std::vector<const at::Tensor*> in = {&rows, &numbers};
  std::vector<at::Tensor*> out = {&result};
  kernel->run({in, out, nullptr, at::cuda::getCurrentCUDAStream().stream()});
  std::_Exit(cudaDeviceSynchronize());
}

// The context is lost with it, as with LibTorch's own kernels: each runs in a process of its own.
TEST_F(CudaTake, NumbersOutsideTheTableEndInADeviceSideAssertion) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto asserted = [](int status) { return WIFEXITED(status) && WEXITSTATUS(status) == (cudaErrorAssert & 0xff); };
  EXPECT_EXIT(look_up(6, false), asserted, "");
  EXPECT_EXIT(look_up(-1, false), asserted, "");
  EXPECT_EXIT(look_up(-7, true), asserted, "");
  EXPECT_EXIT(look_up(-6, true), ::testing::ExitedWithCode(cudaSuccess), "");
}

/// Runs every offer of a tactic on numbers of TF32 as its first `operands` inputs, and on numbers that round to them;
/// the results must be the same. Returns the names of all that ran.
std::string check_rounding(const Case& c, const NamedTactic& tactic, size_t operands) {
  constexpr int kCutOff = 0x1fff;
  std::vector<at::Tensor> exact = make_inputs(*c.graph, 0, false);
  std::vector<at::Tensor> beside = make_inputs(*c.graph, 0, false);
  std::copy(exact.begin() + static_cast<std::ptrdiff_t>(operands), exact.end(),
            beside.begin() + static_cast<std::ptrdiff_t>(operands));
  for (size_t i = 0; i < operands; ++i) {
    at::Tensor bits = at::rand(exact[i].sizes()).add(0.5).view(c10::kInt).bitwise_and(~kCutOff);
    at::Tensor distance = at::randint(-(kCutOff / 2), kCutOff / 2 + 1, bits.sizes(), at::TensorOptions(c10::kInt));
    exact[i].copy_(bits.view(c10::kFloat));
    beside[i].copy_(at::add(bits, distance).view(c10::kFloat));
  }
  Offers offers;
  offers.set_tactic(tactic.name);
  try {
    tactic.propose(c.node(), {}, offers);
  } catch (const Unsupported&) {
    return "";
  }
  std::vector<std::future<std::unique_ptr<Kernel>>> kernels = build_all(offers);
  std::string ran;
  for (size_t i = 0; i < kernels.size(); ++i) {
    const std::string& config = offers.offers()[i].config;
    std::unique_ptr<Kernel> kernel = kernels[i].get();
    std::vector<at::Tensor> wanted = run_kernel(c, *kernel, exact, 0);
    std::vector<at::Tensor> found = run_kernel(c, *kernel, beside, 0);
    for (size_t o = 0; o < wanted.size(); ++o) EXPECT_TRUE(at::equal(wanted[o], found[o])) << c.name << " " << config;
    ran += config + "\n";
  }
  return ran;
}

// Cut off instead, operands would make every product too small.
using CudaTf32 = CudaTest;
TEST_F(CudaTf32, OperandsThatRoundToTheSameGiveTheSame) {
  std::vector<Case> list = odd_products(c10::kFloat, kDevice, true);
  for (Case& c : large_products(c10::kFloat, kDevice, true)) list.push_back(std::move(c));
  compile_ahead(list, programs_of);
  std::string ran;
  for (const Case& c : list) ran += check_rounding(c, {"implicit_gemm", cuda::propose_implicit_gemm}, 1);
  std::vector<std::string> wanted = {" ring", " patch", " pixels"};
  if (cuda::arch_of_device(0) == "sm_90a") wanted.insert(wanted.end(), {" stages", " kept", " pipeline", " split"});
  for (const std::string& form : wanted) EXPECT_NE(ran.find(form), std::string::npos) << form;
}
TEST_F(CudaTf32, AttentionRoundsItsOperands) {
  std::vector<Case> list = attention_nodes(c10::kFloat, kDevice);
  compile_ahead(list, programs_of);
  for (const Case& c : list) EXPECT_NE(check_rounding(c, {"attention", cuda::propose_attention}, 3), "") << c.name;
}

// Without TF32, fusing in f32 is up to the engines that cuDNN has; with it there must be fused ones.
using CudnnConv = CudaTest;
TEST_F(CudnnConv, F32HasKernelsWithAndWithoutTf32) {
  std::vector<NamedTactic> cudnn = {library_tactics().front()};
  std::vector<Case> list = cases(c10::kFloat, kDevice, true);
  std::erase_if(list, [](const Case& c) { return !c.name.starts_with("conv") && !c.name.starts_with("grouped"); });
  Ran plain = run_cases(list, cudnn, {});
  EXPECT_GT(plain["cudnn"]["conv_bare/f32"], 0);
  Ran tf32 = run_cases(list, cudnn, {.allow_tf32 = true});
  for (const char* name : {"conv_bare/f32", "conv_stem/f32", "conv_silu/f32"})
    EXPECT_GT(tf32["cudnn"][name], 0) << name;
}

}  // namespace
}  // namespace torchweld::cuda_tests
