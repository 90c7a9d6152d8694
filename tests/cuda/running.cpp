#include "tests/cuda/running.h"

#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <unordered_map>

#include "conversion/workers.h"
#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "core/ops/pointwise.h"
#include "kernels/cublaslt/gemm.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/conv.h"
#include "kernels/cuda/deferred_norm.h"
#include "kernels/cuda/implicit_gemm.h"
#include "kernels/cuda/implicit_gemm_program.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/own_kernel.h"
#include "kernels/cuda/pointwise.h"
#include "kernels/cuda/pool.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/regroup.h"
#include "kernels/cuda/resize.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/stem.h"
#include "kernels/cudnn/conv.h"

namespace torchweld::cuda_tests {

std::vector<cuda::Program> programs_of(const Case& c) { return programs_of(c, own_tactics()); }

std::vector<cuda::Program> programs_of(const Case& c, const std::vector<NamedTactic>& tactics) {
  std::vector<cuda::Program> programs;
  cuda::CollectPrograms collecting([&](const cuda::Program& program) { programs.push_back(program); });
  for (const NamedTactic& tactic : tactics) {
    Offers offers;
    offers.set_tactic(tactic.name);
    try {
      tactic.propose(c.node(), {}, offers);
    } catch (const Unsupported&) {
      continue;
    }
    for (const Offers::Offer& offer : offers.offers()) offer.build();
  }
  return programs;
}

namespace {

/// The values of a graph by ATen in host memory, with what is floating as f64 where `widened`.
std::vector<at::Tensor> run_on_host(const Graph& graph, const std::vector<at::Tensor>& inputs, bool widened) {
  std::unordered_map<const Value*, at::Tensor> values;
  auto fetch = [&](const at::Tensor& t, bool numbers) {
    return widened && t.is_floating_point() && (numbers || t.dim() > 0) ? t.to(c10::kCPU, c10::kDouble) : t.cpu();
  };
  for (size_t i = 0; i < inputs.size(); ++i) values[graph.inputs()[i].get()] = fetch(inputs[i], true);
  for (const auto& node : graph.nodes()) {
    std::vector<at::Tensor> arguments;
    for (const Value* v : node->inputs()) arguments.push_back(values.at(v));
    std::vector<at::Tensor> results;
    auto* cast = node->as<Cast>();
    if (auto* fused = node->as<Fused>()) {
      results = run_on_host(*fused->body, arguments, widened);
    } else if (widened && cast && c10::isFloatingType(cast->dtype)) {
      results = {arguments[0].to(c10::kDouble)};
    } else {
      results = node->attrs.def().aten(node->attrs.data(), arguments);
    }
    for (size_t i = 0; i < results.size(); ++i) values[node->output(i)] = fetch(results[i], false);
  }
  std::vector<at::Tensor> outputs;
  for (const Value* v : graph.outputs()) outputs.push_back(values.at(v));
  return outputs;
}

}  // namespace

std::vector<at::Tensor> run_f64(const Graph& graph, const std::vector<at::Tensor>& inputs) {
  return run_on_host(graph, inputs, true);
}

std::vector<at::Tensor> run_eager(const Graph& graph, const std::vector<at::Tensor>& inputs) {
  return case_stride() > 1 ? run_on_host(graph, inputs, false) : run_aten(graph, inputs);
}

at::Tensor place(const TensorType& type, int64_t offset) {
  auto elements = type.storage_bytes() / static_cast<int64_t>(c10::elementSize(type.dtype));
  at::Tensor memory = at::empty({elements + 2 * offset}, at::TensorOptions(type.dtype).device(type.device));
  return memory.as_strided(type.shape, type.strides, offset);
}

at::Tensor memory_of(const at::Tensor& tensor) { return at::empty({0}, tensor.options()).set_(tensor.storage()); }

std::vector<at::Tensor> run_kernel(const Case& c, const Kernel& kernel, const std::vector<at::Tensor>& inputs,
                                   int64_t offset) {
  std::vector<const at::Tensor*> in;
  for (const Value* v : c.node().inputs()) {
    const at::Tensor* constant = constant_of(v);
    in.push_back(constant ? constant : &inputs[v->index()]);
  }
  std::vector<at::Tensor> outputs;
  for (const Value* v : c.graph->outputs()) outputs.push_back(place(v->type, offset));
  std::vector<at::Tensor*> out;
  for (const auto& v : c.node().outputs()) {
    auto found = std::find(c.graph->outputs().begin(), c.graph->outputs().end(), v.get());
    out.push_back(&outputs.at(found - c.graph->outputs().begin()));
  }
  at::Tensor workspace = at::empty({kernel.workspace_bytes() + 1}, at::TensorOptions(c10::kByte).device(c10::kCUDA));
  std::vector<at::Tensor> first;
  for (int run = 0; run < 2; ++run) {
    for (at::Tensor& tensor : outputs) memory_of(tensor).fill_(tensor.is_floating_point() ? std::nan("") : run);
    workspace.fill_(0xff);
    kernel.run({in, out, workspace.data_ptr(), at::cuda::getCurrentCUDAStream().stream()});
    for (const at::Tensor& tensor : outputs) {
      if (run == 0) first.push_back(tensor.is_floating_point() ? at::Tensor() : tensor.clone());
    }
  }
  for (size_t i = 0; i < outputs.size(); ++i)
    check(!first[i].defined() || first[i].equal(outputs[i]), "a kernel leaves a part of its result unwritten");
  return outputs;
}

std::vector<std::future<std::unique_ptr<Kernel>>> build_all(const Offers& offers) {
  std::vector<std::future<std::unique_ptr<Kernel>>> kernels;
  for (const Offers::Offer& offer : offers.offers()) {
    kernels.push_back(std::async(std::launch::async, [&offer] {
      c10::InferenceMode guard;
      return offer.build();
    }));
  }
  return kernels;
}

size_t case_stride() {
  const char* wanted = std::getenv("TORCHWELD_CASE_STRIDE");
  return wanted ? std::max(std::stoul(wanted), 1UL) : 1;
}

std::vector<NamedTactic> own_tactics() {
  return {{"pointwise", cuda::propose_pointwise},
          {"attention", cuda::propose_attention},
          {"depthwise", cuda::propose_depthwise},
          {"direct_conv", cuda::propose_direct_conv},
          {"few_rows", cuda::propose_few_rows},
          {"implicit_gemm", cuda::propose_implicit_gemm},
          {"deferred_norm", cuda::propose_deferred_norm},
          {"pool", cuda::propose_pool},
          {"stem", cuda::propose_stem},
          {"resize", cuda::propose_resize},
          {"reduce", cuda::propose_reduce},
          {"rows", cuda::propose_rows},
          {"concat", cuda::propose_concat},
          {"pad", cuda::propose_pad}};
}

std::vector<NamedTactic> library_tactics() {
  return {{"cudnn", cudnn::propose_conv}, {"cublaslt", cublaslt::propose_gemm}};
}

void propose_rings_that_skip(const Node& node, const KernelContext& context, Offers& offers) {
  cuda::GemmParts parts = cuda::take_gemm_apart(node, context);
  constexpr int64_t kSharedBytes = 163 << 10;
  cuda::GemmDevice device{.shared_bytes = kSharedBytes, .clusters = false, .warpgroups = false};
  for (const cuda::GemmConfig& config : cuda::gemm_configs(parts.problem, device, 16)) {
    if (!config.skips) continue;
    offers.add(
        config.text(),
        [&node, parts, config] {
          cuda::GemmLaunch gemm = cuda::gemm_launch(node, parts, config);
          return cuda::make_own_kernel(node, gemm.program, gemm.shape, std::move(gemm.arguments), parts.packed,
                                       gemm.packed);
        },
        config.microseconds);
  }
}

void compile_ahead(const std::vector<Case>& list, std::vector<cuda::Program> (*programs_of_case)(const Case&)) {
  std::vector<cuda::Program> programs;
  for (size_t i = 0; i < list.size(); i += case_stride()) {
    for (cuda::Program& program : programs_of_case(list[i])) programs.push_back(std::move(program));
  }
  std::string arch = cuda::arch_of_device(0);
  for_each_in_parallel(programs.size(), c10::kCPU, [&](size_t i) {
    try {
      cuda::compile(programs[i], arch);
    } catch (const std::exception&) {
    }
  });
}

}  // namespace torchweld::cuda_tests
