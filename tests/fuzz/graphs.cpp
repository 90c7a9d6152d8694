#include "tests/fuzz/graphs.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/index.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/ops/pointwise.h"
#include "core/ops/pool.h"
#include "core/ops/reduce.h"
#include "core/ops/resize.h"
#include "core/ops/shape.h"
#include "core/ops/softmax.h"
#include "tests/fuzz/random_values.h"

namespace torchweld::test {
namespace {

class Grower : RandomValues {
 public:
  explicit Grower(uint64_t seed) : RandomValues(seed) {}

  std::unique_ptr<Graph> grow() {
    int64_t nodes = below(16) + 4;
    for (int64_t tries = 0; tries < 200 && static_cast<int64_t>(graph_->nodes().size()) < nodes; ++tries) {
      try {
        (this->*choose<void (Grower::*)()>({&Grower::unary,
                                            &Grower::unary,
                                            &Grower::binary,
                                            &Grower::binary,
                                            &Grower::binary,
                                            &Grower::beside_constant,
                                            &Grower::beside_constant,
                                            &Grower::select,
                                            &Grower::view,
                                            &Grower::view,
                                            &Grower::view,
                                            &Grower::rearrange,
                                            &Grower::reduce,
                                            &Grower::normalise,
                                            &Grower::convolve,
                                            &Grower::convolve,
                                            &Grower::pool,
                                            &Grower::product,
                                            &Grower::product,
                                            &Grower::attend,
                                            &Grower::gate,
                                            &Grower::take,
                                            &Grower::repeat}))();
      } catch (const Unsupported&) {
        // The op does not take these operands.
      }
    }
    choose_outputs();
    graph_->sweep();
    return std::move(graph_);
  }

 private:
  // ---- families ----

  void unary() {
    Value* x = any();
    if (x->type.dtype != dtype_) {
      if (x->type.dtype == c10::kBool) {
        fn("logical_not", {x});
      } else {
        add(Cast{chance(0.5) ? dtype_ : c10::kDouble}, {x});
      }
      return;
    }
    if (chance(0.1)) {
      add(Cast{choose<c10::ScalarType>({c10::kFloat, c10::kDouble})}, {x});
      return;
    }
    fn(choose<const char*>({"relu", "neg", "abs", "sigmoid", "tanh", "silu", "gelu", "sin", "erf", "hardswish",
                            "hardsigmoid", "square", "atan", "mish"}),
       {x});
  }

  void binary() {
    Value* x = floating();
    Value* y = floating();
    if (chance(0.5)) {  // of the same shape, as a residual
      for (int tries = 0; tries < 10 && y->type.shape != x->type.shape; ++tries) y = floating();
    }
    fn(choose<const char*>({"add", "add", "mul", "sub", "maximum", "minimum"}), {x, y});
  }

  void beside_constant() {
    Value* x = floating();
    Dims shape;
    int64_t kind = below(5);
    if (kind == 1) shape = x->type.shape;
    if (kind == 2 && x->type.rank() > 0) shape = {x->type.shape.back()};
    if (kind == 3 && x->type.rank() > 1) {
      shape.assign(x->type.shape.size(), 1);
      shape[1] = x->type.shape[1];
    }
    const char* op = choose<const char*>({"add", "mul", "sub", "div", "maximum"});
    bool divides = std::string_view(op) == "div";
    Value* c = kind == 0 ? number(choose({1, 2, -1})) : chance(0.2) ? filled(shape, chance(0.5)) : constant(shape);
    if (divides) c = kind == 0 ? number(2) : filled(shape, 1.5);
    if (!divides && chance(0.3)) {
      fn(op, {c, x});
    } else {
      fn(op, {x, c});
    }
  }

  void select() {
    Value* flags = any();
    if (flags->type.dtype == c10::kLong) flags = fn(choose<const char*>({"gt", "eq"}), {flags, whole_number(2)});
    if (flags->type.dtype != c10::kBool) throw Unsupported("no flags");
    fn("where", {flags, floating(), chance(0.5) ? floating() : number(0.5)});
  }

