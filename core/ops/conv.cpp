#include "core/ops/conv.h"

#include <ATen/ops/convolution.h>

#include "core/error.h"
#include "core/import_args.h"
#include "core/ops/layout.h"
#include "core/ops/pool.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

void check_lists(const Conv& a, size_t dims) {
  expect(a.stride.size() == dims && a.padding.size() == dims && a.dilation.size() == dims &&
             a.output_padding.size() == dims,
         "conv: stride, padding, dilation and output_padding need one number per spatial dimension");
  for (size_t i = 0; i < dims; ++i) {
    expect(a.stride[i] > 0 && a.dilation[i] > 0, "conv: stride and dilation must be positive");
    expect(a.padding[i] >= 0, "conv: padding must not be negative");
    expect(a.output_padding[i] >= 0 &&
               (a.output_padding[i] < a.stride[i] || a.output_padding[i] < a.dilation[i] || a.output_padding[i] == 0),
           "conv: output_padding must be smaller than stride or dilation");
  }
  expect(a.groups > 0, "conv: groups must be positive");
}

void check_operands(const Conv& a, Types in) {
  expect(in.size() == 2 || in.size() == 3, "conv: takes x, weight and optionally bias");
  const TensorType& x = in[0];
  const TensorType& weight = in[1];
  expect(x.rank() >= 3 && x.rank() <= 5, "conv: x must have one to three spatial dimensions");
  expect(weight.rank() == x.rank(), "conv: weight must have the rank of x");
  expect(x.is_floating() && weight.dtype == x.dtype, "conv: x and weight must be floating point and of one dtype");
  check_lists(a, static_cast<size_t>(x.rank()) - 2);
  int64_t channels = a.transposed ? weight.shape[0] : weight.shape[1] * a.groups;
  expect(x.shape[1] == channels, [&] {
    return "conv: weight " + to_string(weight.shape) + " needs " + std::to_string(channels) +
           " input channels, x has " + std::to_string(x.shape[1]);
  });
  expect(weight.shape[0] % a.groups == 0, "conv: channels of weight must be a multiple of groups");
  int64_t features = a.transposed ? weight.shape[1] * a.groups : weight.shape[0];
  expect(in.size() < 3 || (in[2].shape == Dims{features} && in[2].dtype == x.dtype),
         "conv: bias must have one number per output channel, of the dtype of x");
}

TensorType infer_conv(const Conv& a, Types in) {
  check_operands(a, in);
  const TensorType& x = in[0];
  const TensorType& weight = in[1];
  Dims shape{x.shape[0], a.transposed ? weight.shape[1] * a.groups : weight.shape[0]};
  for (size_t i = 0; i < a.stride.size(); ++i) {
    int64_t reach = a.dilation[i] * (weight.shape[i + 2] - 1) + 1;
    int64_t size = x.shape[i + 2];
    if (a.transposed) {
      shape.push_back((size - 1) * a.stride[i] - 2 * a.padding[i] + reach + a.output_padding[i]);
    } else {
      expect(size + 2 * a.padding[i] >= reach, "conv: the kernel is larger than the padded input");
      shape.push_back((size + 2 * a.padding[i] - reach) / a.stride[i] + 1);
    }
    expect(shape.back() > 0, "conv: the output has no elements in a spatial dimension");
  }
  // LibTorch's convolutions of volumes on the CPU are row-major.
  bool row_major = x.rank() == 5 && x.device.is_cpu();
  Dims strides = row_major ? contiguous_strides(shape) : suggested_strides(shape, {&x, &weight});
  return {x.dtype, std::move(shape), std::move(strides), x.device};
}

/// Without the products with padding, which nobody has to compute. The window moves over x; a transposed convolution's
/// over the result.
double conv_flops(const Conv& a, Types in, Types out) {
  const TensorType& weight = in[1];
  const Dims& from = a.transposed ? in[0].shape : out[0].shape;
  const Dims& over = a.transposed ? out[0].shape : in[0].shape;
  double count = 2.0 * static_cast<double>(weight.shape[1]) * static_cast<double>(from[0] * from[1]);
  for (size_t i = 0; i < a.stride.size(); ++i) {
    int64_t inside = 0;
    for (int64_t at = 0; at < from[i + 2]; ++at) {
      for (int64_t tap = 0; tap < weight.shape[i + 2]; ++tap) {
        int64_t position = at * a.stride[i] - a.padding[i] + tap * a.dilation[i];
        inside += position >= 0 && position < over[i + 2];
      }
    }
    count *= static_cast<double>(inside);
  }
  return count;
}

