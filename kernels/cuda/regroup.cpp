#include "kernels/cuda/regroup.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/ops/shape.h"
#include "kernels/cuda/own_kernel.h"

namespace torchweld::cuda {
namespace {

constexpr unsigned kThreads = 256;

/// An input of a concatenation as rows of elements that are neighbours, each row a stretch of one of the result's rows.
struct Stretch {
  int64_t length = 0;
  int64_t step = 0;    ///< From row to row of the input.
  int64_t offset = 0;  ///< Where it starts in the result's row.
};

struct ConcatParts {
  std::vector<Stretch> stretches;
  int64_t rows = 0;
  int64_t row_length = 0;  ///< Of the result.
};

/// Dimensions from outermost to innermost in memory, without those of size 1 other than `axis`.
Dims memory_order(const TensorType& type, int64_t axis) {
  Dims order;
  for (int64_t d = 0; d < type.rank(); ++d) {
    if (type.shape[d] != 1 || d == axis) order.push_back(d);
  }
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return type.strides[a] > type.strides[b]; });
  return order;
}

ConcatParts take_apart(const Node& node) {
  int64_t axis = node.as<Concat>()->axis;
  const TensorType& out = node.output()->type;
  expect(is_dense(out), "the result has gaps");
  Dims order = memory_order(out, axis);
  auto split = static_cast<size_t>(std::find(order.begin(), order.end(), axis) - order.begin());
  ConcatParts parts;
  parts.rows = 1;
  for (size_t i = 0; i < split; ++i) parts.rows *= out.shape[order[i]];
  int64_t inner = 1;
  for (size_t i = split + 1; i < order.size(); ++i) inner *= out.shape[order[i]];
  parts.row_length = out.shape[axis] * inner;
  int64_t offset = 0;
  for (const TensorType& x : node.input_types()) {
    expect(x.dtype == out.dtype && x.device.is_cuda(), "an input has another dtype or lies in host memory");
    if (x.numel() == 0) {
      parts.stretches.push_back({0, 0, offset});
      continue;
    }
    int64_t expected = 1;
    for (size_t i = order.size(); i-- > split;) {
      expect(x.shape[order[i]] == 1 || x.strides[order[i]] == expected,
             "an input lies in memory in another order than the result");
      expected *= x.shape[order[i]];
    }
    int64_t step = expected;
    bool found = false;
    int64_t rows = 1;
    for (size_t i = split; i-- > 0;) {
      if (x.shape[order[i]] == 1) continue;
      if (!found) step = x.strides[order[i]];
      expect(x.strides[order[i]] == step * rows, "an input lies in memory in another order than the result");
      rows *= x.shape[order[i]];
      found = true;
    }
    parts.stretches.push_back({expected, step, offset});
    offset += expected;
  }
  return parts;
}

std::unique_ptr<Kernel> make_concat(const Node& node, const ConcatParts& parts) {
  c10::ScalarType dtype = node.output()->type.dtype;
  int width = static_cast<int>(16 / c10::elementSize(dtype));
  auto fits = [&](int64_t w) {
    return parts.row_length % w == 0 &&
           std::all_of(parts.stretches.begin(), parts.stretches.end(),
                       [w](const Stretch& s) { return s.length % w == 0 && s.step % w == 0; });
  };
  while (width > 1 && !fits(width)) width /= 2;
  Loops loops;
  loops.sizes = {node.output()->type.numel()};
  std::string count = std::to_string(parts.stretches.size());
  std::string w = std::to_string(width);
  std::string choose;
  for (size_t i = 0; i < parts.stretches.size(); ++i)
    choose += "  if (part == " + std::to_string(i) + ") x = x" + std::to_string(i) + ";\n";
  std::string storage = storage_type(dtype);
  Program program{
      "concat",
      emit_head(loops, {}) + "struct Params {\n  I rows;\n  I row_length;\n  tw::Size<I> vectors[" + count +
          "];\n  I items[" + count + "];\n  I step[" + count + "];\n  I offset[" + count +
          "];\n};\nextern \"C\" __global__ void __launch_bounds__(256) kernel(" + emit_pointers(node, {}) +
          "const __grid_constant__ Params p) {\n  tw::wait_for_previous();\n  const int part = blockIdx.y;\n  const " +
          storage + "* x = nullptr;\n" + choose + "  const bool aligned = tw::is_aligned<" + w +
          ">(x) && tw::is_aligned<" + w + ">(y0);\n  const I stride = static_cast<I>(gridDim.x) * 256;\n" +
          "  for (I item = static_cast<I>(blockIdx.x) * 256 + threadIdx.x; item < p.items[part]; item += stride) {\n" +
          "    I row, column;\n    tw::divide(item, p.vectors[part], row, column);\n    " + compute_type(dtype) +
          " v[" + w + "];\n    tw::read<" + w + ">(x + (row * p.step[part] + column * " + w +
          "), aligned, v);\n    tw::write<" + w + ">(y0 + (row * p.row_length + p.offset[part] + column * " + w +
          "), aligned, v);\n  }\n}\n"};
  std::string type = loops.index_type();
  Arguments arguments;
  add_index(arguments, parts.rows, type);
  add_index(arguments, parts.row_length, type);
  int64_t most = 0;
  for (const Stretch& s : parts.stretches) add_size(arguments, s.length / width, type);
  for (const Stretch& s : parts.stretches) {
    add_index(arguments, s.length / width * parts.rows, type);
    most = std::max(most, s.length / width * parts.rows);
  }
  for (const Stretch& s : parts.stretches) add_index(arguments, s.step, type);
  for (const Stretch& s : parts.stretches) add_index(arguments, s.offset, type);
  constexpr int64_t kMostBlocks = 1 << 16;
  Shape shape{.blocks = std::min(ceil_div(most, kThreads), kMostBlocks),
              .blocks_y = static_cast<int64_t>(parts.stretches.size()),
              .threads = kThreads};
  return make_own_kernel(node, program, shape, std::move(arguments), {});
}