  void view() {
    Value* x = any();
    const Dims& shape = x->type.shape;
    int64_t rank = x->type.rank();
    switch (rank == 0 ? 0 : below(6)) {
      case 0: {  // a dimension more
        Dims wider = shape;
        wider.insert(wider.begin() + below(rank + 1), 1);
        if (wider.size() <= 5) add(Reshape{wider}, {x});
        break;
      }
      case 1: {  // dimensions joined
        Dims joined;
        int64_t from = below(rank);
        int64_t to = from + below(rank - from);
        for (int64_t i = 0; i < rank; ++i) {
          if (i > from && i <= to) {
            joined.back() *= shape[i];
          } else {
            joined.push_back(shape[i]);
          }
        }
        add(Reshape{joined}, {x});
        break;
      }
      case 2: {  // a dimension taken apart
        int64_t axis = below(rank);
        int64_t part = choose({1, 2, 3, 4});
        if (shape[axis] % part != 0 || rank > 4) break;
        Dims apart = shape;
        apart[axis] /= part;
        apart.insert(apart.begin() + axis + below(2), part);
        add(Reshape{apart}, {x});
        break;
      }
      case 3: {
        Dims order(shape.size());
        std::iota(order.begin(), order.end(), 0);
        for (int64_t i = rank; i-- > 1;) std::swap(order[i], order[below(i + 1)]);
        add(Permute{order}, {x});
        break;
      }
      case 4: {
        int64_t axis = below(rank);
        if (shape[axis] == 0) break;
        int64_t start = below(shape[axis]);
        add(
            Slice{
                .axis = axis, .start = start, .end = start + 1 + below(shape[axis] - start), .step = choose({1, 1, 2})},
            {x});
        break;
      }
      default: {
        Dims wide = shape;
        for (int64_t& size : wide) size = size == 1 ? choose({1, 2, 3}) : size;
        if (chance(0.3)) wide.insert(wide.begin(), 2);
        add(Expand{wide}, {x});
      }
    }
  }

  void rearrange() {
    Value* x = floating(1);
    int64_t rank = x->type.rank();
    switch (below(3)) {
      case 0: {
        int64_t axis = below(rank);
        std::vector<Value*> parts{x};
        for (int64_t i = below(3); i-- > 0;) {
          Value* y = floating(1);
          parts.insert(chance(0.5) ? parts.begin() : parts.end(), y->type.rank() == rank ? y : x);
        }
        add(Concat{.axis = axis}, parts);
        break;
      }
      case 1: {
        Pad pad{.before = Dims(x->type.shape.size()), .after = Dims(x->type.shape.size())};
        bool even = chance(0.5);
        for (size_t i = even && rank > 2 ? 2 : 0; i < pad.before.size(); ++i) {
          pad.before[i] = choose({0, 1, 2, -1});
          pad.after[i] = even ? pad.before[i] : choose({0, 1});
        }
        if (chance(0.2)) pad.value = 0.5;
        add(pad, {x});
        break;
      }
      default: {
        Dims strides = contiguous_strides(x->type.shape);
        if (rank == 4 && chance(0.7)) strides = channels_last_strides(x->type.shape);
        add(Copy{strides}, {x});
      }
    }
  }

  void reduce() {
    Value* x = floating();
    Reduce op{.kind = choose<std::string>({"sum", "mean", "amax", "amin", "logsumexp", "norm", "var"}),
              .axes = {},
              .keepdim = chance(0.5)};
    bool space = x->type.rank() == 4 && chance(0.5);
    for (int64_t i = 0; i < x->type.rank(); ++i) {
      if (space ? i >= 2 : chance(0.4)) op.axes.push_back(i);
    }
    if (x->type.rank() > 0 && op.axes.empty()) op.axes = {x->type.rank() - 1};
    if (op.kind == "norm") op.parameter = 2;
    add(op, {x});
  }

  void normalise() {
    Value* x = floating(1);
    const Dims& shape = x->type.shape;
    Dims last{shape.back()};
    switch (below(5)) {
      case 0:
        add(Softmax{.axis = below(x->type.rank()), .log = chance(0.3)}, {x});
        break;
      case 1:
        add(LayerNorm{.rank = 1, .eps = 0.1},
            chance(0.7) ? std::vector<Value*>{x, constant(last), constant(last)} : std::vector<Value*>{x});
        break;
      case 2:
        add(RmsNorm{.rank = 1, .eps = 0.1}, {x, constant(last)});
        break;
      case 3: {
        x = image();
        Dims channels{x->type.shape[1]};
        add(GroupNorm{.groups = x->type.shape[1] % 2 == 0 ? 2 : 1, .eps = 0.1},
            {x, constant(channels), constant(channels)});
        break;
      }
      default:
        batch_norm(image());
    }
  }
  Value* batch_norm(Value* x) {
    Dims channels{x->type.shape[1]};
    return add(BatchNorm{.eps = 0.1},
               {x, constant(channels), constant(channels), constant(channels), filled(channels, 0.7)});
  }