/// `x` padded behind its spatial dimensions, where "same" padding is uneven; sets the even rest in `conv`.
Value* pad_same(ImportArgs& a, Value* x, const Value* weight, Conv& conv) {
  Pad pad{.before = Dims(x->type.shape.size(), 0), .after = Dims(x->type.shape.size(), 0), .value = 0};
  bool uneven = false;
  for (size_t i = 0; i < conv.padding.size(); ++i) {
    expect(conv.stride[i] == 1, "conv: padding 'same' needs stride 1");
    int64_t total = conv.dilation[i] * (weight->type.shape[i + 2] - 1);
    conv.padding[i] = total / 2;
    pad.after[i + 2] = total % 2;
    uneven |= total % 2 != 0;
  }
  return uneven ? a.emit(pad, {x}) : x;
}

/// Emits `conv` with its lists spread to all spatial dimensions. `padding` is "same" or "valid", or empty when
/// conv.padding holds numbers. x without a batch dimension gets one for the while.
Value* emit_conv(ImportArgs& a, Conv conv, const std::string& padding) {
  Value* x = a.value("input");
  Value* weight = a.value("weight");
  Value* bias = a.optional_value("bias");
  expect(weight->type.rank() >= 3 && weight->type.rank() <= 5, "conv: weight must have rank 3 to 5");
  size_t dims = static_cast<size_t>(weight->type.rank()) - 2;
  bool batched = x->type.rank() == weight->type.rank();
  if (!batched) {
    expect(x->type.rank() == weight->type.rank() - 1, "conv: x must have the rank of weight, or one less");
    Dims shape = x->type.shape;
    shape.insert(shape.begin(), 1);
    x = a.emit(Reshape{.shape = shape}, {x});
  }
  expect(padding.empty() || padding == "same" || padding == "valid", "conv: padding must be 'same' or 'valid'");
  for (Dims* list : {&conv.stride, &conv.dilation, &conv.output_padding}) *list = spread(*list, dims);
  conv.padding = padding.empty() ? spread(conv.padding, dims) : Dims(dims, 0);
  if (padding == "same") x = pad_same(a, x, weight, conv);
  std::vector<Value*> inputs{x, weight};
  if (bias) inputs.push_back(bias);
  Value* y = a.emit(conv, inputs);
  if (batched) return y;
  return a.emit(Reshape{.shape = Dims(y->type.shape.begin() + 1, y->type.shape.end())}, {y});
}

Value* import_conv(ImportArgs& a) {
  return emit_conv(a,
                   {.stride = a.ints("stride"),
                    .padding = a.ints("padding"),
                    .dilation = a.ints("dilation"),
                    .groups = a.integer("groups"),
                    .output_padding = {0}},
                   "");
}

Value* import_conv_with_mode(ImportArgs& a) {
  return emit_conv(a,
                   {.stride = a.ints("stride"),
                    .padding = {},
                    .dilation = a.ints("dilation"),
                    .groups = a.integer("groups"),
                    .output_padding = {0}},
                   a.string("padding"));
}

Value* import_conv_transpose(ImportArgs& a) {
  return emit_conv(a,
                   {.stride = a.ints("stride"),
                    .padding = a.ints("padding"),
                    .dilation = a.ints("dilation"),
                    .groups = a.integer("groups"),
                    .transposed = true,
                    .output_padding = a.ints("output_padding")},
                   "");
}

Value* import_convolution(ImportArgs& a) {
  return emit_conv(a,
                   {.stride = a.ints("stride"),
                    .padding = a.ints("padding"),
                    .dilation = a.ints("dilation"),
                    .groups = a.integer("groups"),
                    .transposed = a.boolean("transposed"),
                    .output_padding = a.ints("output_padding")},
                   "");
}

}  // namespace

bool is_stem(const Conv& conv, const TensorType& weight) {
  bool plain = weight.rank() == 4 && conv.groups == 1 && !conv.transposed && conv.dilation == Dims{1, 1};
  return plain && weight.shape[1] <= kPictureChannels;
}

void define_conv(OpSet& ops) {
  auto conv = ops.add<Conv>("conv");
  conv.infer(infer_conv)
      .aten([](const Conv& a, Tensors in) {
        return at::convolution(in[0], in[1], in.size() > 2 ? std::optional(in[2]) : std::nullopt, a.stride, a.padding,
                               a.dilation, a.transposed, a.output_padding, a.groups);
      })
      .flops(conv_flops);
  for (const char* schema : {"aten::conv1d", "aten::conv2d", "aten::conv3d"}) conv.import(schema, import_conv);
  for (const char* schema :
       {"aten::conv1d.padding", "aten::conv2d.padding", "aten::conv3d.padding", "aten::_convolution_mode"}) {
    conv.import(schema, import_conv_with_mode);
  }
  for (const char* schema :
       {"aten::conv_transpose1d", "aten::conv_transpose2d.input", "aten::conv_transpose3d.input"}) {
    conv.import(schema, import_conv_transpose);
  }
  for (const char* schema : {"aten::_convolution", "aten::_convolution.deprecated", "aten::convolution"}) {
    conv.import(schema, import_convolution);
  }
}

}  // namespace torchweld
