#include "kernels/cpu/reduce.h"

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "core/ops/pool.h"
#include "core/ops/reduce.h"
#include "kernels/cpu/isa.h"

namespace torchweld::cpu {
namespace {

constexpr int64_t kColumns = 128;              ///< Neighbouring results computed together.
constexpr int64_t kElementsPerThread = 32768;  ///< Below this another thread costs more than it brings.
constexpr int64_t kPiece = 65536;              ///< Of a long row that threads share.

/// Either of the two ops in one form.
struct Reduction {
  std::string kind;
  Dims axes;
  double parameter = 0;
};

std::optional<Reduction> reduction_of(const Node& node) {
  if (auto* op = node.as<Reduce>()) return Reduction{op->kind, op->axes, op->parameter};
  auto* pool = node.as<AdaptivePool>();
  if (!pool || node.outputs().size() != 1) return std::nullopt;
  if (std::any_of(pool->output.begin(), pool->output.end(), [](int64_t size) { return size != 1; }))
    return std::nullopt;
  Dims axes(pool->output.size());
  std::iota(axes.begin(), axes.end(), 2);
  return Reduction{pool->kind == "max" ? "amax" : "mean", axes, 0};
}

/// Nested loops over some dimensions, the longest stride outermost, neighbours merged.
struct LoopNest {
  Dims sizes;
  Dims strides;      ///< Of x.
  Dims out_strides;  ///< Of the result; 0 for reduced dimensions.

  void sort_and_merge() {
    std::vector<size_t> order(sizes.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return strides[a] > strides[b]; });
    LoopNest merged;
    for (size_t d : order) {
      bool merges = !merged.sizes.empty() && merged.strides.back() == strides[d] * sizes[d] &&
                    merged.out_strides.back() == out_strides[d] * sizes[d];
      if (!merges) {
        merged.sizes.push_back(1);
        merged.strides.push_back(0);
        merged.out_strides.push_back(0);
      }
      merged.sizes.back() *= sizes[d];
      merged.strides.back() = strides[d];
      merged.out_strides.back() = out_strides[d];
    }
    *this = std::move(merged);
  }

  int64_t count() const { return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>()); }

  /// Offset of position `i` under `steps`.
  int64_t offset(int64_t i, const Dims& steps) const {
    int64_t result = 0;
    for (size_t d = sizes.size(); d-- > 0;) {
      result += i % sizes[d] * steps[d];
      i /= sizes[d];
    }
    return result;
  }
};

/// Which elements a result is made of. The innermost dimension is either the reduced `run`, or `columns` of results,
/// each made of `rows` with a stride.
struct Elements {
  LoopNest kept;     ///< Without the columns.
  LoopNest reduced;  ///< Without the run or the rows.
  bool is_row = true;
  int64_t run = 1;
  int64_t columns = 1;
  int64_t column_out_stride = 0;
  int64_t rows = 1;
  int64_t row_stride = 0;
  int64_t count = 1;  ///< Elements of one result.
};

Elements elements_of(const TensorType& x, const TensorType& out, const Dims& axes) {
  Elements e;
  size_t next = 0;
  for (int64_t d = 0; d < x.rank(); ++d) {
    bool reduced = std::binary_search(axes.begin(), axes.end(), d);
    // The result has the dimension with keepdim, else the next one of those kept.
    int64_t out_stride = out.rank() == x.rank() ? out.strides[d] : (reduced ? 0 : out.strides[next]);
    next += reduced ? 0 : 1;
    if (reduced) e.count *= x.shape[d];
    if (x.shape[d] == 1) continue;
    LoopNest& nest = reduced ? e.reduced : e.kept;
    nest.sizes.push_back(x.shape[d]);
    nest.strides.push_back(x.strides[d]);
    nest.out_strides.push_back(reduced ? 0 : out_stride);
  }
  e.kept.sort_and_merge();
  e.reduced.sort_and_merge();
  auto take_last = [](LoopNest& nest) {
    nest.sizes.pop_back();
    nest.strides.pop_back();
    nest.out_strides.pop_back();
  };
  bool has_run = !e.reduced.sizes.empty() && e.reduced.strides.back() == 1;
  bool has_columns = !e.kept.sizes.empty() && e.kept.strides.back() == 1;
  bool is_single = e.reduced.sizes.empty() && e.kept.sizes.empty();
  expect(has_run || has_columns || is_single, "the innermost dimension has gaps");
  e.is_row = has_run || is_single;
  if (has_run) {
    e.run = e.reduced.sizes.back();
    take_last(e.reduced);
  }
  if (e.is_row) return e;
  e.columns = e.kept.sizes.back();
  e.column_out_stride = e.kept.out_strides.back();
  take_last(e.kept);
  if (e.reduced.sizes.empty()) return e;
  e.rows = e.reduced.sizes.back();
  e.row_stride = e.reduced.strides.back();
  take_last(e.reduced);
  return e;
}

