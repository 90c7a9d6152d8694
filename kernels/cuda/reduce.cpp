#include "kernels/cuda/reduce.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "core/ops/pool.h"
#include "core/ops/reduce.h"
#include "kernels/cuda/own_kernel.h"

namespace torchweld::cuda {
namespace {

constexpr unsigned kThreads = 256;

/// A reduction taken apart: loops over the results, and loops over what is reduced.
struct ReduceParts {
  Body body;
  std::string kind;  ///< Name of the policy in reduce.cuh.
  std::string type;  ///< In which it is gathered.
  double parameter = 0;
  size_t x_index = 0;
  TensorType x;
  Loops loops;  ///< Operand "in" holds the strides of x.
  Dims reduced_sizes;
  Dims reduced_strides;
  const Dims& in() const { return loops.operands.front().strides; }
  int64_t reduced() const {
    return std::accumulate(reduced_sizes.begin(), reduced_sizes.end(), int64_t{1}, std::multiplies<>());
  }
};

struct KindName {
  const char* kind;
  const char* policy;
};
constexpr KindName kKinds[] = {
    {"sum", "ReduceSum"},       {"mean", "ReduceMean"}, {"prod", "ReduceProd"}, {"amax", "ReduceAmax"},
    {"amin", "ReduceAmin"},     {"any", "ReduceAny"},   {"all", "ReduceAll"},   {"argmax", "ReduceArgmax"},
    {"argmin", "ReduceArgmin"}, {"var", "ReduceVar"},   {"std", "ReduceStd"},   {"logsumexp", "ReduceLogsumexp"},
    {"norm", "ReduceNorm"},
};

/// The one input of the body that a value inside it is computed from.
const Value* find_source(const Value* value) {
  if (!value->producer()) return value;
  const Value* source = nullptr;
  for (const Value* input : value->producer()->inputs()) {
    if (input->from<Constant>()) continue;
    const Value* found = find_source(input);
    expect(!source || source == found, "work before the reduction has more than one operand");
    source = found;
  }
  expect(source != nullptr, "a constant is reduced");
  return source;
}

/// The anchor as a reduction: kind, axes, keepdim.
struct AnyReduce {
  std::string kind;
  Dims axes;
  bool keepdim = false;
  double parameter = 0;
};
AnyReduce reduction_of(const Node& anchor) {
  if (auto* reduce = anchor.as<Reduce>()) return {reduce->kind, reduce->axes, reduce->keepdim, reduce->parameter};
  auto* pool = anchor.as<AdaptivePool>();
  bool one = std::all_of(pool->output.begin(), pool->output.end(), [](int64_t size) { return size == 1; });
  expect(one, "adaptive pooling to more than one position");
  AnyReduce result{pool->kind == "max" ? "amax" : "mean", {}, true, 0};
  int64_t rank = anchor.input(0)->type.rank();
  for (auto d = rank - static_cast<int64_t>(pool->output.size()); d < rank; ++d) result.axes.push_back(d);
  return result;
}

std::string gather_type(const std::string& kind, c10::ScalarType in, c10::ScalarType out) {
  bool keeps = kind == "amax" || kind == "amin" || kind == "any" || kind == "all" || kind.starts_with("arg");
  return compute_type(keeps ? in : out);
}

/// Merges loops over reduced elements, by the strides of x.
void collapse_reduced(const TensorType& x, const Dims& axes, Dims& sizes, Dims& strides) {
  Dims order;
  for (int64_t d : axes) {
    if (x.shape[d] != 1) order.push_back(d);
  }
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return x.strides[a] > x.strides[b]; });
  for (int64_t d : order) {
    if (!sizes.empty() && strides.back() == x.strides[d] * x.shape[d]) {
      sizes.back() *= x.shape[d];
      strides.back() = x.strides[d];
    } else {
      sizes.push_back(x.shape[d]);
      strides.push_back(x.strides[d]);
    }
  }
  if (sizes.empty()) {
    sizes = {1};
    strides = {1};
  }
}

