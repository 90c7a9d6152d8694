#include "kernels/cpu/rows.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/norm.h"
#include "core/ops/softmax.h"
#include "kernels/cpu/isa.h"

namespace torchweld::cpu {
namespace {

constexpr int64_t kShortestRow = 16;
constexpr int64_t kElementsPerThread = 8192;  ///< Below this another thread costs more than it brings.

/// Rows that lie one after another.
struct Rows {
  int64_t count = 0;
  int64_t length = 0;
  c10::ScalarType dtype = c10::kFloat;

  template <class F>
  void for_each(const StepArgs& args, F f) const {
    auto* x = static_cast<const char*>(args.in[0]->const_data_ptr());
    auto* y = static_cast<char*>(args.out[0]->mutable_data_ptr());
    int64_t bytes = length * static_cast<int64_t>(c10::elementSize(dtype));
    int64_t grain = std::max<int64_t>(1, kElementsPerThread / length);
    at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(c10::elementSize(dtype) == 2 ? length : 0);
      for (int64_t i = begin; i < end; ++i) f(x + i * bytes, y + i * bytes, scratch.data());
    });
  }
};

/// The rows of `length` elements that x consists of; x may be laid out in any dense order as long as the rows are
/// innermost.
Rows rows_of(const Node& node, int64_t length) {
  const TensorType& x = node.input(0)->type;
  expect(x.numel() > 0, "empty tensors");
  expect(is_dense(x), "x has gaps");
  expect(same_layout(x.shape, x.strides, node.output()->type.strides), "x and result are laid out differently");
  return {x.numel() / length, length, x.dtype};
}

class SoftmaxKernel : public Kernel {
 public:
  SoftmaxKernel(Rows rows, bool log) : rows_(rows), function_(isa_table().rows.softmax(log, rows.dtype)) {
    expect(function_ != nullptr, "softmax of " + dtype_name(rows.dtype));
  }
  void run(const StepArgs& args) const override {
    rows_.for_each(args, [&](const void* x, void* y, void* scratch) {
      function_(x, rows_.length, c10::elementSize(rows_.dtype) == 2 ? scratch : y, y);
    });
  }

 private:
  Rows rows_;
  SoftmaxRow function_;
};

/// Layer norm and RMS norm.
class NormKernel : public Kernel {
 public:
  NormKernel(const Node& node, Rows rows) : rows_(rows) {
    auto* rms = node.as<RmsNorm>();
    eps_ = rms ? rms->eps_for(rows.dtype) : node.as<LayerNorm>()->eps;
    function_ = isa_table().rows.norm(rms == nullptr, rows.dtype);
    expect(function_ != nullptr, node.op() + " of " + dtype_name(rows.dtype));
    for (size_t i = 1; i < node.inputs().size(); ++i) {
      const at::Tensor* weight = constant_of(node.input(i));
      expect(weight != nullptr, "weight or bias is not constant");
      packed_.push_back(i);
      weights_.push_back(weight->to(block_dtype(rows.dtype)).contiguous());
    }
  }
  void run(const StepArgs& args) const override {
    const void* weight = weights_.empty() ? nullptr : weights_[0].const_data_ptr();
    const void* bias = weights_.size() < 2 ? nullptr : weights_[1].const_data_ptr();
    rows_.for_each(args, [&](const void* x, void* y, void*) { function_(x, rows_.length, eps_, weight, bias, y); });
  }
  std::vector<size_t> packed_inputs() const override { return packed_; }

 private:
  Rows rows_;
  double eps_;
  NormRow function_;
  std::vector<at::Tensor> weights_;
  std::vector<size_t> packed_;
};

}  // namespace

void propose_rows(const Node& node, const KernelContext&, Offers& offers) {
  if (auto* op = node.as<Softmax>()) {
    const TensorType& x = node.input(0)->type;
    expect(x.rank() == 0 || x.shape[op->axis] == 1 || x.strides[op->axis] == 1, "the axis is not innermost");
    expect(x.rank() > 0 && x.shape[op->axis] >= kShortestRow, "rows too short for vectors");
    Rows rows = rows_of(node, x.shape[op->axis]);
    SoftmaxKernel(rows, op->log);  // throws what it cannot do
    offers.add("", [rows, log = op->log] { return std::make_unique<SoftmaxKernel>(rows, log); });
    return;
  }
  auto* layer = node.as<LayerNorm>();
  auto* rms = node.as<RmsNorm>();
  expect(layer || rms, "neither softmax nor a norm");
  int64_t rank = layer ? layer->rank : rms->rank;
  const TensorType& x = node.input(0)->type;
  expect(is_contiguous(x), "x is not row-major");
  expect(x.numel() > 0, "empty tensors");
  int64_t length = 1;
  for (int64_t d = x.rank() - rank; d < x.rank(); ++d) length *= x.shape[d];
  Rows rows = rows_of(node, length);
  NormKernel(node, rows);  // throws what it cannot do
  offers.add("", [&node, rows] { return std::make_unique<NormKernel>(node, rows); });
}

}  // namespace torchweld::cpu
