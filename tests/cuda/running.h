// How tests compile and run kernels of nodes, and what these must give.
#pragma once

#include <future>
#include <memory>
#include <vector>

#include "kernels/cuda/jit.h"
#include "kernels/kernel.h"
#include "tests/cuda/nodes.h"

namespace torchweld::cuda_tests {

/// What tests call every tactic of ours by.
struct NamedTactic {
  const char* name;
  void (*propose)(const Node&, const KernelContext&, Offers&);
};
/// The tactics whose kernels are our own device code.
std::vector<NamedTactic> own_tactics();
/// The tactics that call cuDNN and cuBLASLt.
std::vector<NamedTactic> library_tactics();

/// A tactic: of implicit GEMM, what leaves stages out on a device without warpgroups.
void propose_rings_that_skip(const Node& node, const KernelContext& context, Offers& offers);

/// The device code of every offer that our tactics make for a case. Nothing is compiled.
std::vector<cuda::Program> programs_of(const Case& c);
/// The same of these tactics' offers.
std::vector<cuda::Program> programs_of(const Case& c, const std::vector<NamedTactic>& tactics);
/// Compiles the device code of all cases at once; what does not compile is reported when its case runs.
void compile_ahead(const std::vector<Case>& list, std::vector<cuda::Program> (*programs_of_case)(const Case&));
/// The meaning of a graph with all floating-point numbers in f64, on the CPU: LibTorch's CUDA functions hold some
/// constants in f32 even when they compute in f64.
std::vector<at::Tensor> run_f64(const Graph& graph, const std::vector<at::Tensor>& inputs);
/// The graph by ATen in its own types: on the device, but in host memory under a case_stride(), for kernels of
/// LibTorch's libraries fail under racecheck.
std::vector<at::Tensor> run_eager(const Graph& graph, const std::vector<at::Tensor>& inputs);
/// A tensor of this type whose memory starts `offset` elements after an aligned address, with as many behind it.
at::Tensor place(const TensorType& type, int64_t offset);
/// All of the memory that a tensor is a part of, as one row.
at::Tensor memory_of(const at::Tensor& tensor);
/// Runs a kernel of the case's node and gives the results in the order of the graph's, `offset` as for `place`.
/// Beforehand results (with all memory round them) and workspace are NaN; it runs twice in a row like that, so that
/// launches that do not wait for one another find the NaN. Results that are no floats are other numbers each time;
/// throws InternalError when the two runs give different ones.
std::vector<at::Tensor> run_kernel(const Case& c, const Kernel& kernel, const std::vector<at::Tensor>& inputs,
                                   int64_t offset);
/// The kernels of all offers, built side by side.
std::vector<std::future<std::unique_ptr<Kernel>>> build_all(const Offers& offers);

/// Every how manieth case of a list is to be run: TORCHWELD_CASE_STRIDE, for compute-sanitizer, under which all take
/// hours; 1 without.
size_t case_stride();

}  // namespace torchweld::cuda_tests
