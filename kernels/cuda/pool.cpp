#include "kernels/cuda/pool.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/ops/fused.h"
#include "core/ops/pool.h"
#include "kernels/cuda/own_kernel.h"

namespace torchweld::cuda {
namespace {

constexpr unsigned kThreads = 128;

/// Any of the three pooling ops in one form.
struct Window {
  const char* kind = "";
  Dims kernel = {1, 1};
  Dims stride = {1, 1};
  Dims padding = {0, 0};
  Dims dilation = {1, 1};
  bool count_padding = true;
  int64_t divisor = 0;
};

bool is_pool(const Node& node) { return node.as<MaxPool>() || node.as<AvgPool>() || node.as<AdaptivePool>(); }

Window window_of(const Node& anchor) {
  Window window;
  if (auto* pool = anchor.as<MaxPool>()) {
    return {"tw::MaxWindow", pool->kernel, pool->stride, pool->padding, pool->dilation, true, 0};
  }
  if (auto* pool = anchor.as<AvgPool>()) {
    return {"tw::MeanWindow",        pool->kernel,          pool->stride, pool->padding, {1, 1},
            pool->count_include_pad, pool->divisor_override};
  }
  window.kind = anchor.as<AdaptivePool>()->kind == "max" ? "tw::AdaptiveMaxWindow" : "tw::AdaptiveMeanWindow";
  return window;
}

std::unique_ptr<Kernel> make_pool(const Node& node, const Body& body, Loops loops, bool channels_last) {
  Window window = window_of(*body.anchor);
  size_t x_index = anchor_input(body, 0);
  const TensorType& x = node.input(x_index)->type;
  const TensorType& out = body.anchor->output()->type;
  Dims in = {x.strides[0], x.strides[2], x.strides[3], x.strides[1]};
  bool wide = channels_last && (in[3] == 1 || x.shape[1] == 1);
  loops.choose_width(wide ? static_cast<int>(16 / c10::elementSize(x.dtype)) : 1, false);
  loops.other_extent = x.storage_bytes() / static_cast<int64_t>(c10::elementSize(x.dtype));
  std::string width = std::to_string(loops.width);
  // More reads at once than those of 3 x 3 elements would need more registers than there are.
  constexpr int64_t kMostAtOnce = 9;
  bool adaptive = body.anchor->as<AdaptivePool>() != nullptr;
  bool small = !adaptive && window.kernel[0] * window.kernel[1] <= kMostAtOnce;
  std::string sizes =
      small ? std::to_string(window.kernel[0]) + ", " + std::to_string(window.kernel[1]) : std::string("0, 0");
  bool short_results = std::all_of(node.outputs().begin(), node.outputs().end(), [](const auto& v) {
    return v->type.dtype == c10::kHalf || v->type.dtype == c10::kBFloat16;
  });
  Program program{"pool",
                  emit_head(loops, {"pool.cuh"}) +
                      "struct Params {\n  I items;\n  tw::Size<I> size[4];\n  I in[4];\n  int height, width, "
                      "out_height, out_width, kernel_h, "
                      "kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, count_padding, "
                      "divisor, vector_reads;\n" +
                      loops.parameter_members() + "};\n" + emit_elements(body, loops, body.anchor->output()) +
                      "extern \"C\" __global__ void __launch_bounds__(128) kernel(" +
                      emit_pointers(node, body.literals) + "const __grid_constant__ Params p) {\n  " +
                      emit_elements_object(loops) + "  tw::pool<" + window.kind + ", " +
                      (channels_last ? "true" : "false") + ", " + width + ", " + sizes + ">(x" +
                      std::to_string(x_index) + ", p, elements);\n}\n",
                  short_results};
  std::string type = loops.index_type();
  int64_t count = loops.positions() / loops.width;
  Arguments arguments;
  add_index(arguments, count, type);
  for (size_t d = 0; d < 4; ++d) add_size(arguments, d == 3 ? loops.sizes[d] / loops.width : loops.sizes[d], type);
  for (int64_t stride : in) add_index(arguments, stride, type);
  bool divides = in[0] % loops.width == 0 && in[1] % loops.width == 0 && in[2] % loops.width == 0;
  for (int64_t number : {x.shape[2], x.shape[3], out.shape[2], out.shape[3], window.kernel[0], window.kernel[1],
                         window.stride[0], window.stride[1], window.padding[0], window.padding[1], window.dilation[0],
                         window.dilation[1], int64_t{window.count_padding}, window.divisor, int64_t{divides}}) {
    arguments.add(static_cast<int32_t>(number));
  }
  loops.add_arguments(arguments);
  return make_own_kernel(node, program, {.blocks = ceil_div(count, kThreads), .threads = kThreads},
                         std::move(arguments), body.literals);
}

}  // namespace

void propose_pool(const Node& node, const KernelContext&, Offers& offers) {
  auto* fused = node.as<Fused>();
  const Node* anchor = fused ? anchor_of(*fused) : &node;
  if (!anchor || !is_pool(*anchor)) return;
  Body body = body_of(node);
  const TensorType& x = node.input(anchor_input(body, 0))->type;
  expect(x.rank() == 4, "only [N,C,H,W]");
  expect(x.is_floating(), "only floating point");
  expect(body.anchor->outputs().size() == 1, "indices are wanted too");
  const TensorType& out = node.output()->type;
  bool channels_last = lies_channels_last(out, x);
  Loops loops;
  add_finish_operands(node, body, channels_last ? Dims{0, 2, 3, 1} : Dims{0, 1, 2, 3}, loops);
  offers.add("", [&node, body, loops, channels_last] { return make_pool(node, body, loops, channels_last); });
}

}  // namespace torchweld::cuda