ReduceParts take_apart(const Node& node) {
  ReduceParts parts;
  parts.body = body_of(node);
  const Node& anchor = *parts.body.anchor;
  AnyReduce reduce = reduction_of(anchor);
  const Value* source = find_source(anchor.input(0));
  parts.x_index = static_cast<size_t>(source->index());
  parts.x = node.input(parts.x_index)->type;
  expect(parts.x.shape == anchor.input(0)->type.shape, "work before the reduction broadcasts its operand");
  auto row = std::find_if(std::begin(kKinds), std::end(kKinds),
                          [&](const KindName& name) { return reduce.kind == name.kind; });
  expect(row != std::end(kKinds), "no device code for the reduction " + reduce.kind);
  expect(reduce.kind != "norm" || reduce.parameter == 2 || reduce.parameter == 1, "a norm other than 1 and 2");
  parts.kind = reduce.kind == "norm" && reduce.parameter == 1 ? "ReduceNorm1" : row->policy;
  parts.type = gather_type(reduce.kind, anchor.input(0)->type.dtype, anchor.output()->type.dtype);
  parts.parameter = reduce.parameter;

  const Dims& result = anchor.output()->type.shape;
  Dims order(result.size());
  std::iota(order.begin(), order.end(), 0);
  Operand in{.name = "in", .dtype = parts.x.dtype, .strides = {}};
  for (int64_t d = 0; d < parts.x.rank(); ++d) {
    bool reduced = std::find(reduce.axes.begin(), reduce.axes.end(), d) != reduce.axes.end();
    if (!reduced) in.strides.push_back(parts.x.strides[d]);
    if (reduced && reduce.keepdim) in.strides.push_back(0);
  }
  check(in.strides.size() == result.size(), "rank of a reduction's result");
  parts.loops.sizes = result;
  parts.loops.operands.push_back(in);
  add_finish_operands(node, parts.body, order, parts.loops);
  std::erase_if(parts.loops.operands, [&](const Operand& operand) {
    return operand.value == source && !operand.output && source->users().size() == 1;
  });
  parts.loops.collapse();
  collapse_reduced(parts.x, reduce.axes, parts.reduced_sizes, parts.reduced_strides);
  parts.loops.other_extent = parts.x.storage_bytes() / static_cast<int64_t>(c10::elementSize(parts.x.dtype));
  return parts;
}

/// `struct Prepare`: pointwise work on an element before it is gathered.
std::string emit_prepare(const ReduceParts& parts) {
  const Value* wanted = parts.body.anchor->input(0);
  std::map<const Value*, std::string> names{{parts.body.graph->inputs()[parts.x_index].get(), "v"}};
  std::string statements = emit_statements(*parts.body.graph, names, {wanted});
  return "struct Prepare {\n  __device__ static " + parts.type + " apply(" + compute_type(parts.x.dtype) + " v) {\n" +
         statements + "    return tw::convert<" + parts.type + ">(" + names.at(wanted) + ");\n  }\n};\n";
}

std::string emit_program(const Node& node, const ReduceParts& parts, const std::string& work) {
  const Loops& loops = parts.loops;
  return emit_head(loops, {"reduce.cuh"}) +
         "struct Params {\n  double parameter;\n  I items;\n  I reduced;\n  tw::Size<I> size[" +
         std::to_string(loops.sizes.size()) + "];\n  tw::Size<I> reduced_size[" +
         std::to_string(parts.reduced_sizes.size()) + "];\n  I reduced_stride[" +
         std::to_string(parts.reduced_sizes.size()) + "];\n  int vector_reads;\n" + loops.parameter_members() + "};\n" +
         emit_prepare(parts) + emit_elements(parts.body, loops, parts.body.anchor->output()) +
         "extern \"C\" __global__ void __launch_bounds__(256) kernel(" + emit_pointers(node, parts.body.literals) +
         "const __grid_constant__ Params p) {\n  tw::wait_for_previous();\n  " + emit_elements_object(loops) + work +
         "}\n";
}

Arguments arguments_of(const ReduceParts& parts, const Dims& sizes, int64_t items, bool vector_reads) {
  std::string type = parts.loops.index_type();
  Arguments arguments;
  arguments.add(parts.parameter);
  add_index(arguments, items, type);
  add_index(arguments, parts.reduced(), type);
  for (int64_t size : sizes) add_size(arguments, size, type);
  for (int64_t size : parts.reduced_sizes) add_size(arguments, size, type);
  for (int64_t stride : parts.reduced_strides) add_index(arguments, stride, type);
  arguments.add(static_cast<int32_t>(vector_reads));
  parts.loops.add_arguments(arguments);
  return arguments;
}

std::string offset_of_in(const ReduceParts& parts) {
  std::string text;
  for (size_t d = 0; d < parts.in().size(); ++d) {
    text += (d ? " + i" : "i") + std::to_string(d) + " * p.in[" + std::to_string(d) + "]";
  }
  return text;
}

bool all_divide(const Dims& strides, size_t count, int width) {
  return std::all_of(strides.begin(), strides.begin() + static_cast<std::ptrdiff_t>(count),
                     [&](int64_t s) { return s % width == 0; });
}

