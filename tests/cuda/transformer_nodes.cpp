#include "tests/cuda/transformer_nodes.h"

#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "conversion/passes/passes.h"
#include "core/error.h"
#include "core/ops/attention.h"
#include "core/ops/constant.h"
#include "core/ops/index.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/ops/pointwise.h"
#include "core/ops/softmax.h"

namespace torchweld::cuda_tests {
namespace {

/// How q, k and v lie in memory.
enum class Layout {
  kHeadsApart,  ///< [N,H,L,E] without gaps.
  kJoined,      ///< Slices of one [N,L,3,H,E].
  kTurned,      ///< [N,H,E,L]: the head dimension is not innermost.
};

struct Spec {
  const char* name;
  int64_t batch, heads, key_heads, queries, keys, head, value;
  Layout layout = Layout::kJoined;
  Dims mask = {};  ///< Its sizes; empty for none.
  c10::ScalarType mask_dtype = c10::kBool;
  bool causal = false;
  bool nan_rows = false;
  double scale = 0;  ///< 0: that of the head's size.
};

TensorType operand_type(const Spec& s, int64_t heads, int64_t rows, int64_t columns, c10::ScalarType dtype,
                        c10::Device device) {
  Dims strides;
  switch (s.layout) {
    case Layout::kHeadsApart:
      strides = {heads * rows * columns, rows * columns, columns, 1};
      break;
    case Layout::kJoined:
      strides = {3 * heads * rows * columns, columns, 3 * heads * columns, 1};
      break;
    case Layout::kTurned:
      strides = {heads * rows * columns, rows * columns, 1, rows};
      break;
  }
  return {dtype, {s.batch, heads, rows, columns}, strides, device};
}

Case make_case(const Spec& s, c10::ScalarType dtype, c10::Device device, const at::Tensor& constant_mask) {
  auto graph = std::make_unique<Graph>();
  std::vector<Value*> inputs = {graph->add_input(operand_type(s, s.heads, s.queries, s.head, dtype, device)),
                                graph->add_input(operand_type(s, s.key_heads, s.keys, s.head, dtype, device)),
                                graph->add_input(operand_type(s, s.key_heads, s.keys, s.value, dtype, device))};
  if (constant_mask.defined()) {
    inputs.push_back(graph->add(Constant{constant_mask, "mask"}, {}));
    inputs.back()->type.device = device;
  } else if (!s.mask.empty()) {
    inputs.push_back(graph->add_input(contiguous_type(s.mask_dtype, s.mask, device)));
  }
  double scale = s.scale == 0 ? 1 / std::sqrt(static_cast<double>(s.head)) : s.scale;
  Attention attention{.scale = scale, .causal = s.causal, .nan_rows = s.nan_rows};
  Node* node = graph->add_node(attention, inputs);
  Value* y = node->output();
  y->type.device = device;
  // As the projection after it wants its rows.
  y->type.strides = {s.heads * s.queries * s.value, s.value, s.heads * s.value, 1};
  graph->add_output(y);
  return {std::string("attention_") + s.name + "/" + dtype_name(dtype), std::move(graph)};
}

}  // namespace

std::vector<Case> encoder_attention(c10::ScalarType dtype, c10::Device device) {
  const Spec specs[] = {{"bert", 1, 12, 12, 128, 128, 64, 64, Layout::kJoined, {1, 1, 1, 128}},
                        {"gpt2", 1, 12, 12, 128, 128, 64, 64, Layout::kJoined, {}, c10::kBool, true},
                        {"vit", 1, 12, 12, 197, 197, 64, 64},
                        {"bert_256", 1, 12, 12, 256, 256, 64, 64, Layout::kJoined, {1, 1, 1, 256}},
                        {"bert_32", 32, 12, 12, 128, 128, 64, 64, Layout::kJoined, {32, 1, 1, 128}},
                        {"gpt2_32", 32, 12, 12, 128, 128, 64, 64, Layout::kJoined, {32, 1, 128, 128}},
                        {"vit_32", 32, 12, 12, 197, 197, 64, 64}};
  std::vector<Case> list;
  for (const Spec& spec : specs) list.push_back(make_case(spec, dtype, device, {}));
  return list;
}

std::vector<Case> attention_nodes(c10::ScalarType dtype, c10::Device device) {
  const Spec specs[] = {
      {"encoder", 1, 12, 12, 128, 128, 64, 64},
      {"encoder_mask", 2, 4, 4, 128, 128, 64, 64, Layout::kJoined, {2, 1, 1, 128}},
      {"image", 2, 3, 3, 197, 197, 64, 64},
      {"many_mask", 16, 12, 12, 130, 130, 64, 64, Layout::kJoined, {16, 1, 1, 130}},
      // Masks of whole and half pairs, for many heads.
      {"many_odd", 12, 12, 12, 77, 131, 64, 64, Layout::kJoined, {12, 1, 77, 131}},
      {"many_pairs", 12, 12, 12, 77, 98, 64, 40, Layout::kHeadsApart, {12, 1, 77, 98}},
      {"many_causal", 16, 12, 12, 130, 130, 64, 64, Layout::kJoined, {}, c10::kBool, true},
      {"many_causal_fewer_keys", 16, 12, 12, 100, 70, 40, 64, Layout::kHeadsApart, {}, c10::kBool, true},
      {"many_added", 12, 12, 4, 60, 70, 32, 64, Layout::kHeadsApart, {12, 12, 60, 70}, dtype},
      {"steep", 2, 3, 3, 50, 70, 64, 64, Layout::kJoined, {50, 70}, c10::kBool, false, false, 3e8},
      {"negative", 2, 3, 3, 50, 70, 64, 64, Layout::kJoined, {50, 70}, c10::kBool, false, false, -0.2},
      {"long", 1, 2, 2, 1030, 1030, 64, 64},
      {"long_keys", 1, 2, 2, 3, 700, 128, 128, Layout::kHeadsApart},
      {"small", 3, 2, 2, 5, 7, 8, 16, Layout::kHeadsApart},
      {"one_query", 2, 4, 4, 1, 200, 64, 64},
      {"one_key", 2, 4, 4, 9, 1, 24, 40},
      {"odd_heads", 2, 3, 3, 70, 129, 80, 72},
      {"turned", 2, 3, 3, 33, 50, 40, 24, Layout::kTurned},
      {"grouped", 2, 6, 2, 40, 60, 32, 32},
      {"causal", 2, 3, 3, 130, 130, 64, 64, Layout::kJoined, {}, c10::kBool, true},
      {"causal_fewer_keys", 2, 3, 3, 90, 37, 64, 64, Layout::kJoined, {}, c10::kBool, true},
      {"mask_of_scores", 2, 3, 3, 50, 70, 64, 64, Layout::kJoined, {50, 70}},
      {"added", 2, 3, 3, 50, 70, 64, 64, Layout::kJoined, {2, 3, 50, 70}, dtype},
      {"added_f32", 2, 3, 3, 50, 300, 64, 64, Layout::kHeadsApart, {2, 1, 1, 300}, c10::kFloat},
      // Sizes round those where a block has all keys at once.
      {"most_keys", 1, 2, 2, 256, 256, 64, 64},
      {"too_many_keys", 1, 2, 2, 40, 257, 64, 64},
      {"causal_image", 1, 3, 3, 197, 197, 64, 64, Layout::kJoined, {}, c10::kBool, true},
      {"causal_more_keys", 2, 3, 3, 35, 190, 64, 64, Layout::kJoined, {}, c10::kBool, true},
      {"causal_grouped", 2, 4, 2, 100, 100, 64, 64, Layout::kJoined, {}, c10::kBool, true},
      {"few_queries", 2, 2, 2, 5, 131, 64, 64},
      {"image_mask", 1, 2, 2, 197, 197, 64, 64, Layout::kJoined, {197, 197}},
      {"wide_heads", 1, 2, 2, 40, 97, 128, 64, Layout::kHeadsApart},
      {"uneven_heads", 1, 2, 2, 40, 120, 96, 32, Layout::kHeadsApart, {1, 2, 1, 120}, dtype},
  };
  std::vector<Case> list;
  for (const Spec& spec : specs) list.push_back(make_case(spec, dtype, device, {}));
  return list;
}

std::vector<Case> attention_nodes_with_dead_rows(c10::ScalarType dtype, c10::Device device) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr double kLowest = -3.4e38;
  std::vector<Case> list;
  for (bool nan_rows : {false, true}) {
    const char* name = nan_rows ? "nan_rows" : "zero_rows";
    Spec spec{name, 2, 3, 3, 20, 75, 64, 64, Layout::kJoined, {20, 75}, c10::kBool, false, nan_rows};
    at::Tensor excluded = at::randn(spec.mask).gt(0);
    excluded[3].fill_(false);
    excluded[19].fill_(false);
    list.push_back(make_case(spec, dtype, device, excluded.to(device)));
    at::Tensor added = at::zeros(spec.mask);
    added[3].fill_(-kInfinity);
    added[7].narrow(0, 2, 60).fill_(-kInfinity);
    list.push_back(make_case(spec, dtype, device, added.to(dtype).to(device)));
  }
  // A whole row of the lowest number that f32 has is a row of equal weights, not a dead one.
  Spec spec{"lowest", 2, 3, 3, 20, 75, 64, 64, Layout::kJoined, {20, 75}, c10::kFloat};
  at::Tensor added = at::zeros(spec.mask);
  added[3].fill_(kLowest);
  added[7].narrow(0, 2, 60).fill_(kLowest);
  if (dtype != c10::kHalf) list.push_back(make_case(spec, dtype, device, added.to(device)));
  return list;
}

