#include "kernels/cudnn/conv.h"

#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cudnn/Handle.h>
#include <c10/cuda/CUDAGuard.h>
#include <cudnn_frontend.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <mutex>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/pointwise.h"
#include "kernels/cuda/codegen.h"
#include "kernels/cuda/own_kernel.h"
#include "kernels/shared_constants.h"

namespace torchweld::cudnn {
namespace {

namespace fe = cudnn_frontend;
using Tensor = std::shared_ptr<fe::graph::Tensor_attributes>;

// Numbers by which a graph's tensors are bound to memory.
constexpr int64_t kX = 1;
constexpr int64_t kWeight = 2;
constexpr int64_t kBias = 3;
constexpr int64_t kFirstInput = 100;   // plus the index of the node's input
constexpr int64_t kFirstOutput = 200;  // plus the index of the node's output

fe::DataType_t data_type(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::kFloat:
      return fe::DataType_t::FLOAT;
    case c10::kHalf:
      return fe::DataType_t::HALF;
    case c10::kBFloat16:
      return fe::DataType_t::BFLOAT16;
    default:
      throw Unsupported("cuDNN takes f32, f16 and bf16, not " + dtype_name(dtype));
  }
}

void expect_good(fe::error_t status) { expect(status.is_good(), "cuDNN: " + status.get_message()); }

/// A node taken apart.
struct Parts {
  cuda::Body body;
  Conv conv;
  size_t x = 0;
  size_t weight = 0;
  std::optional<size_t> bias;
  std::vector<size_t> packed;
};

Parts take_apart(const Node& node) {
  Parts parts;
  parts.body = cuda::body_of(node);
  const Node& anchor = *parts.body.anchor;
  parts.conv = *anchor.as<Conv>();
  expect(!parts.conv.transposed, "transposed convolution");
  parts.x = cuda::anchor_input(parts.body, 0);
  parts.weight = cuda::anchor_input(parts.body, 1);
  std::vector<size_t> eaten = {parts.weight};
  if (anchor.inputs().size() > 2) {
    parts.bias = cuda::anchor_input(parts.body, 2);
    eaten.push_back(*parts.bias);
  }
  parts.packed = cuda::packed_inputs_of(node, parts.body, eaten);
  const TensorType& x = node.input(parts.x)->type;
  expect(x.numel() > 0 && node.output()->type.numel() > 0, "an empty tensor");
  bool as_it_lies = is_stem(parts.conv, node.input(parts.weight)->type) && !is_channels_last(x);
  expect(!as_it_lies, "a picture that lies in another layout than the result");
  expect(parts.conv.groups == 1 || parts.conv.groups != x.shape[1], "depthwise (cuDNN is several times too slow)");
  return parts;
}

/// One spatial dimension becomes two: cuDNN knows images and volumes.
Dims with_height(Dims dims, int64_t height, size_t rank) {
  if (rank == 3) dims.insert(dims.end() - 1, height);
  return dims;
}

/// Strides as cuDNN compares them: those of size-1 dimensions as a dense tensor has them.
Dims clean_strides(const TensorType& type) {
  if (is_channels_last(type)) return channels_last_strides(type.shape);
  if (is_contiguous(type)) return contiguous_strides(type.shape);
  return type.strides;
}

/// A cuDNN graph that tells which of its plans pass the filters.
class PlanGraph : public fe::graph::Graph {
 public:
  /// Numbers of at most `most` plans that may be built, best first.
  std::vector<int64_t> allowed_plans(size_t most) {
    std::vector<int64_t> allowed;
    for (int64_t plan = 0; plan < get_execution_plan_count() && allowed.size() < most; ++plan) {
      if (plans.check_support_at_index(plan).is_good()) allowed.push_back(plan);
    }
    return allowed;
  }
};

/// Builds the cuDNN graph of a node.
class GraphMaker {
 public:
  GraphMaker(const Node& node, const Parts& parts)
      : node_(node), parts_(parts), rank_(node.input(parts.x)->type.shape.size()) {}

  std::shared_ptr<PlanGraph> make() {
    graph_ = std::make_shared<PlanGraph>();
    const TensorType& x = node_.input(parts_.x)->type;
    graph_->set_io_data_type(data_type(x.dtype))
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    values_[parts_.body.anchor->output()] = convolve(x);
    for (const auto& inner : parts_.body.graph->nodes()) {
      if (inner.get() != parts_.body.anchor && !inner->as<Constant>()) values_[inner->output()] = translate(*inner);
    }
    for (size_t i = 0; i < node_.outputs().size(); ++i) mark_output(i);
    return graph_;
  }

