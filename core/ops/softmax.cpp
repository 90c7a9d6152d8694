#include "core/ops/softmax.h"

#include <ATen/ops/log_softmax.h>
#include <ATen/ops/softmax.h>

#include "core/error.h"
#include "core/import_args.h"
#include "core/ops/pointwise.h"

namespace torchweld {
namespace {

TensorType infer_softmax(const Softmax& a, Types in) {
  expect(in.size() == 1, "softmax: takes one operand");
  expect(in[0].is_floating(), "softmax: input must be floating point");
  expect(a.axis >= 0 && a.axis < std::max<int64_t>(in[0].rank(), 1), "softmax: axis out of range");
  return with_shape(in[0], in[0].shape);
}

ImportFn import_softmax(bool log) {
  return [=](ImportArgs& a) -> std::vector<Value*> {
    Value* x = a.value("self");
    if (auto dtype = a.dtype("dtype")) x = a.cast(x, *dtype);
    if (a.has("half_to_float") && a.boolean("half_to_float")) x = a.cast(x, c10::kFloat);
    return {a.emit(Softmax{.axis = a.axis("dim", x), .log = log}, {x})};
  };
}

}  // namespace

void define_softmax(OpSet& ops) {
  ops.add<Softmax>("softmax")
      .infer(infer_softmax)
      .aten([](const Softmax& a, Tensors in) {
        return a.log ? at::log_softmax(in[0], a.axis) : at::softmax(in[0], a.axis);
      })
      .flops([](const Softmax&, Types in, Types) { return 5.0 * static_cast<double>(in[0].numel()); })
      .import("aten::softmax.int", import_softmax(false))
      .import("aten::special_softmax", import_softmax(false))
      .import("aten::_softmax", import_softmax(false))
      .import("aten::log_softmax.int", import_softmax(true))
      .import("aten::special_log_softmax", import_softmax(true))
      .import("aten::_log_softmax", import_softmax(true));
}

}  // namespace torchweld