std::vector<Case> deferred_norms(c10::ScalarType dtype, c10::Device device, bool constants_on_device) {
  struct NormSpec {
    const char* name;
    Dims x;
    int64_t channels, outputs;  ///< Of the norm; of the last layer.
    bool residual, x_kept, kept, affine, gelu;
    double mean = 0;  ///< Of the normalised rows.
    bool rms = false;
  };
  const NormSpec specs[] = {{"after", {1, 128, 768}, 768, 2304, true, false, true, true, false},
                            {"before", {1, 128, 3072}, 768, 3072, true, true, false, true, true},
                            {"tokens", {2, 99, 768}, 768, 768, true, true, false, true, false},
                            {"vit", {1, 197, 768}, 768, 1536, true, true, false, true, true},
                            {"bare", {70, 96}, 320, 72, false, false, false, false, false},
                            {"both", {40, 200}, 64, 1000, true, true, true, true, true},
                            {"far", {70, 128}, 384, 128, false, true, true, true, false, 20},
                            {"rms", {2, 99, 768}, 768, 2304, true, true, false, true, false, 0, true},
                            {"rms_far", {70, 96}, 320, 72, false, false, false, false, true, 5, true}};
  std::vector<Case> list;
  for (const NormSpec& spec : specs) {
    auto graph = std::make_unique<Graph>();
    auto weight = [&](const Dims& shape, double scale, double mean) {
      at::Tensor value = at::randn(shape).mul_(scale).add_(mean).to(dtype);
      Value* constant = graph->add(Constant{constants_on_device ? value.to(device) : value, "w"}, {});
      constant->type.device = device;
      return constant;
    };
    auto linear = [&](Value* x, int64_t k, int64_t outputs, double mean) {
      return graph->add(
          Linear{}, {x, weight({outputs, k}, 1 / std::sqrt(static_cast<double>(k)), 0), weight({outputs}, 0.5, mean)});
    };
    Value* x =
        linear(graph->add_input(contiguous_type(dtype, spec.x, device)), spec.x.back(), spec.channels, spec.mean);
    if (spec.residual) x = graph->add(Pointwise{"add"}, {x, graph->add_input(x->type)});
    std::vector<Value*> inputs = {x};
    if (spec.affine) inputs.push_back(weight({spec.channels}, 0.3, 1));
    if (spec.affine && !spec.rms) inputs.push_back(weight({spec.channels}, 0.3, 0));
    Value* normed = spec.rms ? graph->add(RmsNorm{.rank = 1, .eps = 1e-5}, inputs)
                             : graph->add(LayerNorm{.rank = 1, .eps = 1e-5}, inputs);
    Value* y = linear(normed, spec.channels, spec.outputs, 0);
    if (spec.gelu) y = graph->add(Pointwise{"gelu"}, {y});
    if (spec.x_kept) graph->add_output(x);
    if (spec.kept) graph->add_output(normed);
    graph->add_output(y);
    PassContext context;
    context.tensor_cores = true;
    for (auto pass : {fuse, fuse_blocks}) {
      pass(*graph, context);
      graph->sweep();
    }
    list.push_back({std::string("deferred_norm_") + spec.name + "/" + dtype_name(dtype), std::move(graph)});
  }
  return list;
}