 private:
  Tensor tensor(const TensorType& type, int64_t uid, const char* name) {
    size_t rank = type.shape.size();
    Dims strides = clean_strides(type);
    int64_t height_stride = rank == 3 ? type.shape[2] * strides[2] : 0;
    return graph_->tensor(fe::graph::Tensor_attributes()
                              .set_name(name)
                              .set_uid(uid)
                              .set_dim(with_height(type.shape, 1, rank))
                              .set_stride(with_height(strides, height_stride, rank))
                              .set_data_type(data_type(type.dtype)));
  }

  Tensor convolve(const TensorType& x) {
    TensorType weight = node_.input(parts_.weight)->type;
    weight.dtype = x.dtype;
    weight.strides = is_channels_last(x) ? channels_last_strides(weight.shape) : contiguous_strides(weight.shape);
    auto options = fe::graph::Conv_fprop_attributes()
                       .set_name("conv")
                       .set_padding(spatial(parts_.conv.padding, 0))
                       .set_stride(spatial(parts_.conv.stride, 1))
                       .set_dilation(spatial(parts_.conv.dilation, 1));
    Tensor result = graph_->conv_fprop(tensor(x, kX, "x"), tensor(weight, kWeight, "weight"), options);
    if (!parts_.bias) return result;
    Dims shape(rank_, 1);
    shape[1] = weight.shape[0];
    TensorType bias{c10::kFloat, shape, channels_last_strides(shape), x.device};
    return apply(fe::PointwiseMode_t::ADD, {result, tensor(bias, kBias, "bias")});
  }

  Dims spatial(const Dims& dims, int64_t height) const {
    Dims result = dims;
    if (rank_ == 3) result.insert(result.begin(), height);
    return result;
  }

  Tensor apply(fe::PointwiseMode_t mode, const std::vector<Tensor>& operands) {
    return apply(fe::graph::Pointwise_attributes().set_mode(mode), operands);
  }
  Tensor apply(fe::graph::Pointwise_attributes options, const std::vector<Tensor>& operands) {
    options.set_compute_data_type(fe::DataType_t::FLOAT);
    return operands.size() == 1 ? graph_->pointwise(operands[0], options)
                                : graph_->pointwise(operands[0], operands[1], options);
  }
  /// NaN passes: the front end asks cuDNN for that in RELU_FWD. Its engines for f32 data do not all do it.
  Tensor clip(const Tensor& x, double low, double high) {
    expect(node_.input(parts_.x)->type.dtype != c10::kFloat,
           "cuDNN: some engines turn NaN into 0 in relu and clamp in f32");
    expect(std::isfinite(low) && low <= high, "cuDNN: unusual bounds of a clamp");
    auto options = fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::RELU_FWD);
    options.set_relu_lower_clip(static_cast<float>(low));
    // The largest float as a bound would make it out of infinity.
    if (std::isfinite(high)) options.set_relu_upper_clip(static_cast<float>(high));
    return apply(options, {x});
  }

  /// The operand as a cuDNN tensor of the result's rank.
  Tensor operand(const Value* value) {
    auto known = values_.find(value);
    if (known != values_.end()) return known->second;
    if (std::optional<double> number = number_of(value)) return graph_->tensor(static_cast<float>(*number));
    expect(!value->producer(), "cuDNN: a constant inside the body");
    auto index = static_cast<size_t>(value->index());
    TensorType type = node_.input(index)->type;
    size_t lead = rank_ - type.shape.size();
    expect(type.shape.size() <= rank_, "an operand has more dimensions than the convolution");
    Dims strides = clean_strides(type);
    type.strides = strides;
    type.strides.insert(type.strides.begin(), lead, std::max<int64_t>(type.storage_bytes(), 1));
    type.shape.insert(type.shape.begin(), lead, 1);
    return values_[value] = tensor(type, kFirstInput + static_cast<int64_t>(index), "operand");
  }

  double number(const Node& inner, size_t i) const {
    std::optional<double> value = number_of(inner.input(i));
    expect(value.has_value(), "cuDNN: " + inner.attrs.text() + " with a tensor where it takes a number");
    return *value;
  }

