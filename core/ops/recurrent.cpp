#include "core/ops/recurrent.h"

#include <ATen/ops/gru.h>
#include <ATen/ops/lstm.h>
#include <ATen/ops/rnn_relu.h>
#include <ATen/ops/rnn_tanh.h>

#include "core/error.h"
#include "core/import_args.h"
#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

using Values = std::vector<Value*>;

size_t states_of(const Recurrent& a) { return a.kind == "lstm" ? 2 : 1; }

int64_t directions_of(const Recurrent& a) { return a.bidirectional ? 2 : 1; }

int64_t gates_of(const Recurrent& a) { return a.kind == "lstm" ? 4 : a.kind == "gru" ? 3 : 1; }

/// Weights, and biases, of one layer in one direction.
size_t weights_per_part(const Recurrent& a, Types in) {
  size_t count = in.size() - 1 - states_of(a);
  auto parts = static_cast<size_t>(a.layers * directions_of(a));
  expect(parts > 0 && count % parts == 0, [&] { return a.kind + ": a wrong number of weights"; });
  size_t each = count / parts;
  size_t plain = a.biases ? 4 : 2;
  expect(each == plain || (a.kind == "lstm" && each == plain + 1),
         [&] { return a.kind + ": a wrong number of weights"; });
  return each;
}

void check_weights(const Recurrent& a, Types in) {
  size_t each = weights_per_part(a, in);
  size_t first = 1 + states_of(a);
  bool projected = each % 2 == 1;
  int64_t cell = projected ? in[2].shape[2] : in[1].shape[2];
  int64_t features = in[0].shape[2];
  for (int64_t layer = 0; layer < a.layers; ++layer) {
    for (int64_t direction = 0; direction < directions_of(a); ++direction, first += each) {
      expect(in[first].shape == Dims({gates_of(a) * cell, features}) &&
                 in[first + 1].shape == Dims({gates_of(a) * cell, in[1].shape[2]}),
             [&] { return a.kind + ": weights have wrong sizes"; });
      for (size_t i = 2; a.biases && i < 4; ++i) {
        expect(in[first + i].shape == Dims{gates_of(a) * cell}, [&] { return a.kind + ": biases have wrong sizes"; });
      }
      expect(!projected || in[first + each - 1].shape == Dims({in[1].shape[2], cell}),
             [&] { return a.kind + ": the projection has wrong sizes"; });
    }
    features = in[1].shape[2] * directions_of(a);
  }
}

std::vector<TensorType> infer_recurrent(const Recurrent& a, Types in) {
  expect(a.kind == "lstm" || a.kind == "gru" || a.kind == "rnn_tanh" || a.kind == "rnn_relu",
         [&] { return "there is no recurrent layer called " + a.kind; });
  expect(in.size() > 2 + states_of(a), [&] { return a.kind + ": takes x, states and weights"; });
  for (const TensorType& type : in) {
    expect(type.is_floating() && type.dtype == in[0].dtype,
           [&] { return a.kind + ": operands must have one floating dtype"; });
  }
  const TensorType& x = in[0];
  expect(x.rank() == 3 && x.shape[0] > 0 && x.shape[1] > 0,
         [&] { return a.kind + ": x must have rank 3 and elements"; });
  int64_t batch = x.shape[a.batch_first ? 0 : 1];
  for (size_t i = 1; i <= states_of(a); ++i) {
    expect(in[i].rank() == 3 && in[i].shape[0] == a.layers * directions_of(a) && in[i].shape[1] == batch,
           [&] { return a.kind + ": states must be [layers * directions, N, H]"; });
  }
  check_weights(a, in);
  Dims shape = x.shape;
  shape[2] = directions_of(a) * in[1].shape[2];
  std::vector<TensorType> results{with_shape(x, std::move(shape))};
  for (size_t i = 1; i <= states_of(a); ++i) results.push_back(with_shape(in[i], in[i].shape));
  return results;
}

std::vector<at::Tensor> run_recurrent(const Recurrent& a, Tensors in) {
  at::TensorList states(in.data() + 1, states_of(a));
  at::TensorList weights(in.data() + 1 + states_of(a), in.size() - 1 - states_of(a));
  if (a.kind == "lstm") {
    auto [y, h, c] = at::lstm(in[0], states, weights, a.biases, a.layers, 0.0, false, a.bidirectional, a.batch_first);
    return {y, h, c};
  }
  using Layer = std::tuple<at::Tensor, at::Tensor> (*)(const at::Tensor&, const at::Tensor&, at::TensorList, bool,
                                                       int64_t, double, bool, bool, bool);
  auto run = static_cast<Layer>(at::gru);
  if (a.kind == "rnn_tanh") run = static_cast<Layer>(at::rnn_tanh);
  if (a.kind == "rnn_relu") run = static_cast<Layer>(at::rnn_relu);
  auto [y, h] = run(in[0], in[1], weights, a.biases, a.layers, 0.0, false, a.bidirectional, a.batch_first);
  return {y, h};
}