namespace {

/// Makes graphs of lookups and rows, each fused into one node.
class RowMaker {
 public:
  RowMaker(c10::ScalarType dtype, c10::Device device, bool constants_on_device)
      : dtype_(dtype), device_(device), constants_on_device_(constants_on_device) {
    start();
  }

  Graph& graph() { return *graph_; }
  Value* input(const Dims& shape) { return graph_->add_input(contiguous_type(dtype_, shape, device_)); }
  Value* constant(const Dims& shape) { return known(at::randn(shape).to(dtype_)); }
  /// Rows numbered from `first` to `last`, both among them.
  Value* numbers(const Dims& shape, int64_t first, int64_t last, c10::ScalarType dtype = c10::kLong) {
    at::Tensor value = at::randint(first, last + 1, shape, at::TensorOptions(c10::kLong));
    value.view(-1)[0] = last;
    value.view(-1)[-1] = first;
    return known(value.to(dtype));
  }
  Value* pointwise(const char* name, const std::vector<Value*>& inputs) { return graph_->add(Pointwise{name}, inputs); }
  Value* norm(Value* x, bool bias = true) {
    Dims row = {x->type.shape.back()};
    std::vector<Value*> inputs = {x, constant(row)};
    if (bias) inputs.push_back(constant(row));
    return graph_->add(LayerNorm{.rank = 1, .eps = 1e-5}, inputs);
  }

