// Nodes for tests of CUDA kernels: representative ones, with the layouts and fused bodies that passes make.
#pragma once

#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "core/graph.h"
#include "kernels/cuda/jit.h"
#include "kernels/kernel.h"

namespace torchweld::cuda_tests {

inline const c10::Device kDevice(c10::kCUDA, 0);

/// A graph whose last node is to be run; every graph input is a tensor that the caller gives.
struct Case {
  std::string name;
  std::unique_ptr<Graph> graph;
  const Node& node() const { return *graph->nodes().back(); }
};

/// Cases for one floating dtype on `device`. Constants (weights) lie in host memory as long as `device` is no CUDA
/// device of this machine.
std::vector<Case> cases(c10::ScalarType dtype, c10::Device device, bool constants_on_device);

/// Fused nodes that together hold every pointwise function that takes operands of `dtype`, each giving one output.
/// Operands are tensors, or 0.5 and 1.5 (1 and 3) where LibTorch takes only numbers.
std::vector<Case> all_pointwise(c10::ScalarType dtype, c10::Device device);

/// The same nodes for every batch size.
std::vector<Case> cases_of_batch(c10::ScalarType dtype, c10::Device device, int64_t batch);
/// Nodes whose result lies in memory of `more` further channels.
std::vector<Case> sliced_results(c10::ScalarType dtype, c10::Device device, bool constants_on_device, int64_t more);
/// Nodes through which NaN and infinities of the first dimension's elements ("samples") 1 to 5 must pass.
std::vector<Case> cases_for_specials(c10::ScalarType dtype, c10::Device device);

/// What tests call every tactic of ours by.
struct NamedTactic {
  const char* name;
  void (*propose)(const Node&, const KernelContext&, Offers&);
};
/// The tactics whose kernels are our own device code.
std::vector<NamedTactic> own_tactics();
/// The tactics that call cuDNN and cuBLASLt.
std::vector<NamedTactic> library_tactics();

/// The device code of every offer that our tactics make for a case. Nothing is compiled.
std::vector<cuda::Program> programs_of(const Case& c);
/// Compiles the device code of all cases at once; what does not compile is reported when its case runs.
void compile_ahead(const std::vector<Case>& list, std::vector<cuda::Program> (*programs_of_case)(const Case&));
/// The meaning of a graph with all floating-point numbers in f64, on the CPU: LibTorch's CUDA functions hold some
/// constants in f32 even when they compute in f64.
std::vector<at::Tensor> run_f64(const Graph& graph, const std::vector<at::Tensor>& inputs);
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
/// Calls work(0) ... work(count - 1) on as many threads as there are cores.
void in_parallel(size_t count, const std::function<void(size_t)>& work);

}  // namespace torchweld::cuda_tests
