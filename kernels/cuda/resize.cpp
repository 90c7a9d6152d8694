#include "kernels/cuda/resize.h"

#include <numeric>

#include "core/error.h"
#include "core/ops/fused.h"
#include "core/ops/resize.h"
#include "kernels/cuda/own_kernel.h"

namespace torchweld::cuda {
namespace {

constexpr unsigned kThreads = 128;

std::string source_of(const Resize& resize) {
  if (resize.mode == "linear") return resize.align_corners ? "tw::LinearCornersSource" : "tw::LinearSource";
  return resize.mode == "nearest" ? "tw::NearestSource" : "tw::NearestExactSource";
}

/// Steps in x from one result to the next along spatial dimension `d`.
float scale_of(const Resize& resize, size_t d, int64_t size) {
  auto in = static_cast<float>(size);
  auto out = static_cast<float>(resize.output[d]);
  if (resize.mode == "linear" && resize.align_corners) return out > 1 ? (in - 1) / (out - 1) : 0;
  if (resize.mode != "linear" && in == out) return 1;
  std::optional<double> given = resize.scales.empty() ? std::nullopt : resize.scales[d];
  return given && *given > 0 ? static_cast<float>(1 / *given) : in / out;
}

/// Elements of x along spatial dimension `d` that so many neighbouring results lie between; 0 where these are more than
/// the results.
int64_t window_of(const Resize& resize, size_t d, int64_t size, int64_t results) {
  bool linear = resize.mode == "linear";
  // Rounding may put the ends an element further apart.
  auto between = static_cast<int64_t>(scale_of(resize, d, size) * static_cast<float>(results - 1) + 0.01F) + 1;
  int64_t window = between + (linear ? 2 : 1);
  return window <= results ? window : 0;
}

/// How many columns a thread computes that has a single channel, of results [N,H,W,C] that lie like that.
int64_t columns_of(const Dims& results) {
  constexpr int64_t kThreads = 1 << 17;  // Of an image, which keep the device busy.
  int64_t columns = 8;
  while (columns > 1 && (results[2] % columns != 0 || results[1] * results[2] * results[3] < kThreads * columns))
    columns /= 2;
  return columns;
}

/// How many rows a thread computes where it has so many columns of results [N,C,H,W] that lie like that.
int64_t rows_of(const Resize& resize, int64_t height, const Dims& results, int64_t columns) {
  constexpr int64_t kThreads = 1 << 16;  // Of an image, which keep the device busy.
  for (int64_t rows : {4, 2}) {
    bool enough = results[1] * results[2] * results[3] >= kThreads * columns * rows;
    if (enough && window_of(resize, 0, height, rows) > 0) return rows;
  }
  return 1;
}

std::unique_ptr<Kernel> make_resize(const Node& node, const Body& body, Loops loops, bool channels_last) {
  const Resize& resize = *body.anchor->as<Resize>();
  size_t x_index = anchor_input(body, 0);
  const TensorType& x = node.input(x_index)->type;
  Dims in = {x.strides[0], x.strides[2], x.strides[3], x.strides[1]};
  bool wide = !channels_last || in[3] == 1 || x.shape[1] == 1;
  loops.choose_width(wide ? static_cast<int>(16 / c10::elementSize(x.dtype)) : 1, false);
  loops.other_extent = x.storage_bytes() / static_cast<int64_t>(c10::elementSize(x.dtype));
  int64_t across = !channels_last ? loops.width : loops.width > 1 ? 1 : columns_of(loops.sizes);
  int64_t window = across > 1 ? window_of(resize, 1, x.shape[3], across) : 0;
  int64_t down = !channels_last && window > 0 ? rows_of(resize, x.shape[2], loops.sizes, across) : 1;
  int64_t row_window = down > 1 ? window_of(resize, 0, x.shape[2], down) : resize.mode == "linear" ? 2 : 1;
  Program program{
      "resize", emit_head(loops, {"resize.cuh"}) +
                    "struct Params {\n  I items;\n  tw::Size<I> size[4];\n  I in[4];\n  int height, width, "
                    "out_height, vector_reads;\n  float scale_h, scale_w;\n" +
                    loops.parameter_members() + "};\n" + emit_elements(body, loops, body.anchor->output()) +
                    "extern \"C\" __global__ void __launch_bounds__(128) kernel(" + emit_pointers(node, body.literals) +
                    "const __grid_constant__ Params p) {\n  " + emit_elements_object(loops) + "  tw::resize<" +
                    source_of(resize) + ", " + (channels_last ? "true" : "false") + ", " + std::to_string(loops.width) +
                    ", " + std::to_string(across) + ", " + std::to_string(window) + ", " + std::to_string(down) + ", " +
                    std::to_string(row_window) + ">(x" + std::to_string(x_index) + ", p, elements);\n}\n"};
  std::string type = loops.index_type();
  Dims threads = loops.sizes;
  threads[3] /= loops.width;
  threads[2] = ceil_div(threads[2], channels_last ? across : down);
  int64_t count = std::accumulate(threads.begin(), threads.end(), int64_t{1}, std::multiplies<>());
  Arguments arguments;
  add_index(arguments, count, type);
  for (int64_t size : threads) add_size(arguments, size, type);
  for (int64_t stride : in) add_index(arguments, stride, type);
  bool divides = in[0] % loops.width == 0 && in[1] % loops.width == 0 && in[2] % loops.width == 0;
  for (int64_t number : {x.shape[2], x.shape[3], resize.output[0], int64_t{divides}})
    arguments.add(static_cast<int32_t>(number));
  for (size_t d : {0, 1}) arguments.add(scale_of(resize, d, x.shape[d + 2]));
  loops.add_arguments(arguments);
  return make_own_kernel(node, program, {.blocks = ceil_div(count, kThreads), .threads = kThreads},
                         std::move(arguments), body.literals);
}

}  // namespace

void propose_resize(const Node& node, const KernelContext&, Offers& offers) {
  auto* fused = node.as<Fused>();
  const Node* anchor = fused ? anchor_of(*fused) : &node;
  if (!anchor || !anchor->as<Resize>()) return;
  Body body = body_of(node);
  const Resize& resize = *body.anchor->as<Resize>();
  const TensorType& x = node.input(anchor_input(body, 0))->type;
  expect(x.rank() == 4, "only [N,C,H,W]");
  expect(resize.mode != "cubic" && !resize.antialias, "cubic, or antialiased");
  expect(x.shape[2] != resize.output[0] || x.shape[3] != resize.output[1], "a copy, whatever the scales");
  expect(x.dtype == c10::kHalf || x.dtype == c10::kBFloat16 || x.dtype == c10::kFloat, "only f16, bf16 and f32");
  bool channels_last = lies_channels_last(node.output()->type, x);
  Loops loops;
  add_finish_operands(node, body, channels_last ? Dims{0, 2, 3, 1} : Dims{0, 1, 2, 3}, loops);
  offers.add("", [&node, body, loops, channels_last] { return make_resize(node, body, loops, channels_last); });
}

}  // namespace torchweld::cuda
