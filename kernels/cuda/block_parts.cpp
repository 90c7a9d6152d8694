#include "kernels/cuda/block_parts.h"

#include <c10/cuda/CUDAException.h>
#include <cuda_runtime_api.h>

#include <algorithm>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "core/ops/pointwise.h"
#include "kernels/cuda/own_kernel.h"
#include "kernels/shared_constants.h"

namespace torchweld::cuda {
namespace {

/// A constant that a part of the block, or the block as its only part, reads as this value.
const LazyTensor& constant_input(const Node& block, const Node& part, const Value* read) {
  const bool alone = &block == &part;
  const LazyTensor* tensor = nullptr;
  if (alone || !read->producer()) tensor = lazy_constant_of(alone ? read : block.input(read->index()));
  expect(tensor != nullptr, "weights are not constant");
  return *tensor;
}

}  // namespace

BlockPart take_part(const Node& block, const Node& part) {
  BlockPart result{.body = body_of(part), .node = &part, .x = nullptr, .weight = {}, .bias = {}};
  expect(result.body.anchor != nullptr, "a part without an anchor");
  const Node& anchor = result.anchor();
  auto outer = [&](size_t i) { return part.input(anchor_input(result.body, i)); };
  result.x = outer(0);
  if (anchor.inputs().size() > 1) result.weight = constant_input(block, part, outer(1));
  if (anchor.inputs().size() > 2) result.bias = constant_input(block, part, outer(2));
  for (size_t i = 0; i < part.inputs().size(); ++i) {
    const auto& users = result.body.graph->inputs()[i]->users();
    bool read = std::any_of(users.begin(), users.end(), [&](const Node* user) { return user != &anchor; });
    if (!read) continue;
    expect(!result.added, "pointwise nodes read more than one tensor");
    result.added = part.input(i);
    result.added_input = i;
  }
  expect(part.outputs().size() == 1, "a part with several results");
  return result;
}

std::shared_ptr<Graph> part_alone(const Node& block, const Node& part, const Value* known) {
  auto graph = std::make_shared<Graph>();
  std::vector<Value*> inputs;
  for (const Value* v : part.inputs()) {
    const Value* outer = v == known || v->producer() ? v : block.input(v->index());
    bool constant = outer->from<Constant>();
    inputs.push_back(constant ? graph->add(outer->producer()->attrs, {}) : graph->add_input(v->type));
    inputs.back()->type = outer->type;
  }
  Node* copy = graph->add_node(part.attrs, inputs);
  for (size_t i = 0; i < part.outputs().size(); ++i) copy->output(i)->type = part.output(i)->type;
  return graph;
}

std::string emit_pointwise(const Graph& graph, std::map<const Value*, std::string> names, const std::string& name,
                           const std::string& operand) {
  const Value* last = graph.outputs()[0];
  std::string statements = emit_statements(graph, names, {last});
  return "  template <int V>\n  static __device__ __forceinline__ void " + name + "(float (&acc)[V]" +
         (operand.empty() ? "" : ", const float (&" + operand + ")[V]") +
         ") {\n#pragma unroll\n    for (int k = 0; k < V; ++k) {\n" + statements + "acc[k] = " + names.at(last) +
         ";\n    }\n  }\n";
}

std::string emit_after(const BlockPart& part, const std::string& name, bool with_added) {
  std::map<const Value*, std::string> names{{part.anchor().output(), "acc[k]"}};
  if (part.added) names[part.body.graph->inputs()[part.added_input].get()] = "added[k]";
  return emit_pointwise(*part.body.graph, names, name, with_added ? "added" : "");
}

std::string emit_gated(const Graph& graph, size_t gate_input, const std::string& name) {
  std::map<const Value*, std::string> names;
  for (size_t i = 0; i < graph.inputs().size(); ++i)
    names[graph.inputs()[i].get()] = i == gate_input ? "gate[k]" : "acc[k]";
  return emit_pointwise(graph, names, name, "gate");
}

bool is_pointwise(const Node& node) {
  auto* fused = node.as<Fused>();
  return node.as<Pointwise>() || (fused && !is_block(*fused) && !anchor_of(*fused));
}

std::string emit_constants(std::initializer_list<std::pair<const char*, int64_t>> list) {
  std::string text;
  for (const auto& [name, value] : list)
    text += std::string(text.empty() ? "" : ", ") + name + " = " + std::to_string(value);
  return "  static constexpr int " + text + ";\n";
}

void expect_channels_last(const TensorType& type, const std::string& what) {
  bool wide = type.strides[1] == 1 && type.shape[1] % 8 == 0 && type.strides[0] % 8 == 0 && type.strides[2] % 8 == 0 &&
              type.strides[3] % 8 == 0;
  expect(wide, what + " is not channels-last with a multiple of 8 channels");
  constexpr int64_t kMost = int64_t{1} << 31;
  expect(type.storage_bytes() < kMost, what + " is too large for 32-bit offsets");
}

at::Tensor as_f32(const at::Tensor& tensor) { return tensor.to(c10::kCPU, c10::kFloat).contiguous(); }

at::Tensor packed_for(const Node& node, const Program& program, const std::vector<LazyTensor>& weights,
                      const std::function<at::Tensor()>& pack) {
  c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(device_of(node)));
  return shared_constant(origin_of(device.str() + " " + key_of(program, device.index()), weights),
                         [&] { return pack().to(device); });
}

DeviceLimits limits_of(const Node& node) {
  DeviceLimits limits;
  if (is_collecting()) return limits;
  int device = device_of(node);
  auto attribute = [device](cudaDeviceAttr which) {
    int value = 0;
    C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device));
    return value;
  };
  limits.major = attribute(cudaDevAttrComputeCapabilityMajor);
  limits.processors = attribute(cudaDevAttrMultiProcessorCount);
  limits.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  return limits;
}

size_t choose_untimed(const Node& node, size_t count, const std::function<Program(size_t)>& program_of,
                      const std::function<int64_t(size_t)>& cluster_of) {
  constexpr size_t kMostLookedAt = 8;
  for (size_t i = 0; i < std::min(count, kMostLookedAt) && !is_collecting(); ++i) {
    if (is_compiled(program_of(i), device_of(node))) return i;
  }
  constexpr int64_t kPortableCluster = 8;
  size_t first = 0;
  while (first < count && cluster_of(first) > kPortableCluster) ++first;
  return first;
}

std::set<std::string> names_of_launch(const std::set<std::string>& names, int launch) {
  const std::string separator = ", ";
  std::set<std::string> found;
  for (const std::string& name : names) {
    size_t end = name.find(separator);
    if (end != std::string::npos) found.insert(launch == 0 ? name.substr(0, end) : name.substr(end + separator.size()));
  }
  return found;
}

}  // namespace torchweld::cuda