void store_number(void* out, int64_t i, double number, c10::ScalarType dtype) {
  switch (dtype) {
    case c10::kFloat:
      static_cast<float*>(out)[i] = static_cast<float>(number);
      return;
    case c10::kDouble:
      static_cast<double*>(out)[i] = number;
      return;
    case c10::kHalf:
      static_cast<c10::Half*>(out)[i] = static_cast<float>(number);
      return;
    case c10::kBFloat16:
      static_cast<c10::BFloat16*>(out)[i] = static_cast<float>(number);
      return;
    default:
      static_cast<bool*>(out)[i] = number > 0;
  }
}

class ReduceKernel : public Kernel {
 public:
  ReduceKernel(const Reduction& op, const TensorType& x, const TensorType& out)
      : op_(op), e_(elements_of(x, out, op.axes)), in_dtype_(x.dtype), out_dtype_(out.dtype) {
    if (op.kind == "argmax" || op.kind == "argmin") {
      row_search_ = isa_table().reduce.row_search(op.kind == "argmax", x.dtype);
      column_search_ = isa_table().reduce.column_search(op.kind == "argmax", x.dtype);
      expect(row_search_ != nullptr, "no search among " + dtype_name(x.dtype));
      return;
    }
    static const std::map<std::string, std::vector<Accumulation>> passes{
        {"sum", {Accumulation::kSum}},
        {"mean", {Accumulation::kSum}},
        {"prod", {Accumulation::kProduct}},
        {"amax", {Accumulation::kMax}},
        {"amin", {Accumulation::kMin}},
        {"any", {Accumulation::kMax}},
        {"all", {Accumulation::kMin}},
        {"var", {Accumulation::kSum, Accumulation::kSumOfSquares}},
        {"std", {Accumulation::kSum, Accumulation::kSumOfSquares}},
        {"logsumexp", {Accumulation::kMax, Accumulation::kSumOfExponentials}},
        {"norm 1", {Accumulation::kSumOfMagnitudes}},
        {"norm 2", {Accumulation::kSumOfSquares}}};
    expect(op.kind != "norm" || op.parameter == 1 || op.parameter == 2, "only norms of order 1 and 2");
    expect((op.kind == "any" || op.kind == "all") == (x.dtype == c10::kBool), op.kind + " of " + dtype_name(x.dtype));
    std::string order = op.kind == "norm" ? (op.parameter == 1 ? " 1" : " 2") : "";
    for (Accumulation a : passes.at(op.kind + order)) {
      passes_.push_back({a, isa_table().reduce.row(a, x.dtype), isa_table().reduce.columns(a, x.dtype)});
      expect(passes_.back().row != nullptr, op.kind + " of " + dtype_name(x.dtype));
    }
  }