/// Threads along the reduced elements: a warp per result, or a block.
std::unique_ptr<Kernel> make_rows(const Node& node, ReduceParts parts) {
  constexpr int64_t kWarpIsEnough = 1024;
  int threads = parts.reduced() <= kWarpIsEnough ? 32 : 256;
  int width = 1;
  if (parts.reduced_strides.back() == 1) {
    width = std::min<int>(8, static_cast<int>(16 / c10::elementSize(parts.x.dtype)));
    while (width > 1 && (parts.reduced_sizes.back() % width || !all_divide(parts.in(), parts.in().size(), width) ||
                         !all_divide(parts.reduced_strides, parts.reduced_strides.size() - 1, width))) {
      width /= 2;
    }
  }
  std::string x = "x" + std::to_string(parts.x_index);
  size_t rank = parts.loops.sizes.size();
  std::string per_block = std::to_string(kThreads / threads);
  std::string result = compute_type(parts.body.anchor->output()->type.dtype);
  std::string work = "  const I item = static_cast<I>(blockIdx.x) * " + per_block + " + threadIdx.x / " +
                     std::to_string(threads) + ";\n  if (item >= p.items) return;\n  I rest = item;\n" +
                     emit_split(rank) + "  const " + result + " acc[1] = {static_cast<" + result +
                     ">(tw::reduce_row<tw::" + parts.kind + "<" + parts.type + ">, " + std::to_string(threads) + ", " +
                     std::to_string(width) + ", " + std::to_string(parts.reduced_sizes.size()) + ", Prepare, " +
                     parts.type + ">(" + x + " + (" + offset_of_in(parts) + "), tw::is_aligned<" +
                     std::to_string(width) + ">(" + x + "), p))};\n  if (threadIdx.x % " + std::to_string(threads) +
                     " == 0) elements.run<1>(acc, " + index_list(rank) + ");\n";
  Program program{"reduce_rows", emit_program(node, parts, work)};
  int64_t items = parts.loops.positions();
  Shape shape{.blocks = ceil_div(items * threads, kThreads), .threads = kThreads};
  return make_own_kernel(node, program, shape, arguments_of(parts, parts.loops.sizes, items, width > 1),
                         parts.body.literals);
}

/// Threads of a block that have neighbouring results.
int columns_of(const ReduceParts& parts) {
  constexpr int64_t kFew = 16;
  return parts.reduced() < kFew ? 32 : 8;
}

/// Threads along neighbouring results, up to `most` at a time each; the others of the block along the reduced elements.
std::unique_ptr<Kernel> make_columns(const Node& node, ReduceParts parts, int most) {
  int columns = columns_of(parts);
  Loops& loops = parts.loops;
  size_t rank = loops.sizes.size();
  size_t inner = rank - 1;
  loops.choose_width(most, false);
  while (loops.width > 1 && !all_divide(parts.reduced_strides, parts.reduced_strides.size(), loops.width))
    loops.width /= 2;
  std::string width = std::to_string(loops.width);
  std::string x = "x" + std::to_string(parts.x_index);
  std::string column = "i" + std::to_string(inner);
  std::string result = compute_type(parts.body.anchor->output()->type.dtype);
  std::string tile = std::to_string(columns * loops.width);
  std::string work = "  I rest = blockIdx.x;\n" + emit_split(rank) + "  " + column + " = " + column + " * " + tile +
                     " + static_cast<I>(threadIdx.x) % " + std::to_string(columns) + " * " + width +
                     ";\n  const bool active = " + column + " < p.items;\n  " + result + " acc[" + width +
                     "];\n  tw::reduce_columns<tw::" + parts.kind + "<" + parts.type + ">, " + std::to_string(columns) +
                     ", " + width + ", " + std::to_string(parts.reduced_sizes.size()) + ", Prepare, " + parts.type +
                     ">(" + x + " + (" + offset_of_in(parts) + "), tw::is_aligned<" + width + ">(" + x +
                     "), active, p, acc);\n  if (active && threadIdx.x < " + std::to_string(columns) +
                     ") elements.run<" + width + ">(acc, " + index_list(rank) + ");\n";
  Program program{"reduce_columns", emit_program(node, parts, work)};
  Dims tiles = loops.sizes;
  tiles[inner] = ceil_div(tiles[inner], columns * loops.width);
  int64_t blocks = std::accumulate(tiles.begin(), tiles.end(), int64_t{1}, std::multiplies<>());
  return make_own_kernel(node, program, {.blocks = blocks, .threads = kThreads},
                         arguments_of(parts, tiles, loops.sizes[inner], loops.width > 1), parts.body.literals);
}

}  // namespace

void propose_reduce(const Node& node, const KernelContext& context, Offers& offers) {
  auto* fused = node.as<Fused>();
  const Node* anchor = fused ? anchor_of(*fused) : &node;
  if (!anchor || !(anchor->as<Reduce>() || anchor->as<AdaptivePool>())) return;
  ReduceParts parts = take_apart(node);
  expect(parts.reduced() > 0, "nothing to reduce");
  // A result is one block's work at most.
  constexpr int64_t kMany = 1 << 18;
  constexpr int64_t kFewBlocks = 32;
  bool many_blocks = parts.reduced() < kMany || parts.loops.positions() >= kFewBlocks;
  expect(context.tune || many_blocks, "many elements for few results, and kernels are not timed");
  bool neighbours = parts.in().back() == 1 && parts.loops.sizes.back() > 1;
  if (neighbours) {
    constexpr int kWide = 8;
    constexpr int kNarrow = 2;  // With 8 columns a sector of f16.
    constexpr int64_t kProcessors = 64;
    offers.add("columns", [&node, parts] { return make_columns(node, parts, kWide); });
    // Where wide blocks would leave most of the device idle.
    bool few_blocks = parts.loops.positions() < kProcessors * columns_of(parts) * kWide;
    if (context.tune && few_blocks)
      offers.add("narrow columns", [&node, parts] { return make_columns(node, parts, kNarrow); });
  } else {
    offers.add("rows", [&node, parts] { return make_rows(node, parts); });
  }
}

}  // namespace torchweld::cuda
