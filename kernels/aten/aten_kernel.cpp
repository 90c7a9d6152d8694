#include "kernels/aten/aten_kernel.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "core/error.h"
#include "core/ops/aten.h"

namespace torchweld {
namespace {

/// Operators that copy sizes or data to the host in their CUDA kernels.
bool waits_for_device(const Node& node) {
  static constexpr std::array<std::string_view, 9> names{"aten::nonzero",
                                                         "aten::masked_select",
                                                         "aten::unique",
                                                         "aten::_unique2",
                                                         "aten::item",
                                                         "aten::equal",
                                                         "aten::bincount",
                                                         "aten::repeat_interleave",
                                                         "aten::_local_scalar_dense"};
  auto* op = node.as<Aten>();
  if (!op) return false;
  std::string base = op->op.substr(0, op->op.find('.'));
  return std::find(names.begin(), names.end(), base) != names.end() || base.starts_with("aten::linalg_") ||
         base.starts_with("torchvision::");
}

class AtenKernel : public Kernel {
 public:
  explicit AtenKernel(const Node& node) : attrs_(node.attrs), capturable_(!waits_for_device(node)) {
    for (const auto& value : node.outputs()) types_.push_back(value->type);
  }

  void run(const StepArgs& args) const override {
    PlainAten plain;
    std::vector<at::Tensor> inputs;
    inputs.reserve(args.in.size());
    for (const at::Tensor* tensor : args.in) inputs.push_back(*tensor);
    std::vector<at::Tensor> results = attrs_.def().aten(attrs_.data(), inputs);
    check(results.size() == types_.size(), "number of results of " + attrs_.text());
    for (size_t i = 0; i < results.size(); ++i) *args.out[i] = fit_result(std::move(results[i]), types_[i], inputs);
  }
  bool capturable() const override { return capturable_; }
  bool allocates_outputs() const override { return true; }

 private:
  Attrs attrs_;
  std::vector<TensorType> types_;
  bool capturable_;
};

}  // namespace

at::Tensor fit_result(at::Tensor result, const TensorType& type, Tensors inputs) {
  // Operators leave out results that their arguments do not ask for; nothing reads these.
  if (!result.defined()) return empty_tensor(type);
  check(result.scalar_type() == type.dtype && result.sizes() == at::IntArrayRef(type.shape),
        "a call gave " + to_string(type_of(result)) + " where the plan says " + to_string(type));
  // An input's memory may be given to another value while this result still lives.
  bool shared = std::any_of(inputs.begin(), inputs.end(), [&](const at::Tensor& x) { return result.is_alias_of(x); });
  if (!shared && same_layout(type.shape, result.strides().vec(), type.strides)) return result;
  at::Tensor copy = empty_tensor(type);
  copy.copy_(result);
  return copy;
}

std::unique_ptr<Kernel> make_aten_kernel(const Node& node) { return std::make_unique<AtenKernel>(node); }

void propose_aten(const Node& node, const KernelContext&, Offers& offers) {
  offers.add("", [&node] { return make_aten_kernel(node); });
}

}  // namespace torchweld