  void convolve() {
    Value* x = image();
    int64_t in = x->type.shape[1];
    if (in == 0) return;
    int64_t groups = chance(0.3) ? in : 1;
    int64_t out = groups == 1 ? choose({1, 4, 8, 16, in}) : in * choose({1, 1, 2});
    int64_t kernel = choose({1, 1, 3, 3, 2});
    int64_t pad = kernel == 3 ? below(2) : 0;
    bool transposed = groups == 1 && chance(0.1);
    Conv conv{.stride = Dims(2, choose({1, 1, 2})),
              .padding = Dims(2, pad),
              .dilation = Dims(2, choose({1, 1, 1, 2})),
              .groups = groups,
              .transposed = transposed,
              .output_padding = Dims(2, 0)};
    Dims shape = transposed ? Dims{in, out, kernel, kernel} : Dims{out, in / groups, kernel, kernel};
    Value* weight = constant(shape, 1 / std::sqrt(static_cast<double>(in / groups * kernel * kernel)));
    Value* y = chance(0.5) ? add(conv, {x, weight, constant({out})}) : add(conv, {x, weight});
    if (chance(0.4)) y = batch_norm(y);
    if (chance(0.5)) y = fn(choose<const char*>({"relu", "silu", "hardswish"}), {y});
    if (chance(0.4) && y->type.shape == x->type.shape) fn("add", chance(0.5) ? std::vector{x, y} : std::vector{y, x});
  }

  void pool() {
    Value* x = image();
    int64_t kernel = choose({1, 2, 3});
    Dims padding(2, kernel > 1 ? below(2) : 0);
    Dims stride(2, choose({1, 2}));
    switch (below(4)) {
      case 0:
        add(MaxPool{.kernel = Dims(2, kernel),
                    .stride = stride,
                    .padding = padding,
                    .dilation = {1, 1},
                    .ceil_mode = chance(0.3)},
            {x});
        break;
      case 1:
        add(AvgPool{.kernel = Dims(2, kernel),
                    .stride = stride,
                    .padding = padding,
                    .ceil_mode = chance(0.3),
                    .count_include_pad = chance(0.5)},
            {x});
        break;
      case 2:
        add(AdaptivePool{.kind = chance(0.7) ? "avg" : "max", .output = Dims(2, choose({1, 1, 2, 3}))}, {x});
        break;
      default:
        add(Resize{.mode = chance(0.5) ? "nearest" : "linear",
                   .output = {x->type.shape[2] * 2, x->type.shape[3] + below(3)},
                   .scales = {std::nullopt, std::nullopt}},
            {x});
    }
  }

  Value* linear(Value* x, int64_t out) {
    int64_t in = x->type.shape.back();
    Value* weight = constant({out, in}, 1 / std::sqrt(std::max<double>(1, static_cast<double>(in))));
    return chance(0.6) ? add(Linear{}, {x, weight, constant({out})}) : add(Linear{}, {x, weight});
  }

  void product() {
    Value* x = floating(2);
    if (chance(0.5)) {
      Value* y = linear(x, choose({1, 4, 8, 16, x->type.shape.back()}));
      if (chance(0.3)) y = fn("gelu", {y});
      if (chance(0.3)) fn("add", {y, x});
      return;
    }
    Value* y = chance(0.3) ? constant({x->type.shape.back(), choose({1, 4, 8})}, 0.3) : floating(2);
    if (y->type.shape[y->type.shape.size() - 2] != x->type.shape.back()) y = turned(y);
    add(Matmul{}, {x, y});
  }
  Value* turned(Value* x) {
    Dims order(x->type.shape.size());
    std::iota(order.begin(), order.end(), 0);
    std::swap(order[order.size() - 1], order[order.size() - 2]);
    return add(Permute{order}, {x});
  }

