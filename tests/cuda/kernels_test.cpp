// Every kernel of every tactic against the ATen meaning in float64, on a GPU; skipped, and counted, without one.
#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/logical_not.h>
#include <ATen/ops/max.h>
#include <ATen/ops/ne.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/InferenceMode.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <iostream>
#include <unordered_map>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "core/ops/pointwise.h"
#include "tests/cuda/nodes.h"

namespace torchweld::cuda_tests {
namespace {

/// The meaning of a graph with all floating-point numbers in f64.
std::vector<at::Tensor> run_f64(const Graph& graph, const std::vector<at::Tensor>& inputs) {
  std::unordered_map<const Value*, at::Tensor> values;
  auto widen = [](const at::Tensor& t) { return t.is_floating_point() && t.dim() > 0 ? t.to(c10::kDouble) : t; };
  for (size_t i = 0; i < inputs.size(); ++i)
    values[graph.inputs()[i].get()] = inputs[i].is_floating_point() ? inputs[i].to(c10::kDouble) : inputs[i];
  for (const auto& node : graph.nodes()) {
    std::vector<at::Tensor> arguments;
    for (const Value* v : node->inputs()) arguments.push_back(values.at(v));
    std::vector<at::Tensor> results;
    auto* cast = node->as<Cast>();
    if (auto* fused = node->as<Fused>()) {
      results = run_f64(*fused->body, arguments);
    } else if (cast && c10::isFloatingType(cast->dtype)) {
      results = {arguments[0].to(c10::kDouble)};
    } else {
      results = node->attrs.def().aten(node->attrs.data(), arguments);
    }
    for (size_t i = 0; i < results.size(); ++i) values[node->output(i)] = widen(results[i]);
  }
  std::vector<at::Tensor> outputs;
  for (const Value* v : graph.outputs()) outputs.push_back(values.at(v));
  return outputs;
}

/// A tensor of this type whose memory starts `offset` elements after an aligned address.
at::Tensor place(const TensorType& type, int64_t offset) {
  auto elements = type.storage_bytes() / static_cast<int64_t>(c10::elementSize(type.dtype));
  at::Tensor memory = at::empty({elements + offset}, at::TensorOptions(type.dtype).device(type.device));
  return memory.as_strided(type.shape, type.strides, offset);
}

std::vector<at::Tensor> make_inputs(const Graph& graph, int64_t offset) {
  std::vector<at::Tensor> inputs;
  for (const auto& value : graph.inputs()) {
    const TensorType& type = value->type;
    at::Tensor numbers = type.is_floating() ? at::randn(type.shape) : at::randint(0, 5, type.shape);
    at::Tensor input = place(type, offset);
    input.copy_(numbers);
    inputs.push_back(input);
  }
  return inputs;
}

double rounding_unit(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::kHalf:
      return 1.0 / 1024;
    case c10::kBFloat16:
      return 1.0 / 128;
    case c10::kFloat:
      return 1.0 / (1 << 21);
    case c10::kDouble:
      return 1e-13;
    default:
      return 0;
  }
}

double largest(const at::Tensor& t) { return t.numel() ? at::max(t).item<double>() : 0; }

/// Empty when `ours` is at most twice as far from `reference` as `eager`, plus a rounding unit; else what is wrong.
std::string compare(const at::Tensor& ours, const at::Tensor& eager, const at::Tensor& reference) {
  at::Tensor a = ours.to(c10::kDouble);
  at::Tensor b = eager.to(c10::kDouble);
  at::Tensor r = reference.to(c10::kDouble);
  // Where eager is not finite we must be the same kind of number.
  at::Tensor finite = at::isfinite(b);
  at::Tensor wrong_nan = at::ne(at::isnan(a), at::isnan(b));
  if (wrong_nan.any().item<bool>())
    return std::to_string(wrong_nan.sum().item<int64_t>()) + " elements are NaN on one side only";
  finite = at::logical_and(finite, at::isfinite(r));
  at::Tensor zero = at::zeros_like(r);
  double error = largest(at::where(finite, at::abs(at::sub(a, r)), zero));
  double eager_error = largest(at::where(finite, at::abs(at::sub(b, r)), zero));
  double scale = largest(at::where(finite, at::abs(r), zero));
  double allowed = 2 * eager_error + rounding_unit(ours.scalar_type()) * scale;
  if (error <= allowed) return "";
  return "largest error " + std::to_string(error) + ", eager's " + std::to_string(eager_error) + ", largest value " +
         std::to_string(scale);
}

/// Counts for the closing line.
struct Counts {
  int kernels = 0;
  int refused = 0;
};

void run_offer(const Case& c, const Offers::Offer& offer, const std::vector<at::Tensor>& graph_inputs,
               const std::vector<at::Tensor>& eager, const std::vector<at::Tensor>& reference, int64_t offset) {
  std::string what = c.name + " by " + offer.tactic + " " + offer.config + (offset ? " misaligned" : "");
  std::unique_ptr<Kernel> kernel = offer.build();
  std::vector<const at::Tensor*> in;
  for (const Value* v : c.node().inputs()) {
    if (const at::Tensor* constant = constant_of(v)) {
      in.push_back(constant);
    } else {
      in.push_back(&graph_inputs[v->index()]);
    }
  }
  std::vector<at::Tensor> outputs;
  std::vector<at::Tensor*> out;
  for (const auto& value : c.node().outputs()) {
    outputs.push_back(place(value->type, offset));
    outputs.back().fill_(value->type.is_floating() ? std::nan("") : 1);
  }
  for (at::Tensor& tensor : outputs) out.push_back(&tensor);
  at::Tensor workspace = at::empty({kernel->workspace_bytes() + 1}, at::TensorOptions(c10::kByte).device(c10::kCUDA));
  kernel->run({in, out, workspace.data_ptr(), at::cuda::getCurrentCUDAStream().stream()});
  cudaError_t status = cudaDeviceSynchronize();
  ASSERT_EQ(status, cudaSuccess) << what << ": " << cudaGetErrorString(status);
  for (size_t i = 0; i < outputs.size(); ++i) {
    std::string wrong = compare(outputs[i], eager[i], reference[i]);
    EXPECT_TRUE(wrong.empty()) << what << ", output " << i << ": " << wrong;
  }
}

void run_case(const Case& c, const std::vector<NamedTactic>& tactics, int64_t offset, Counts& counts) {
  std::vector<at::Tensor> inputs = make_inputs(*c.graph, offset);
  std::vector<at::Tensor> eager = run_aten(*c.graph, inputs);
  std::vector<at::Tensor> reference = run_f64(*c.graph, inputs);
  KernelContext context;
  context.allow_tf32 = false;
  for (const NamedTactic& tactic : tactics) {
    Offers offers;
    offers.set_tactic(tactic.name);
    try {
      tactic.propose(c.node(), context, offers);
      for (const Offers::Offer& offer : offers.offers()) {
        run_offer(c, offer, inputs, eager, reference, offset);
        ++counts.kernels;
        if (::testing::Test::HasFatalFailure()) return;
      }
    } catch (const Unsupported& reason) {
      ++counts.refused;
      if (std::string(tactic.name) == "cudnn" || std::string(tactic.name) == "cublaslt") {
        std::cout << c.name << " by " << tactic.name << ": refused: " << reason.what() << "\n";
      }
    } catch (const std::exception& error) {
      ADD_FAILURE() << c.name << " by " << tactic.name << ": " << error.what();
    }
  }
}

class CudaKernels : public ::testing::TestWithParam<c10::ScalarType> {
 protected:
  void SetUp() override {
    if (!at::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_P(CudaKernels, OwnCodeMeansWhatAtenMeans) {
  c10::InferenceMode inference;
  Counts counts;
  for (int64_t offset : {0, 1}) {
    for (const Case& c : cases(GetParam(), c10::Device(c10::kCUDA, 0), true))
      run_case(c, own_tactics(), offset, counts);
    for (const Case& c : all_pointwise(GetParam(), c10::Device(c10::kCUDA, 0)))
      run_case(c, own_tactics(), offset, counts);
  }
  std::cout << counts.kernels << " kernels run, " << counts.refused << " refusals\n";
}

TEST_P(CudaKernels, LibrariesMeanWhatAtenMeans) {
  c10::InferenceMode inference;
  Counts counts;
  for (const Case& c : cases(GetParam(), c10::Device(c10::kCUDA, 0), true)) run_case(c, library_tactics(), 0, counts);
  std::cout << counts.kernels << " kernels run, " << counts.refused << " refusals\n";
}

INSTANTIATE_TEST_SUITE_P(Dtypes, CudaKernels, ::testing::Values(c10::kHalf, c10::kFloat, c10::kBFloat16, c10::kDouble),
                         [](const auto& info) { return dtype_name(info.param); });

TEST(CudaPointwise, IntegersMeanWhatAtenMeans) {
  if (!at::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  Counts counts;
  for (c10::ScalarType dtype : {c10::kLong, c10::kInt, c10::kByte, c10::kBool}) {
    for (const Case& c : all_pointwise(dtype, c10::Device(c10::kCUDA, 0))) run_case(c, own_tactics(), 0, counts);
  }
}

}  // namespace
}  // namespace torchweld::cuda_tests
