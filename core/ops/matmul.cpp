#include "core/ops/matmul.h"

#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>

#include "core/error.h"
#include "core/import_args.h"
#include "core/ops/pointwise.h"
#include "core/ops/shape.h"
#include "core/ops/shape_emit.h"

namespace torchweld {
namespace {

void check_dtypes(const char* op, Types in) {
  for (const TensorType& type : in) {
    expect(type.dtype == in[0].dtype, [&] { return std::string(op) + ": operands must have one dtype"; });
  }
  expect(!c10::isComplexType(in[0].dtype), [&] { return std::string(op) + ": complex numbers are not supported"; });
  expect(in[0].dtype != c10::kBool, [&] { return std::string(op) + ": bool operands are not supported"; });
  expect(in[0].is_floating() || in[0].device.is_cpu(),
         [&] { return std::string(op) + ": operands must be floating point"; });
}

TensorType infer_matmul(const Matmul&, Types in) {
  expect(in.size() == 2, "matmul: takes two operands");
  check_dtypes("matmul", in);
  const Dims& a = in[0].shape;
  const Dims& b = in[1].shape;
  expect(a.size() >= 2 && b.size() >= 2, "matmul: operands must have rank 2 or more");
  expect(a.back() == b[b.size() - 2],
         [&] { return "matmul: inner sizes of " + to_string(a) + " and " + to_string(b) + " differ"; });
  Dims shape = broadcast_shapes(Dims(a.begin(), a.end() - 2), Dims(b.begin(), b.end() - 2));
  shape.push_back(a[a.size() - 2]);
  shape.push_back(b.back());
  return with_shape(in[0], std::move(shape));
}

TensorType infer_linear(const Linear&, Types in) {
  expect(in.size() == 2 || in.size() == 3, "linear: takes x, weight and optionally bias");
  check_dtypes("linear", in);
  const TensorType& weight = in[1];
  expect(in[0].rank() >= 1 && weight.rank() == 2, "linear: weight must have rank 2");
  expect(in[0].shape.back() == weight.shape[1],
         [&] { return "linear: x " + to_string(in[0].shape) + " does not fit weight " + to_string(weight.shape); });
  expect(in.size() < 3 || in[2].shape == Dims{weight.shape[0]}, "linear: bias must have one number per output feature");
  Dims shape = in[0].shape;
  shape.back() = weight.shape[0];
  return with_shape(in[0], std::move(shape));
}

/// torch.matmul of operands of any rank from 1.
Value* emit_matmul(ImportArgs& a, Value* x, Value* y) {
  expect(x->type.rank() >= 1 && y->type.rank() >= 1, "matmul: operands must have rank 1 or more");
  bool x_is_vector = x->type.rank() == 1;
  bool y_is_vector = y->type.rank() == 1;
  if (x_is_vector) x = reshape(a, x, {1, x->type.shape[0]});
  if (y_is_vector) y = reshape(a, y, {y->type.shape[0], 1});
  Value* product = a.emit(Matmul{}, {x, y});
  Dims shape = product->type.shape;
  if (y_is_vector) shape.pop_back();
  if (x_is_vector) shape.erase(shape.end() - (y_is_vector ? 1 : 2));
  return reshape(a, product, shape);
}

/// A product of operands whose ranks the operator fixes.
ImportFn product(const char* x, const char* y, int64_t x_rank, int64_t y_rank) {
  return [=](ImportArgs& a) -> std::vector<Value*> {
    Value* left = a.value(x);
    Value* right = a.value(y);
    expect(left->type.rank() == x_rank && right->type.rank() == y_rank,
           [&] { return "the operands must have rank " + std::to_string(x_rank) + " and " + std::to_string(y_rank); });
    // Only matmul itself broadcasts.
    expect(x_rank != 3 || left->type.shape[0] == right->type.shape[0], "the operands must have one batch size");
    return {emit_matmul(a, left, right)};
  };
}

/// beta * self + alpha * (x times y); self is not read when beta is 0.
ImportFn product_sum(const char* x, const char* y, int64_t x_rank, int64_t y_rank) {
  return [=](ImportArgs& a) -> std::vector<Value*> {
    Value* left = a.value(x);
    Value* right = a.value(y);
    Value* self = a.value("self");
    expect(left->type.rank() == x_rank && right->type.rank() == y_rank,
           [&] { return "the operands must have rank " + std::to_string(x_rank) + " and " + std::to_string(y_rank); });
    expect(self->type.dtype == left->type.dtype, "the operands must have one dtype");
    double alpha = a.real("alpha");
    double beta = a.real("beta");
    auto* transposed = right->from<Permute>();
    if (alpha == 1 && beta == 1 && transposed && transposed->order == Dims{1, 0} && x_rank == 2 &&
        self->type.shape == Dims{right->type.shape.back()}) {
      return {a.emit(Linear{}, {left, right->producer()->input(0), self})};
    }
    Value* result = emit_matmul(a, left, right);
    if (alpha != 1) result = a.emit(Pointwise{.fn = "mul"}, {result, a.immediate(a.scalar("alpha"))});
    if (beta == 0) return {result};
    Dims shape = result->type.shape;
    expect(broadcast_shapes(shape, self->type.shape) == shape, "self does not broadcast to the product");
    if (beta == 1) return {a.emit(Pointwise{.fn = "add"}, {result, self})};
    return {a.emit(Pointwise{.fn = "add_scaled"}, {result, self, a.immediate(a.scalar("beta"))})};
  };
}

Value* import_linear(ImportArgs& a) {
  Value* x = a.value("input");
  Value* weight = a.value("weight");
  Value* bias = a.optional_value("bias");
  expect(weight->type.rank() == 2, "linear: weight must have rank 2");
  bool is_vector = x->type.rank() == 1;
  if (is_vector) x = reshape(a, x, {1, x->type.shape[0]});
  std::vector<Value*> inputs{x, weight};
  if (bias) inputs.push_back(bias);
  Value* y = a.emit(Linear{}, inputs);
  return is_vector ? reshape(a, y, {y->type.shape[1]}) : y;
}

Value* import_outer(ImportArgs& a) {
  Value* x = a.value("self");
  Value* y = a.value("vec2");
  expect(x->type.rank() == 1 && y->type.rank() == 1, "outer: operands must have rank 1");
  c10::ScalarType dtype = a.promoted({"self", "vec2"});
  return a.emit(Pointwise{.fn = "mul"}, {a.cast(reshape(a, x, {x->type.shape[0], 1}), dtype), a.cast(y, dtype)});
}

}  // namespace

void define_matmul(OpSet& ops) {
  auto matmul = ops.add<Matmul>("matmul");
  define_einsum_import(matmul);
  matmul.infer(infer_matmul)
      .aten([](const Matmul&, Tensors in) { return at::matmul(in[0], in[1]); })
      .flops([](const Matmul&, Types in, Types out) {
        return 2.0 * static_cast<double>(out[0].numel()) * static_cast<double>(in[0].shape.back());
      })
      .import("aten::matmul", [](ImportArgs& a) { return emit_matmul(a, a.value("self"), a.value("other")); })
      .import("aten::mm", product("self", "mat2", 2, 2))
      .import("aten::bmm", product("self", "mat2", 3, 3))
      .import("aten::mv", product("self", "vec", 2, 1))
      .import("aten::dot", product("self", "tensor", 1, 1))
      .import("aten::addmm", product_sum("mat1", "mat2", 2, 2))
      .import("aten::addmv", product_sum("mat", "vec", 2, 1))
      .import("aten::baddbmm", product_sum("batch1", "batch2", 3, 3))
      .import("aten::outer", import_outer)
      .import("aten::ger", import_outer);
  ops.add<Linear>("linear")
      .infer(infer_linear)
      .aten([](const Linear&, Tensors in) {
        return at::linear(in[0], in[1], in.size() > 2 ? std::optional(in[2]) : std::nullopt);
      })
      .flops([](const Linear&, Types in, Types out) {
        return 2.0 * static_cast<double>(out[0].numel()) * static_cast<double>(in[0].shape.back());
      })
      .import("aten::linear", import_linear);
}

}  // namespace torchweld
