#include "core/environment.h"
#include "core/error.h"
#include "kernels/aten/aten_kernel.h"
#include "kernels/cpu/conv.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/own_conv.h"
#include "kernels/cpu/pointwise.h"
#include "kernels/cpu/pool.h"
#include "kernels/cpu/reduce.h"
#include "kernels/cpu/rows.h"
#include "kernels/kernel.h"
#include "kernels/split.h"
#include "kernels/without_compiler.h"
#ifdef TORCHWELD_WITH_CUDA
#include "kernels/cublaslt/gemm.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/conv.h"
#include "kernels/cuda/deferred_norm.h"
#include "kernels/cuda/excited_residual.h"
#include "kernels/cuda/implicit_gemm.h"
#include "kernels/cuda/inverted_residual.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/pointwise.h"
#include "kernels/cuda/pool.h"
#include "kernels/cuda/pooled_blocks.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/regroup.h"
#include "kernels/cuda/resize.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/stem.h"
#include "kernels/cudnn/conv.h"
#endif

namespace torchweld {

const std::vector<Tactic>& tactics() {
  static const auto& table = *new std::vector<Tactic>{
      {"cpu_conv", c10::kCPU, cpu::propose_own_conv},
      {"cpu_linear", c10::kCPU, cpu::propose_own_linear},
      {"onednn_conv", c10::kCPU, cpu::propose_conv},
      {"onednn_linear", c10::kCPU, cpu::propose_linear},
      {"cpu_pointwise", c10::kCPU, cpu::propose_pointwise},
      {"cpu_reduce", c10::kCPU, cpu::propose_reduce},
      {"cpu_rows", c10::kCPU, cpu::propose_rows},
      {"cpu_pool", c10::kCPU, cpu::propose_pool},
      {"split", c10::kCPU, propose_split},
      {"aten", c10::kCPU, propose_aten},
#ifdef TORCHWELD_WITH_CUDA
      {"cuda_excited_residual", c10::kCUDA, cuda::propose_excited_residual},
      {"cuda_inverted_residual", c10::kCUDA, cuda::propose_inverted_residual},
      {"cuda_squeeze_excite", c10::kCUDA, cuda::propose_squeeze_excite},
      {"cuda_pooled_linear", c10::kCUDA, cuda::propose_pooled_linear},
      {"cuda_stem", c10::kCUDA, cuda::propose_stem},
      {"cuda_deferred_norm", c10::kCUDA, cuda::propose_deferred_norm},
      {"cuda_depthwise", c10::kCUDA, cuda::propose_depthwise},
      {"cuda_few_rows", c10::kCUDA, cuda::propose_few_rows},
      {"cuda_implicit_gemm", c10::kCUDA, cuda::propose_implicit_gemm},
      {"cudnn_conv", c10::kCUDA, cudnn::propose_conv, kLibrariesPayFrom},
      {"cublaslt_gemm", c10::kCUDA, cublaslt::propose_gemm, kLibrariesPayFrom},
      {"cuda_direct_conv", c10::kCUDA, cuda::propose_direct_conv, kLibrariesPayFrom},
      {"cuda_pointwise", c10::kCUDA, cuda::propose_pointwise},
      {"cuda_attention", c10::kCUDA, cuda::propose_attention},
      {"cuda_rows", c10::kCUDA, cuda::propose_rows},
      {"cuda_reduce", c10::kCUDA, cuda::propose_reduce},
      {"cuda_pool", c10::kCUDA, cuda::propose_pool},
      {"cuda_resize", c10::kCUDA, cuda::propose_resize},
      {"cuda_concat", c10::kCUDA, cuda::propose_concat},
      {"cuda_pad", c10::kCUDA, cuda::propose_pad},
#endif
      {"split", c10::kCUDA, propose_split},
      {"aten", c10::kCUDA, propose_aten},
  };
  return table;
}

bool is_in_torch(std::string_view tactic) { return tactic == "aten" || tactic == "split"; }

Offers offers_for(const Node& node, const KernelContext& context, std::string_view only) {
  check(!node.outputs().empty(), [&] { return "a node without results is asked to run: " + node.attrs.text(); });
  c10::DeviceType device = node.output()->type.device.type();
  Offers offers;
  for (const Tactic& tactic : tactics()) {
    if (tactic.device != device || (!only.empty() && tactic.name != only) || is_disabled(tactic.name)) continue;
    offers.set_tactic(tactic.name);
    if (tactic.pays_from > 0 && WithoutCompiler::is_alive()) {
      offers.refuse("it looks long for its kernels");
      continue;
    }
    if (offers.least_expected() < tactic.pays_from) {
      offers.refuse("a kernel ahead of it is expected to be faster than it has ever been");
      continue;
    }
    try {
      tactic.propose(node, context, offers);
    } catch (const Unsupported& reason) {
      offers.refuse(reason.what());
    }
  }
  return offers;
}

}  // namespace torchweld