  void finish(const std::string& name, const std::vector<Value*>& outputs) {
    for (Value* output : outputs) graph_->add_output(output);
    fuse(*graph_, {});
    graph_->sweep();
    auto steps = std::count_if(graph_->nodes().begin(), graph_->nodes().end(),
                               [](const auto& node) { return !node->template as<Constant>(); });
    check(steps == 1, name + " does not become one node");
    list_.push_back({name + "/" + dtype_name(dtype_), std::move(graph_)});
    start();
  }
  std::vector<Case> take() { return std::move(list_); }

 private:
  void start() { graph_ = std::make_unique<Graph>(); }
  Value* known(const at::Tensor& value) {
    Value* constant = graph_->add(Constant{constants_on_device_ ? value.to(device_) : value, "c"}, {});
    constant->type.device = device_;
    return constant;
  }

  c10::ScalarType dtype_;
  c10::Device device_;
  bool constants_on_device_;
  std::unique_ptr<Graph> graph_;
  std::vector<Case> list_;
};

}  // namespace

std::vector<Case> lookups(c10::ScalarType dtype, c10::Device device, bool constants_on_device) {
  RowMaker make(dtype, device, constants_on_device);
  auto take = [&make](Value* table, Value* index, Take how = {}) { return make.graph().add(how, {table, index}); };
  make.finish("lookup", {take(make.input({50, 96}), make.numbers({2, 9}, 0, 49))});
  make.finish("lookup_i32", {take(make.input({50, 96}), make.numbers({2, 9}, 0, 49, c10::kInt))});
  make.finish("lookup_odd", {take(make.input({6, 7}), make.numbers({13}, 0, 5))});
  make.finish("lookup_wraps", {take(make.input({6, 24}), make.numbers({3, 5}, -6, 5), {.axis = 0, .wraps = true})});
  make.finish("lookup_middle", {take(make.input({5, 10, 8}), make.numbers({2, 3}, 0, 9), {.axis = 1})});
  make.finish("lookup_blocks", {take(make.input({10, 3, 5}), make.numbers({4}, 0, 9))});
  Value* words = take(make.input({50, 96}), make.numbers({2, 9}, 0, 49));
  make.finish("lookup_add", {make.pointwise("add", {words, make.constant({9, 96})})});
  // One table twice, and an index that is an operand as well.
  Value* table = make.input({50, 40});
  Value* index = make.numbers({5, 1}, 0, 49);
  Value* apart = make.pointwise("sub", {take(table, index), take(table, make.numbers({5, 1}, 0, 49))});
  make.finish("lookup_twice", {make.pointwise("mul", {apart, make.graph().add(Cast{dtype}, {index})})});
  // The same row for every sample.
  Value* x = make.input({3, 9, 64});
  make.finish("lookup_repeated", {make.pointwise("add", {x, take(make.constant({20, 64}), make.numbers({9}, 0, 19))})});
  return make.take();
}

std::vector<Case> computed_rows(c10::ScalarType dtype, c10::Device device, bool constants_on_device) {
  RowMaker make(dtype, device, constants_on_device);
  auto take = [&make](int64_t width, const Dims& index, int64_t rows) {
    return make.graph().add(Take{}, {make.input({rows, width}), make.numbers(index, 0, rows - 1)});
  };
  auto add = [&make](Value* a, Value* b) { return make.pointwise("add", {a, b}); };
  Value* x = add(add(take(768, {2, 17}, 90), take(768, {2, 17}, 2)), make.constant({1, 17, 768}));
  make.finish("rows_two_tables", {make.norm(x)});
  make.finish("rows_of_a_table", {make.norm(take(320, {7}, 30))});
  x = add(take(768, {3, 11}, 90), make.constant({11, 768}));
  make.finish("rows_kept", {make.norm(x), x});
  make.finish("rows_odd", {make.norm(add(take(77, {5}, 9), make.constant({77})), false)});
  make.finish("rows_long", {make.norm(add(take(3000, {5}, 9), make.input({5, 3000})))});
  make.finish("rows_longest", {make.norm(add(make.input({3, 8190}), make.input({3, 1})))});
  x = add(make.input({4, 5, 200}), make.input({4, 5, 200}));
  make.finish("rows_rms", {make.graph().add(RmsNorm{.rank = 1, .eps = 1e-6}, {x, make.constant({200})}), x});
  x = add(make.input({2, 3, 20, 50}), make.input({2, 1, 1, 50}));
  make.finish("rows_softmax", {make.graph().add(Softmax{.axis = 3}, {x})});
  // What follows the norm reads what came ahead of it.
  Value* gate = make.input({9, 96});
  x = make.pointwise("mul", {make.pointwise("sigmoid", {gate}), make.input({9, 96})});
  make.finish("rows_and_after", {make.pointwise("relu", {make.pointwise("sub", {make.norm(x), x})})});
  return make.take();
}

}  // namespace torchweld::cuda_tests
