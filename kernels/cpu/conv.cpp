#include "kernels/cpu/conv.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "kernels/aten/aten_kernel.h"
#include "kernels/cpu/onednn.h"
#include "kernels/cpu/onednn_epilogue.h"
#include "kernels/cpu/own_conv.h"

namespace torchweld::cpu {
namespace {

/// Products from which on sums one after another are too far from exact.
constexpr int64_t kLongSum = 512;

class OnednnConv : public Kernel {
 public:
  explicit OnednnConv(const Anchored& parts)
      : type_(parts.node->output()->type),
        op_(*parts.anchor->as<Conv>()),
        epilogue_(parts.epilogue),
        input_(parts.inputs[0]) {
    PlainAten plain;
    at::Tensor weight = *constant_of(parts.input(1));
    weight_ = pack(weight, parts.input(0)->type.shape);
    packed_.push_back(parts.inputs[1]);
    if (parts.inputs.size() < 3) return;
    bias_ = constant_of(parts.input(2))->contiguous();
    packed_.push_back(parts.inputs[2]);
  }

  void run(const StepArgs& args) const override {
    PlainAten plain;
    const at::Tensor& x = *args.in[input_];
    if (epilogue_.other) {
      // In place oneDNN adds while it writes; its other form reads the operand in a pass of its own.
      at::Tensor& out = *args.out[0];
      out.copy_(*args.in[*epilogue_.other]);
      std::optional<c10::string_view> unary;
      if (epilogue_.unary != "none") unary = epilogue_.unary;
      static const auto add = onednn_op<at::Tensor&(
          at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, at::IntArrayRef,
          at::IntArrayRef, at::IntArrayRef, int64_t, c10::string_view, std::optional<at::Scalar>,
          std::optional<c10::string_view>, c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>)>(
          "mkldnn::_convolution_pointwise_", "binary");
      add.call(out, x, weight_, bias_, op_.padding, op_.stride, op_.dilation, op_.groups, "add", 1.0, unary,
               scalar_list({}), "");
      return;
    }
    *args.out[0] = fit_result(op_.transposed ? transposed(x) : plain_conv(x), type_, Tensors(&x, 1));
  }
  bool allocates_outputs() const override { return !epilogue_.other; }
  std::vector<size_t> packed_inputs() const override { return packed_; }

 private:
  at::Tensor pack(const at::Tensor& weight, const Dims& x_shape) const {
    if (op_.transposed) {
      static const auto reorder =
          onednn_op<at::Tensor(const at::Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef,
                               int64_t, at::OptionalIntArrayRef)>("mkldnn::_reorder_convolution_transpose_weight", "");
      return reorder.call(weight, op_.padding, op_.output_padding, op_.stride, op_.dilation, op_.groups,
                          at::IntArrayRef(x_shape));
    }
    static const auto reorder =
        onednn_op<at::Tensor(const at::Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t,
                             at::OptionalIntArrayRef)>("mkldnn::_reorder_convolution_weight", "");
    return reorder.call(weight, op_.padding, op_.stride, op_.dilation, op_.groups, at::IntArrayRef(x_shape));
  }

  at::Tensor plain_conv(const at::Tensor& x) const {
    static const auto conv =
        onednn_op<at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, at::IntArrayRef,
                             at::IntArrayRef, at::IntArrayRef, int64_t, c10::string_view,
                             c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>)>(
            "mkldnn::_convolution_pointwise", "");
    return conv.call(x, weight_, bias_, op_.padding, op_.stride, op_.dilation, op_.groups, epilogue_.unary,
                     scalar_list(epilogue_.scalars), epilogue_.algorithm);
  }

  at::Tensor transposed(const at::Tensor& x) const {
    static const auto conv =
        onednn_op<at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, at::IntArrayRef,
                             at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t, c10::string_view,
                             c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>)>(
            "mkldnn::_convolution_transpose_pointwise", "");
    return conv.call(x, weight_, bias_, op_.padding, op_.output_padding, op_.stride, op_.dilation, op_.groups,
                     epilogue_.unary, scalar_list(epilogue_.scalars), epilogue_.algorithm);
  }

  TensorType type_;
  Conv op_;
  Epilogue epilogue_;
  size_t input_;
  at::Tensor weight_;
  std::optional<at::Tensor> bias_;
  std::vector<size_t> packed_;
};

}  // namespace

void propose_conv(const Node& node, const KernelContext&, Offers& offers) {
  Anchored parts = anchored<Conv>(node);
  const Conv& op = *parts.anchor->as<Conv>();
  const TensorType& x = parts.input(0)->type;
  expect(x.rank() == 4 || x.rank() == 5, "oneDNN packs weights of 2-D and 3-D convolutions");
  expect(!op.transposed || x.rank() == 4, "oneDNN packs weights of 2-D transposed convolutions");
  expect(onednn_takes(x.dtype), "oneDNN does not compute in " + dtype_name(x.dtype) + " on this processor");
  expect(x.numel() > 0 && node.output()->type.numel() > 0, "empty tensors");
  for (size_t i = 1; i < parts.inputs.size(); ++i) {
    expect(parts.input(i)->from<Constant>() != nullptr, "weight or bias is not constant");
    expect(parts.input(i)->type.dtype == x.dtype, "operands of several dtypes");
  }
  const Dims& weight = parts.input(1)->type.shape;
  bool pointwise = !op.transposed && std::all_of(weight.begin() + 2, weight.end(), [](int64_t k) { return k == 1; });
  expect(!pointwise || weight[1] < kLongSum || !own_conv_takes(node), "sums of the own kernel are more exact");
  bool in_place = parts.epilogue.other.has_value();
  expect(!in_place || !op.transposed, "oneDNN adds nothing to transposed convolutions");
  const TensorType& y = node.output()->type;
  expect(!in_place || (is_channels_last(y) && is_channels_last(x)), "the sum is not channels-last");
  offers.add("", [parts] { return std::make_unique<OnednnConv>(parts); });
}

}  // namespace torchweld::cpu