  Tensor translate(const Node& inner) {
    if (inner.as<Cast>()) {
      expect(inner.output()->type.is_floating() && inner.input(0)->type.is_floating(), "cuDNN: a cast of integers");
      return operand(inner.input(0));
    }
    const std::string& fn = inner.as<Pointwise>()->fn;
    Tensor a = operand(inner.input(0));
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    using Mode = fe::PointwiseMode_t;
    static const std::map<std::string, Mode> unary{{"sigmoid", Mode::SIGMOID_FWD},
                                                   {"tanh", Mode::TANH_FWD},
                                                   {"silu", Mode::SWISH_FWD},
                                                   {"gelu", Mode::GELU_FWD},
                                                   {"gelu_tanh", Mode::GELU_APPROX_TANH_FWD}};
    static const std::map<std::string, Mode> binary{
        {"add", Mode::ADD}, {"sub", Mode::SUB}, {"mul", Mode::MUL}, {"div", Mode::DIV}};
    if (auto found = unary.find(fn); found != unary.end()) return apply(found->second, {a});
    if (auto found = binary.find(fn); found != binary.end()) return apply(found->second, {a, operand(inner.input(1))});
    if (fn == "relu") return clip(a, 0, kInfinity);
    if (fn == "clamp") return clip(a, number(inner, 1), number(inner, 2));
    if (fn == "maximum") return clip(a, number(inner, 1), kInfinity);
    if (fn == "leaky_relu") {
      auto slope = static_cast<float>(number(inner, 1));
      return apply(fe::graph::Pointwise_attributes().set_mode(Mode::RELU_FWD).set_relu_lower_clip_slope(slope), {a});
    }
    if (fn == "hardsigmoid" || fn == "hardswish") {
      Tensor gate = clip(apply(Mode::ADD, {a, graph_->tensor(3.0f)}), 0, 6);
      if (fn == "hardswish") gate = apply(Mode::MUL, {gate, a});
      return apply(Mode::MUL, {gate, graph_->tensor(1.0f / 6.0f)});
    }
    throw Unsupported("cuDNN has no " + fn);
  }

  void mark_output(size_t i) {
    const TensorType& type = node_.output(i)->type;
    auto found = values_.find(parts_.body.graph->outputs()[i]);
    expect(found != values_.end() && type.shape.size() == rank_, "cuDNN: a result that no node computes");
    Dims strides = clean_strides(type);
    int64_t height_stride = rank_ == 3 ? type.shape[2] * strides[2] : 0;
    found->second->set_output(true)
        .set_uid(kFirstOutput + static_cast<int64_t>(i))
        .set_data_type(data_type(type.dtype))
        .set_dim(with_height(type.shape, 1, rank_))
        .set_stride(with_height(strides, height_stride, rank_));
  }

  const Node& node_;
  const Parts& parts_;
  size_t rank_;
  std::shared_ptr<PlanGraph> graph_;
  std::map<const Value*, Tensor> values_;
};

/// A graph with its candidate plans and packed weights, shared by the offers for one node.
struct Prepared {
  std::mutex mutex;  ///< Plans are built one at a time.
  std::shared_ptr<PlanGraph> graph;
  std::vector<int64_t> plans;  ///< Those that may be built, best first.
  at::Tensor weight;
  at::Tensor bias;
};

void pack(const Node& node, const Parts& parts, Prepared& prepared) {
  if (prepared.weight.defined()) return;
  c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(cuda::device_of(node)));
  const TensorType& x = node.input(parts.x)->type;
  at::Tensor weight = constant_of(node.input(parts.weight))->to(device, x.dtype);
  std::vector<int64_t> order = {0};
  bool channels_last = is_channels_last(x);
  for (int64_t d = channels_last ? 2 : 1; d < weight.dim(); ++d) order.push_back(d);
  if (channels_last) order.push_back(1);
  prepared.weight = shared_constant(weight.permute(order).contiguous().clone());
  if (parts.bias) prepared.bias = constant_of(node.input(*parts.bias))->to(device, c10::kFloat).contiguous().clone();
}