  /// softmax(q k^T * scale + mask) v, with q, k and v from one tensor or from three linears of it.
  void attend() {
    Value* x = floating(2);
    const Dims& shape = x->type.shape;
    if (x->type.rank() > 3) throw Unsupported("too many dimensions");
    int64_t heads = shape.back() % 2 == 0 ? 2 : 1;
    Value* parts[3];
    for (Value*& part : parts) {
      Value* y = chance(0.8) ? linear(x, shape.back()) : x;
      int64_t batch = x->type.rank() == 3 ? shape[0] : 1;
      y = add(Reshape{{batch, shape[shape.size() - 2], heads, shape.back() / heads}}, {y});
      part = add(Permute{{0, 2, 1, 3}}, {y});
    }
    Value* scores = add(Matmul{}, {parts[0], turned(parts[1])});
    if (chance(0.8)) scores = fn("mul", {scores, number(0.5)});
    if (chance(0.4)) scores = fn("add", {scores, constant({scores->type.shape[2], scores->type.shape[3]})});
    Value* y = add(Matmul{}, {add(Softmax{.axis = 3}, {scores}), parts[2]});
    if (chance(0.8))
      add(Reshape{{y->type.shape[0], y->type.shape[2], shape.back()}}, {add(Permute{{0, 2, 1, 3}}, {y})});
  }

  /// x * sigmoid(conv(relu(conv(mean(x))))).
  void gate() {
    Value* x = image();
    int64_t channels = x->type.shape[1];
    if (channels == 0) return;
    Value* mean = add(AdaptivePool{.kind = "avg", .output = {1, 1}}, {x});
    Conv conv{.stride = {1, 1}, .padding = {0, 0}, .dilation = {1, 1}, .groups = 1, .output_padding = {0, 0}};
    Value* narrow = fn("relu", {add(conv, {mean, constant({4, channels, 1, 1}, 0.5), constant({4})})});
    Value* wide = add(conv, {narrow, constant({channels, 4, 1, 1}, 0.5), constant({channels})});
    fn("mul", {x, fn(choose<const char*>({"sigmoid", "hardsigmoid"}), {wide})});
  }

  void take() {
    Value* x = floating(1);
    int64_t axis = below(x->type.rank());
    int64_t size = x->type.shape[axis];
    if (size == 0) return;
    at::Tensor index = empty_tensor(contiguous_type(c10::kLong, {choose({1, 3, 5})}, c10::kCPU));
    for (int64_t i = 0; i < index.numel(); ++i) index.mutable_data_ptr<int64_t>()[i] = below(size);
    add(Take{.axis = axis}, {x, graph_->add(Constant{.value = index, .name = ""}, {})});
  }

  /// A node once more, for what computes nodes in common.
  void repeat() {
    Value* x = any();
    if (!x->producer() || x->producer()->outputs().size() != 1) return;
    add(x->producer()->attrs, {x->producer()->inputs().begin(), x->producer()->inputs().end()});
  }
};

}  // namespace

std::unique_ptr<Graph> random_graph(uint64_t seed) { return Grower(seed).grow(); }

std::unique_ptr<Graph> widened(const Graph& graph) {
  auto wide = std::make_unique<Graph>();
  std::map<const Value*, Value*> twins;
  auto widen = [](c10::ScalarType dtype) { return c10::isFloatingType(dtype) ? c10::kDouble : dtype; };
  for (const auto& input : graph.inputs()) {
    twins[input.get()] = wide->add_input(with_dtype(input->type, widen(input->type.dtype)));
  }
  for (const auto& node : graph.nodes()) {
    Attrs attrs = node->attrs;
    if (auto* cast = node->as<Cast>()) attrs = Cast{widen(cast->dtype)};
    const at::Tensor* value = constant_of(node->output());
    if (value && value->is_floating_point()) attrs = Constant{.value = value->to(c10::kDouble), .name = ""};
    std::vector<Value*> inputs;
    for (const Value* input : node->inputs()) inputs.push_back(twins.at(input));
    twins[node->output()] = wide->add(attrs, inputs);
  }
  for (const Value* output : graph.outputs()) wide->add_output(twins.at(output));
  return wide;
}

}  // namespace torchweld::test
