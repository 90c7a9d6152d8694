#include <algorithm>

#include "core/error.h"
#include "core/import_args.h"
#include "core/ops/matmul.h"
#include "core/ops/reduce.h"
#include "core/ops/shape.h"
#include "core/ops/shape_emit.h"

namespace torchweld {
namespace {

using Letters = std::string;

bool has(const Letters& letters, char c) { return letters.find(c) != Letters::npos; }

/// An equation taken apart: "bij,bjk->bik" without spaces.
struct Equation {
  std::vector<Letters> operands;
  Letters result;
};

Equation parse_equation(std::string text) {
  std::erase(text, ' ');
  Equation equation;
  size_t arrow = text.find("->");
  Letters left = text.substr(0, arrow);
  for (size_t start = 0; start <= left.size();) {
    size_t comma = std::min(left.find(',', start), left.size());
    equation.operands.push_back(left.substr(start, comma - start));
    start = comma + 1;
  }
  for (const Letters& letters : equation.operands) {
    for (size_t i = 0; i < letters.size(); ++i) {
      expect(std::isalpha(static_cast<unsigned char>(letters[i])), "einsum: an ellipsis");
      expect(letters.find(letters[i], i + 1) == Letters::npos, "einsum: a letter twice in one operand");
    }
  }
  if (arrow != std::string::npos) {
    equation.result = text.substr(arrow + 2);
    return equation;
  }
  // Without an arrow the result has the letters that occur once, in the order of the alphabet.
  for (char c : left) {
    if (c != ',' && std::count(left.begin(), left.end(), c) == 1) equation.result += c;
  }
  std::sort(equation.result.begin(), equation.result.end());
  return equation;
}

/// `x`, whose dimensions are called `from`, with its dimensions in the order of `to`.
Value* reorder(ImportArgs& a, Value* x, const Letters& from, const Letters& to) {
  Dims order;
  for (char c : to) order.push_back(static_cast<int64_t>(from.find(c)));
  return permute(a, x, order);
}

/// Sums over the letters that are not in `kept`.
Value* sum_others(ImportArgs& a, Value* x, Letters& letters, const Letters& kept) {
  Dims axes;
  Letters rest;
  for (size_t i = 0; i < letters.size(); ++i) {
    if (has(kept, letters[i])) {
      rest += letters[i];
    } else {
      axes.push_back(static_cast<int64_t>(i));
    }
  }
  letters = rest;
  return axes.empty() ? x : a.emit(Reduce{.kind = "sum", .axes = axes, .keepdim = false}, {x});
}

/// Sizes of the dimensions called `letters`.
Dims sizes_of(const Value* x, const Letters& names, const Letters& letters) {
  Dims sizes;
  for (char c : letters) sizes.push_back(x->type.shape[names.find(c)]);
  return sizes;
}

int64_t product_of(const Dims& sizes) {
  int64_t product = 1;
  for (int64_t size : sizes) product *= size;
  return product;
}

Dims joined(Dims a, std::initializer_list<int64_t> b) {
  a.insert(a.end(), b);
  return a;
}

/// Two operands as a product of matrices: letters of both and the result are batches, of both alone are summed.
Value* multiply(ImportArgs& a, Value* x, Value* y, const Letters& x_letters, const Letters& y_letters,
                const Letters& result) {
  Letters batch;
  Letters summed;
  Letters left;
  Letters right;
  for (char c : x_letters) (!has(y_letters, c) ? left : has(result, c) ? batch : summed) += c;
  for (char c : y_letters) {
    if (!has(x_letters, c)) right += c;
  }
  Dims shared = sizes_of(x, x_letters, batch + summed);
  expect(shared == sizes_of(y, y_letters, batch + summed), "einsum: sizes of one letter differ");
  Dims batches = sizes_of(x, x_letters, batch);
  Dims rows = sizes_of(x, x_letters, left);
  Dims columns = sizes_of(y, y_letters, right);
  int64_t inner = product_of(sizes_of(x, x_letters, summed));
  x = reshape(a, reorder(a, x, x_letters, batch + left + summed), joined(batches, {product_of(rows), inner}));
  y = reshape(a, reorder(a, y, y_letters, batch + summed + right), joined(batches, {inner, product_of(columns)}));
  Dims shape = batches;
  shape.insert(shape.end(), rows.begin(), rows.end());
  shape.insert(shape.end(), columns.begin(), columns.end());
  return reorder(a, reshape(a, a.emit(Matmul{}, {x, y}), shape), batch + left + right, result);
}

Value* import_einsum(ImportArgs& a) {
  Equation equation = parse_equation(a.string("equation"));
  std::vector<Value*> x = a.values("tensors");
  expect(x.size() == equation.operands.size() && x.size() <= 2, "einsum: more than two operands");
  for (size_t i = 0; i < x.size(); ++i) {
    expect(x[i]->type.rank() == static_cast<int64_t>(equation.operands[i].size()), "einsum: a wrong number of letters");
    expect(x[i]->type.is_floating() && x[i]->type.dtype == x[0]->type.dtype, "einsum: operands must be floating point");
    Letters kept = equation.result + (x.size() == 2 ? equation.operands[1 - i] : "");
    x[i] = sum_others(a, x[i], equation.operands[i], kept);
  }
  for (char c : equation.result) {
    bool known = std::any_of(equation.operands.begin(), equation.operands.end(), [&](auto& o) { return has(o, c); });
    expect(known && std::count(equation.result.begin(), equation.result.end(), c) == 1,
           "einsum: a wrong letter in the result");
  }
  if (x.size() == 1) return reorder(a, x[0], equation.operands[0], equation.result);
  return multiply(a, x[0], x[1], equation.operands[0], equation.operands[1], equation.result);
}

}  // namespace

void define_einsum_import(OpSet::Builder<Matmul>& op) { op.import("aten::einsum", import_einsum); }

}  // namespace torchweld