double recurrent_flops(const Recurrent& a, Types in, Types) {
  double sum = 0;
  double rows = static_cast<double>(in[0].shape[0] * in[0].shape[1]);
  for (size_t i = 1 + states_of(a); i < in.size(); ++i) sum += 2.0 * rows * static_cast<double>(in[i].numel());
  return sum;
}

ImportFn import_layer(const char* kind) {
  return [=](ImportArgs& a) -> Values {
    Recurrent layer{.kind = kind,
                    .layers = a.integer("num_layers"),
                    .biases = a.boolean("has_biases"),
                    .bidirectional = a.boolean("bidirectional"),
                    .batch_first = a.boolean("batch_first")};
    bool drops = a.boolean("train") && a.real("dropout") != 0;
    expect(!drops, "dropout in training mode draws random numbers");
    Values inputs{a.value("input")};
    Values states = layer.kind == "lstm" ? a.values("hx") : Values{a.value("hx")};
    inputs.insert(inputs.end(), states.begin(), states.end());
    for (Value* weight : a.values("params")) inputs.push_back(weight);
    Node* node = a.graph.add_node(layer, inputs);
    Values results;
    for (const auto& output : node->outputs()) results.push_back(output.get());
    return results;
  };
}

// ---- single steps, as their parts, so that they fuse ----

Value* gates(ImportArgs& a, Value* x, const char* weight, const char* bias) {
  Values inputs{x, a.value(weight)};
  if (Value* b = a.optional_value(bias)) inputs.push_back(b);
  return a.emit(Linear{}, inputs);
}

Value* pointwise(ImportArgs& a, const char* fn, const Values& operands) { return a.emit(Pointwise{fn}, operands); }

/// The n-th of `count` equal parts along the last dimension.
Value* part(ImportArgs& a, Value* x, int64_t n, int64_t count) {
  int64_t axis = x->type.rank() - 1;
  int64_t size = x->type.shape.back() / count;
  return a.emit(Slice{.axis = axis, .start = n * size, .end = (n + 1) * size}, {x});
}

Values import_lstm_cell(ImportArgs& a) {
  Values states = a.values("hx");
  expect(states.size() == 2, "lstm_cell: takes two states");
  Value* sum = pointwise(a, "add", {gates(a, a.value("input"), "w_ih", "b_ih"), gates(a, states[0], "w_hh", "b_hh")});
  Value* in = pointwise(a, "sigmoid", {part(a, sum, 0, 4)});
  Value* forget = pointwise(a, "sigmoid", {part(a, sum, 1, 4)});
  Value* candidate = pointwise(a, "tanh", {part(a, sum, 2, 4)});
  Value* out = pointwise(a, "sigmoid", {part(a, sum, 3, 4)});
  Value* cell = pointwise(a, "add", {pointwise(a, "mul", {forget, states[1]}), pointwise(a, "mul", {in, candidate})});
  return {pointwise(a, "mul", {out, pointwise(a, "tanh", {cell})}), cell};
}

Value* import_gru_cell(ImportArgs& a) {
  Value* state = a.value("hx");
  Value* from_x = gates(a, a.value("input"), "w_ih", "b_ih");
  Value* from_state = gates(a, state, "w_hh", "b_hh");
  auto gate = [&](int64_t n) {
    return pointwise(a, "sigmoid", {pointwise(a, "add", {part(a, from_x, n, 3), part(a, from_state, n, 3)})});
  };
  Value* reset = gate(0);
  Value* update = gate(1);
  Value* candidate = pointwise(
      a, "tanh",
      {pointwise(a, "add", {part(a, from_x, 2, 3), pointwise(a, "mul", {reset, part(a, from_state, 2, 3)})})});
  return pointwise(a, "add", {pointwise(a, "mul", {pointwise(a, "sub", {state, candidate}), update}), candidate});
}

ImportFn import_rnn_cell(const char* fn) {
  return [=](ImportArgs& a) -> Values {
    Value* from_x = gates(a, a.value("input"), "w_ih", "b_ih");
    return {pointwise(a, fn, {pointwise(a, "add", {from_x, gates(a, a.value("hx"), "w_hh", "b_hh")})})};
  };
}

}  // namespace

void define_recurrent(OpSet& ops) {
  auto op = ops.add<Recurrent>("recurrent");
  op.infer(infer_recurrent).aten(run_recurrent).flops(recurrent_flops);
  for (const char* kind : {"lstm", "gru", "rnn_tanh", "rnn_relu"}) {
    op.import("aten::" + std::string(kind) + ".input", import_layer(kind));
  }
  op.import("aten::lstm_cell", import_lstm_cell)
      .import("aten::gru_cell", import_gru_cell)
      .import("aten::rnn_tanh_cell", import_rnn_cell("tanh"))
      .import("aten::rnn_relu_cell", import_rnn_cell("relu"));
}

}  // namespace torchweld