/// One thread per element of the result.
std::unique_ptr<Kernel> make_pad(const Node& node) {
  const Pad& pad = *node.as<Pad>();
  const TensorType& x = node.input(0)->type;
  const TensorType& out = node.output()->type;
  Dims order(out.shape.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return out.strides[a] > out.strides[b]; });
  size_t rank = order.size();
  Loops loops;
  for (int64_t d : order) loops.sizes.push_back(out.shape[d]);
  loops.other_extent = std::max(x.storage_bytes(), out.storage_bytes());
  std::string n = std::to_string(rank);
  std::string places;
  std::string from = "0";
  std::string to = "0";
  for (size_t d = 0; d < rank; ++d) {
    std::string i = std::to_string(d);
    places += "    const I s" + i + " = i" + i + " - p.before[" + i + "];\n    inside &= s" + i + " >= 0 && s" + i +
              " < p.inner[" + i + "];\n";
    from += " + s" + i + " * p.x[" + i + "]";
    to += " + i" + i + " * p.y[" + i + "]";
  }
  std::string compute = compute_type(out.dtype);
  Program program{
      "pad",
      emit_head(loops, {}) + "struct Params {\n  double value;\n  I items;\n  tw::Size<I> size[" + n +
          "];\n  I before[" + n + "];\n  I inner[" + n + "];\n  I x[" + n + "];\n  I y[" + n +
          "];\n};\nextern \"C\" __global__ void __launch_bounds__(256) kernel(" + emit_pointers(node, {}) +
          "const __grid_constant__ Params p) {\n  tw::wait_for_previous();\n  const I stride = "
          "static_cast<I>(gridDim.x) * 256;\n  for (I item = static_cast<I>(blockIdx.x) * 256 + threadIdx.x; item < "
          "p.items; item += stride) {\n    I rest = item;\n" +
          emit_split(rank) + "    bool inside = true;\n" + places + "    " + compute + " v = tw::convert<" + compute +
          ">(p.value);\n    if (inside) v = tw::widen(x0[" + from + "]);\n    y0[" + to + "] = tw::narrow<" +
          storage_type(out.dtype) + ">(v);\n  }\n}\n"};
  std::string type = loops.index_type();
  int64_t items = out.numel();
  Arguments arguments;
  arguments.add(pad.value);
  add_index(arguments, items, type);
  for (int64_t d : order) add_size(arguments, out.shape[d], type);
  for (int64_t d : order) add_index(arguments, pad.before[d], type);
  for (int64_t d : order) add_index(arguments, x.shape[d], type);
  for (int64_t d : order) add_index(arguments, x.strides[d], type);
  for (int64_t d : order) add_index(arguments, out.strides[d], type);
  constexpr int64_t kMostBlocks = 1 << 20;
  return make_own_kernel(node, program,
                         {.blocks = std::min(ceil_div(items, kThreads), kMostBlocks), .threads = kThreads},
                         std::move(arguments), {});
}

}  // namespace

void propose_concat(const Node& node, const KernelContext&, Offers& offers) {
  if (!node.as<Concat>()) return;
  constexpr size_t kMostInputs = 128;
  expect(node.inputs().size() <= kMostInputs, "more than 128 inputs");
  ConcatParts parts = take_apart(node);
  offers.add("", [&node, parts] { return make_concat(node, parts); });
}

void propose_pad(const Node& node, const KernelContext&, Offers& offers) {
  if (!node.as<Pad>()) return;
  expect(node.output()->type.rank() > 0 && has_device_type(node.output()->type.dtype),
         "no element type for it in device code");
  expect(node.input(0)->type.device.is_cuda(), "the input lies in host memory");
  offers.add("", [&node] { return make_pad(node); });
}

}  // namespace torchweld::cuda