class CudnnKernel : public Kernel {
 public:
  CudnnKernel(const Node& node, const Parts& parts, std::shared_ptr<Prepared> prepared, int64_t plan)
      : prepared_(std::move(prepared)), plan_(plan), packed_(parts.packed), x_(parts.x) {
    c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(cuda::device_of(node)));
    std::lock_guard lock(prepared_->mutex);
    expect_good(prepared_->graph->build_plan_at_index(at::native::getCudnnHandle(), plan_));
    workspace_ = prepared_->graph->get_workspace_size_plan_at_index(plan_);
    pack(node, parts, *prepared_);
    for (size_t i = 0; i < node.inputs().size(); ++i) {
      const auto& users = parts.body.graph->inputs()[i]->users();
      bool read = std::any_of(users.begin(), users.end(), [&](const Node* user) { return user != parts.body.anchor; });
      if (read && !parts.body.is_literal(i)) operands_.push_back(i);
    }
  }

  void run(const StepArgs& args) const override {
    std::unordered_map<int64_t, void*> pointers{{kX, cuda::aligned_data(*args.in[x_])},
                                                {kWeight, prepared_->weight.data_ptr()}};
    if (prepared_->bias.defined()) pointers[kBias] = prepared_->bias.data_ptr();
    for (size_t i : operands_) pointers[kFirstInput + static_cast<int64_t>(i)] = cuda::aligned_data(*args.in[i]);
    for (size_t i = 0; i < args.out.size(); ++i)
      pointers[kFirstOutput + static_cast<int64_t>(i)] = cuda::aligned_data(*args.out[i]);
    cudnnHandle_t handle = at::native::getCudnnHandle();
    check(cudnnSetStream(handle, static_cast<cudaStream_t>(args.stream)) == CUDNN_STATUS_SUCCESS,
          "cuDNN refuses a stream");
    fe::error_t status = prepared_->graph->execute_plan_at_index(handle, pointers, args.workspace, plan_);
    check(status.is_good(), "cuDNN: " + status.get_message());
  }
  int64_t workspace_bytes() const override { return workspace_; }
  bool may_overlap() const override { return true; }
  std::vector<size_t> packed_inputs() const override { return packed_; }
  std::vector<at::Tensor> constants() const override { return {prepared_->weight, prepared_->bias}; }

 private:
  std::shared_ptr<Prepared> prepared_;
  int64_t plan_;
  std::vector<size_t> packed_;
  size_t x_;
  std::vector<size_t> operands_;
  int64_t workspace_ = 0;
};

constexpr size_t kMostPlans = 12;

std::shared_ptr<Prepared> prepare(const Node& node, const Parts& parts, const KernelContext& context) {
  auto prepared = std::make_shared<Prepared>();
  prepared->graph = GraphMaker(node, parts).make();
  PlanGraph& graph = *prepared->graph;
  expect_good(graph.validate());
  expect_good(graph.build_operation_graph(at::native::getCudnnHandle()));
  expect(graph.create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}).is_good(),
         "cuDNN has no engine for this convolution together with the nodes fused to it");
  bool f32 = node.input(parts.x)->type.dtype == c10::kFloat;
  // Engines for groups do not round operands to TF32 but cut them off, which makes all results too small.
  bool tf32 = f32 && context.allow_tf32 && parts.conv.groups == 1;
  // Engines that round f32 to f16 on the way are less exact than TF32, and nobody asks for them.
  if (f32) graph.deselect_numeric_notes({fe::NumericalNote_t::DOWN_CONVERT_INPUTS});
  if (f32 && !tf32) graph.deselect_numeric_notes({fe::NumericalNote_t::TENSOR_CORE});
  graph.deselect_workspace_greater_than(context.workspace_limit);
  prepared->plans = graph.allowed_plans(kMostPlans);
  expect(!prepared->plans.empty(),
         f32 && !tf32 ? "every cuDNN engine for it computes in TF32, which is not allowed, or needs too much workspace"
                      : "every cuDNN engine for it needs too much workspace or rounds its inputs");
  return prepared;
}

}  // namespace

void propose_conv(const Node& node, const KernelContext& context, Offers& offers) {
  auto* fused = node.as<Fused>();
  const Node* anchor = fused ? anchor_of(*fused) : &node;
  if (!anchor || !anchor->as<Conv>()) return;
  Parts parts = take_apart(node);
  expect(at::cuda::is_available(), "no CUDA device");
  c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(cuda::device_of(node)));
  std::shared_ptr<Prepared> prepared = prepare(node, parts, context);
  // Untimed, the first that builds is taken.
  constexpr size_t kMostTimed = 6;
  for (size_t i = 0; i < std::min(prepared->plans.size(), context.tune ? kMostTimed : kMostPlans); ++i) {
    int64_t plan = prepared->plans[i];
    std::string name;
    if (prepared->graph->get_plan_name_at_index(plan, name).is_bad()) name = "plan" + std::to_string(plan);
    offers.add(name, [=, &node] { return std::make_unique<CudnnKernel>(node, parts, prepared, plan); });
  }
}

}  // namespace torchweld::cudnn
