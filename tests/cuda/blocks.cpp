#include "tests/cuda/blocks.h"

#include <ATen/ops/mul.h>
#include <ATen/ops/randn.h>

#include <cmath>

#include "conversion/passes/passes.h"
#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "core/ops/pool.h"
#include "core/ops/reduce.h"
#include "core/ops/shape.h"
#include "kernels/cuda/excited_residual.h"
#include "kernels/cuda/implicit_gemm.h"
#include "kernels/cuda/inverted_residual.h"
#include "kernels/cuda/pooled_blocks.h"
#include "kernels/cuda/stem.h"

namespace torchweld::cuda_tests {
namespace {

/// Adds single nodes to a graph.
class Builder {
 public:
  Builder(c10::ScalarType dtype, bool constants_on_device)
      : graph_(std::make_unique<Graph>()), dtype_(dtype), on_device_(constants_on_device) {}

  Value* input(const Dims& shape) {
    Dims strides = shape.size() == 4 ? channels_last_strides(shape) : contiguous_strides(shape);
    return graph_->add_input({dtype_, shape, strides, kDevice});
  }
  Value* weight(const Dims& shape, double scale) {
    at::Tensor value = at::mul(at::randn(shape), scale).to(dtype_);
    Value* constant = graph_->add(Constant{on_device_ ? value.to(kDevice) : value, "w"}, {});
    constant->type.device = kDevice;
    return constant;
  }
  Value* number(double value) { return graph_->add(Constant::immediate(value, kDevice), {}); }

  Value* conv(Value* x, int64_t out, int64_t window, int64_t stride, int64_t dilation, bool depthwise, bool biased) {
    int64_t padding = (window - 1) / 2 * dilation;
    Conv op{.stride = {stride, stride},
            .padding = {padding, padding},
            .dilation = {dilation, dilation},
            .groups = depthwise ? x->type.shape[1] : 1,
            .output_padding = {0, 0}};
    return conv(x, op, out, {window, window}, biased);
  }
  Value* conv(Value* x, const Conv& op, int64_t out, const Dims& window, bool biased) {
    int64_t in = x->type.shape[1] / op.groups;
    double fan_in = static_cast<double>(in * window[0] * window[1]);
    std::vector<Value*> inputs = {x, weight({out, in, window[0], window[1]}, std::sqrt(2 / fan_in))};
    if (biased) inputs.push_back(weight({out}, 0.5));
    return channels_last(graph_->add(op, inputs));
  }
  Value* max_pool(Value* x, const MaxPool& op) { return channels_last(graph_->add(op, {x})); }
  Value* activation(Value* v, const std::string& name) {
    if (name.empty()) return v;
    std::vector<Value*> inputs = {v};
    if (name == "relu6") inputs.insert(inputs.end(), {number(0), number(6)});
    return graph_->add(Pointwise{name == "relu6" ? "clamp" : name}, inputs);
  }
  Value* add(Attrs attrs, const std::vector<Value*>& inputs) { return graph_->add(std::move(attrs), inputs); }

  /// Runs the passes; all nodes must have become one.
  Case finish(const std::string& name, const std::vector<Value*>& results) {
    for (Value* result : results) graph_->add_output(result);
    PassContext context;
    context.tensor_cores = true;
    for (auto pass : {fuse, fuse_blocks}) {
      pass(*graph_, context);
      graph_->sweep();
      if (on_device_) graph_->verify();  // constants in host memory only stand for others
    }
    int nodes = 0;
    for (const auto& node : graph_->nodes()) nodes += node->as<Constant>() == nullptr;
    check(nodes == 1 && graph_->nodes().back()->as<Fused>(), name + " is not one block:\n" + graph_->text());
    return {name + "/" + dtype_name(dtype_), std::move(graph_)};
  }

 private:
  static Value* channels_last(Value* v) {
    v->type.strides = channels_last_strides(v->type.shape);
    return v;
  }