  void run(const StepArgs& args) const override {
    auto* x = static_cast<const char*>(args.in[0]->const_data_ptr());
    auto* out = static_cast<char*>(args.out[0]->mutable_data_ptr());
    auto size = static_cast<int64_t>(c10::elementSize(in_dtype_));
    int64_t groups = (e_.columns + kColumns - 1) / kColumns;
    int64_t work = std::max<int64_t>(1, e_.count * std::min(e_.columns, kColumns));
    int64_t grain = std::max<int64_t>(1, kElementsPerThread / work);
    at::parallel_for(0, e_.kept.count() * groups, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        int64_t column = i % groups * kColumns;
        int64_t width = std::min(kColumns, e_.columns - column);
        int64_t at = e_.kept.offset(i / groups, e_.kept.strides) + column;
        int64_t out_at = e_.kept.offset(i / groups, e_.kept.out_strides) + column * e_.column_out_stride;
        if (row_search_) {
          search(x + at * size, width, reinterpret_cast<int64_t*>(out) + out_at);
        } else {
          reduce(x + at * size, width, out, out_at);
        }
      }
    });
  }

 private:
  struct Pass {
    Accumulation accumulation;
    RowReduction row;
    ColumnReduction columns;
  };

  void search(const char* x, int64_t width, int64_t* out) const {
    if (e_.is_row) {
      *out = row_search_(x, e_.run);
      return;
    }
    int64_t found[kColumns];
    column_search_(x, e_.rows, e_.row_stride, width, found);
    for (int64_t j = 0; j < width; ++j) out[j * e_.column_out_stride] = found[j];
  }

  void reduce(const char* x, int64_t width, void* out, int64_t out_at) const {
    double totals[kColumns];
    double shifts[kColumns] = {};
    auto count = static_cast<double>(e_.count);
    accumulate(passes_[0], x, width, shifts, totals);
    if (passes_.size() == 2) {
      for (int64_t j = 0; j < width; ++j) {
        bool exponentials = op_.kind == "logsumexp";
        shifts[j] = exponentials ? (std::isinf(totals[j]) ? 0 : totals[j]) : totals[j] / count;
      }
      accumulate(passes_[1], x, width, shifts, totals);
    }
    for (int64_t j = 0; j < width; ++j)
      store_number(out, out_at + j * e_.column_out_stride, finish(totals[j], shifts[j]), out_dtype_);
  }

  double finish(double total, double shift) const {
    auto count = static_cast<double>(e_.count);
    if (op_.kind == "mean") return total / count;
    if (op_.kind == "var") return total / std::max(0.0, count - op_.parameter);
    if (op_.kind == "std") return std::sqrt(total / std::max(0.0, count - op_.parameter));
    if (op_.kind == "logsumexp") return std::log(total) + shift;
    return op_.kind == "norm" && op_.parameter == 2 ? std::sqrt(total) : total;
  }

  void accumulate(const Pass& pass, const char* x, int64_t width, const double* shifts, double* totals) const {
    std::fill_n(totals, width, initial_total(pass.accumulation));
    if (e_.count == 0) return;
    auto size = static_cast<int64_t>(c10::elementSize(in_dtype_));
    int64_t outer = e_.reduced.count();
    for (int64_t i = 0; i < outer; ++i) {
      const char* at = x + e_.reduced.offset(i, e_.reduced.strides) * size;
      if (e_.is_row) {
        totals[0] = reduce_row(pass, at, shifts[0], totals[0]);
      } else {
        pass.columns(at, e_.rows, e_.row_stride, width, shifts, totals);
      }
    }
  }

  /// Long rows are shared by the threads, in pieces that do not depend on how many there are.
  double reduce_row(const Pass& pass, const char* x, double shift, double total) const {
    if (e_.run < 2 * kPiece) return pass.row(x, e_.run, shift, total);
    int64_t pieces = (e_.run + kPiece - 1) / kPiece;
    std::vector<double> parts(pieces, initial_total(pass.accumulation));
    auto size = static_cast<int64_t>(c10::elementSize(in_dtype_));
    at::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        int64_t n = std::min(kPiece, e_.run - i * kPiece);
        parts[i] = pass.row(x + i * kPiece * size, n, shift, parts[i]);
      }
    });
    for (double part : parts) total = joined_totals(pass.accumulation, total, part);
    return total;
  }

  Reduction op_;
  Elements e_;
  c10::ScalarType in_dtype_;
  c10::ScalarType out_dtype_;
  std::vector<Pass> passes_;
  RowSearch row_search_ = nullptr;
  ColumnSearch column_search_ = nullptr;
};

}  // namespace

double initial_total(Accumulation accumulation) {
  if (accumulation == Accumulation::kMax) return -std::numeric_limits<double>::infinity();
  if (accumulation == Accumulation::kMin) return std::numeric_limits<double>::infinity();
  return accumulation == Accumulation::kProduct ? 1 : 0;
}

double joined_totals(Accumulation accumulation, double a, double b) {
  if (accumulation == Accumulation::kMax) return a > b || a != a ? a : b;
  if (accumulation == Accumulation::kMin) return a < b || a != a ? a : b;
  return accumulation == Accumulation::kProduct ? a * b : a + b;
}

void propose_reduce(const Node& node, const KernelContext&, Offers& offers) {
  std::optional<Reduction> op = reduction_of(node);
  expect(op.has_value(), "not a reduction");
  const TensorType& x = node.input(0)->type;
  const TensorType& out = node.output()->type;
  expect(out.numel() > 0, "no results");
  bool searches = op->kind == "argmax" || op->kind == "argmin";
  expect(!searches || x.numel() > 0, "reduces over no elements");
  expect(out.dtype == (searches ? c10::kLong : x.dtype), "results of another dtype");
  ReduceKernel(*op, x, out);  // throws what it cannot do
  offers.add("", [op = *op, x, out] { return std::make_unique<ReduceKernel>(op, x, out); });
}

}  // namespace torchweld::cpu
