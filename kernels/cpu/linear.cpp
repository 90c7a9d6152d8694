#include "kernels/cpu/linear.h"

#include <limits>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/matmul.h"
#include "kernels/aten/aten_kernel.h"
#include "kernels/cpu/onednn.h"
#include "kernels/cpu/onednn_epilogue.h"

namespace torchweld::cpu {
namespace {

class OnednnLinear : public Kernel {
 public:
  explicit OnednnLinear(const Anchored& parts)
      : type_(parts.node->output()->type), epilogue_(parts.epilogue), input_(parts.inputs[0]) {
    PlainAten plain;
    at::Tensor weight = constant_of(parts.input(1))->contiguous();
    int64_t rows = parts.input(0)->type.numel() / weight.size(1);
    static const auto reorder =
        onednn_op<at::Tensor(const at::Tensor&, std::optional<int64_t>)>("mkldnn::_reorder_linear_weight", "");
    weight_ = reorder.call(weight, rows);
    if (epilogue_.other != parts.inputs[1]) packed_.push_back(parts.inputs[1]);
    if (parts.inputs.size() < 3) return;
    bias_ = constant_of(parts.input(2))->contiguous();
    if (epilogue_.other != parts.inputs[2]) packed_.push_back(parts.inputs[2]);
  }

  void run(const StepArgs& args) const override {
    PlainAten plain;
    at::Tensor x = args.in[input_]->contiguous();
    *args.out[0] = fit_result(epilogue_.other ? add(x, args.in[*epilogue_.other]->contiguous()) : plain_product(x),
                              type_, Tensors(&x, 1));
  }
  bool allocates_outputs() const override { return true; }
  std::vector<size_t> packed_inputs() const override { return packed_; }

 private:
  at::Tensor plain_product(const at::Tensor& x) const {
    static const auto linear =
        onednn_op<at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, c10::string_view,
                             c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>)>(
            "mkldnn::_linear_pointwise", "");
    return linear.call(x, weight_, bias_, epilogue_.unary, scalar_list(epilogue_.scalars), epilogue_.algorithm);
  }

  at::Tensor add(const at::Tensor& x, const at::Tensor& other) const {
    static const auto linear =
        onednn_op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                             c10::string_view)>("mkldnn::_linear_pointwise", "binary");
    return linear.call(x, other, weight_, bias_, "add");
  }

  TensorType type_;
  Epilogue epilogue_;
  size_t input_;
  at::Tensor weight_;
  std::optional<at::Tensor> bias_;
  std::vector<size_t> packed_;
};

}  // namespace

void propose_linear(const Node& node, const KernelContext&, Offers& offers) {
  Anchored parts = anchored<Linear>(node);
  const TensorType& x = parts.input(0)->type;
  expect(onednn_takes(x.dtype), "oneDNN does not compute in " + dtype_name(x.dtype) + " on this processor");
  expect(x.numel() > 0 && node.output()->type.numel() > 0, "empty tensors");
  expect(x.rank() >= 2, "x has less than two dimensions");
  expect(x.numel() / x.shape.back() <= std::numeric_limits<int32_t>::max(), "more rows than oneDNN takes");
  for (size_t i = 1; i < parts.inputs.size(); ++i) {
    expect(parts.input(i)->from<Constant>() != nullptr, "weight or bias is not constant");
    expect(parts.input(i)->type.dtype == x.dtype, "operands of several dtypes");
  }
  expect(!parts.epilogue.other || parts.epilogue.unary == "none",
         "oneDNN takes nothing behind an addition to a product");
  offers.add("", [parts] { return std::make_unique<OnednnLinear>(parts); });
}

}  // namespace torchweld::cpu