  std::unique_ptr<Graph> graph_;
  c10::ScalarType dtype_;
  bool on_device_;
};

}  // namespace

Case make_block(const ResidualSpec& spec, c10::ScalarType dtype, bool constants_on_device) {
  Builder build(dtype, constants_on_device);
  Value* x = build.input({spec.batch, spec.in, spec.height, spec.width});
  Value* v = x;
  if (spec.expands) v = build.activation(build.conv(v, spec.hidden, 1, 1, 1, false, spec.biased), spec.activation);
  v = build.conv(v, v->type.shape[1], spec.window, spec.stride, spec.dilation, true, spec.biased);
  v = build.activation(v, spec.activation);
  if (spec.squeezed > 0) {
    int64_t hidden = v->type.shape[1];
    Value* gate = build.add(Reduce{.kind = "mean", .axes = {2, 3}, .keepdim = true}, {v});
    gate = build.activation(build.conv(gate, spec.squeezed, 1, 1, 1, false, spec.biased), spec.activation);
    gate = build.activation(build.conv(gate, hidden, 1, 1, 1, false, spec.biased), spec.gate);
    v = build.add(Pointwise{"mul"}, {v, gate});
  }
  if (spec.projects) v = build.conv(v, spec.out, 1, 1, 1, false, spec.biased);
  if (spec.adds_input) v = build.add(Pointwise{"add"}, {v, x});
  if (spec.projects) v = build.activation(v, spec.last_activation);
  return build.finish(spec.name, {v});
}

Case make_block(const PooledSpec& spec, c10::ScalarType dtype, bool constants_on_device) {
  Builder build(dtype, constants_on_device);
  Value* x = build.input({spec.batch, spec.channels, spec.height, spec.width});
  Value* v = build.add(Reduce{.kind = "mean", .axes = {2, 3}, .keepdim = true}, {x});
  if (spec.classes > 0) {
    v = build.add(Reshape{{spec.batch, spec.channels}}, {v});
    v = build.add(Linear{}, {v, build.weight({spec.classes, spec.channels}, 0.05), build.weight({spec.classes}, 0.5)});
    v = build.activation(v, spec.activation);
    return build.finish(spec.name, {spec.casts ? build.add(Cast{c10::kFloat}, {v}) : v});
  }
  v = build.activation(build.conv(v, spec.squeezed, 1, 1, 1, false, true), spec.activation);
  v = build.activation(build.conv(v, spec.channels, 1, 1, 1, false, true), spec.gate);
  if (spec.multiplies) v = build.add(Pointwise{"mul"}, {x, v});
  return build.finish(spec.name, {v});
}

Case make_block(const ScaledSpec& spec, c10::ScalarType dtype, bool constants_on_device) {
  Builder build(dtype, constants_on_device);
  Value* x = build.input({spec.batch, spec.in, spec.height, spec.width});
  Value* gate = build.input({spec.batch, spec.in, 1, 1});
  Value* v = build.conv(build.add(Pointwise{"mul"}, {x, gate}), spec.out, 1, 1, 1, false, true);
  if (spec.adds) v = build.add(Pointwise{"add"}, {v, build.input({spec.batch, spec.out, spec.height, spec.width})});
  return build.finish(spec.name, {v});
}

Case make_block(const SiblingsSpec& spec, c10::ScalarType dtype, bool constants_on_device) {
  Builder build(dtype, constants_on_device);
  bool linear = spec.window == 0;
  Value* x = linear ? build.input({spec.batch, spec.height, spec.in})
                    : build.input({spec.batch, spec.in, spec.height, spec.width});
  std::vector<Value*> results;
  for (int64_t out : spec.outs) {
    bool biased = spec.all_biased || results.empty();
    Value* v = nullptr;
    if (linear) {
      std::vector<Value*> inputs = {x, build.weight({out, spec.in}, std::sqrt(2 / static_cast<double>(spec.in)))};
      if (biased) inputs.push_back(build.weight({out}, 0.5));
      v = build.add(Linear{}, inputs);
    } else {
      v = build.conv(x, out, spec.window, spec.stride, 1, false, biased);
    }
    results.push_back(build.activation(v, spec.activation));
  }
  Case made = build.finish(spec.name, results);
  for (const auto& v : made.node().outputs()) {
    if (!spec.sliced) continue;
    constexpr int64_t kMore = 24;
    int64_t channels = v->type.shape[linear ? 2 : 1];
    for (int64_t& stride : v->type.strides) stride = stride == 1 ? 1 : stride / channels * (channels + kMore);
  }
  return made;
}

Case make_block(const StemSpec& spec, c10::ScalarType dtype, bool constants_on_device) {
  Builder build(dtype, constants_on_device);
  Value* v = build.input({spec.batch, spec.in, spec.height, spec.width});
  if (!spec.channels_last)
    v->type.strides = contiguous_strides({spec.batch, spec.in, spec.height + spec.cropped, spec.width + spec.cropped});
  Conv conv{.stride = spec.stride, .padding = spec.padding, .dilation = {1, 1}, .output_padding = {0, 0}};
  v = build.activation(build.conv(v, conv, spec.out, spec.window, spec.biased), spec.activation);
  if (spec.pool.empty()) return build.finish(spec.name, {v});
  v = build.max_pool(v, {.kernel = spec.pool,
                         .stride = spec.pool_stride,
                         .padding = spec.pool_padding,
                         .dilation = spec.pool_dilation,
                         .ceil_mode = spec.ceil_mode});
  return build.finish(spec.name, {build.activation(v, spec.last_activation)});
}

std::vector<NamedTactic> block_tactics() {
  return {{"excited_residual", cuda::propose_excited_residual},
          {"inverted_residual", cuda::propose_inverted_residual},
          {"squeeze_excite", cuda::propose_squeeze_excite},
          {"pooled_linear", cuda::propose_pooled_linear},
          {"stem", cuda::propose_stem},
          {"implicit_gemm", cuda::propose_implicit_gemm}};
}

}  // namespace torchweld::cuda_tests
