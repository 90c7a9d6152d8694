#include "kernels/cuda/codegen.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <iterator>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "core/ops/index.h"
#include "core/ops/pointwise.h"

namespace torchweld::cuda {
namespace {

struct DeviceType {
  c10::ScalarType dtype;
  const char* storage;
  const char* compute;
};
constexpr DeviceType kDeviceTypes[] = {
    {c10::kFloat, "float", "float"},
    {c10::kDouble, "double", "double"},
    {c10::kHalf, "tw::f16", "float"},
    {c10::kBFloat16, "tw::bf16", "float"},
    {c10::kLong, "long long", "long long"},
    {c10::kInt, "int", "int"},
    {c10::kShort, "short", "short"},
    {c10::kChar, "signed char", "signed char"},
    {c10::kByte, "unsigned char", "unsigned char"},
    {c10::kBool, "bool", "bool"},
};

const DeviceType* find_type(c10::ScalarType dtype) {
  for (const DeviceType& row : kDeviceTypes) {
    if (row.dtype == dtype) return &row;
  }
  return nullptr;
}

bool is_host_number(const Value* value) {
  const LazyTensor* constant = lazy_constant_of(value);
  return constant && constant->numel() == 1 && constant->type().device.is_cpu();
}

std::string literal(const at::Tensor& number) {
  char text[64];
  if (number.scalar_type() == c10::kBool) return number.item<bool>() ? "true" : "false";
  if (c10::isIntegralType(number.scalar_type(), false)) {
    auto value = number.item<int64_t>();
    // The most negative number has no literal of its own.
    std::snprintf(text, sizeof text, "static_cast<long long>(0x%llxull)", static_cast<unsigned long long>(value));
    return value >= 0 ? std::to_string(value) + "ll" : text;
  }
  auto value = number.item<double>();
  // Not by printf, which writes a comma in some locales.
  if (std::isfinite(value))
    return {text, std::to_chars(text, std::end(text), value, std::chars_format::scientific, 17).ptr};
  std::snprintf(text, sizeof text, "__longlong_as_double(0x%llxll)", std::bit_cast<unsigned long long>(value));
  return text;
}

/// A graph of a copy of `node` alone.
std::shared_ptr<const Graph> graph_of(const Node& node) {
  auto graph = std::make_shared<Graph>();
  std::vector<Value*> inputs;
  for (const Value* v : node.inputs()) {
    Value* outer = graph->add_input(v->type);
    inputs.push_back(is_host_number(v) ? graph->add(v->producer()->attrs, {}) : outer);
  }
  Node* copy = graph->add_node(node.attrs, inputs);
  for (size_t i = 0; i < node.outputs().size(); ++i) {
    copy->output(i)->type = node.output(i)->type;
    graph->add_output(copy->output(i));
  }
  return graph;
}

/// A copy of `graph` in which inputs that are numbers in host memory are constants.
std::shared_ptr<const Graph> with_literals(const Graph& graph, const Node& node) {
  std::shared_ptr<Graph> copy = graph.clone();
  for (size_t i = 0; i < node.inputs().size(); ++i) {
    if (!is_host_number(node.input(i)) || copy->nodes().empty()) continue;
    Graph::InsertBefore here(*copy, copy->nodes().front().get());
    copy->replace_uses(copy->inputs()[i].get(), copy->add(node.input(i)->producer()->attrs, {}));
  }
  return copy;
}

std::string converted(const std::string& variable, const std::string& from, const std::string& to) {
  return from == to ? variable : "tw::convert<" + to + ">(" + variable + ")";
}

/// One node's statement; operands are variables of the compute types of their values.
std::string emit_node(const Node& node, const std::vector<std::string>& operands, const std::string& result) {
  std::string type = compute_type(node.output()->type.dtype);
  if (node.as<Cast>()) {
    return type + " " + result + " = " + converted(operands[0], compute_type(node.input(0)->type.dtype), type) + ";\n";
  }
  auto* pointwise = node.as<Pointwise>();
  check(pointwise != nullptr, "device code is asked for " + node.op());
  const PointwiseFn* fn = find_pointwise(pointwise->fn);
  check(fn != nullptr, "no pointwise function " + pointwise->fn);
  std::vector<TensorType> types = node.input_types();
  bool chooses = pointwise->fn == "where";
  c10::ScalarType common = chooses ? node.output()->type.dtype : operand_dtype(types);
  if (fn->floating_only && !c10::isFloatingType(common)) common = c10::kFloat;
  std::string in = compute_type(common);
  std::string text = type + " " + result + "; { using T = " + in + "; ";
  for (size_t i = 0; i < operands.size(); ++i) {
    std::string own = compute_type(types[i].dtype);
    std::string wanted = chooses && i == 0 ? "bool" : in;
    text += "const " + wanted + " " + std::string(1, static_cast<char>('a' + i)) + " = " +
            converted(operands[i], own, wanted) + "; ";
  }
  return text + result + " = static_cast<" + type + ">(" + fn->device + "); }\n";
}

void mark_needed(const Value* value, const std::map<const Value*, std::string>& names,
                 std::vector<const Node*>& needed) {
  if (names.count(value)) return;
  const Node* node = value->producer();
  check(node != nullptr, "device code reads a value that nothing gives");
  if (std::find(needed.begin(), needed.end(), node) != needed.end()) return;
  needed.push_back(node);
  for (const Value* input : node->inputs()) mark_needed(input, names, needed);
}

std::string index_names(size_t rank) {
  std::string text;
  for (size_t d = 0; d < rank; ++d) text += ", I i" + std::to_string(d);
  return text;
}

std::string offset_of(const Operand& operand) {
  std::string text = "0";
  size_t rank = operand.strides.size();
  for (size_t d = 0; d < rank; ++d) {
    std::string index = "i" + std::to_string(d);
    bool inner = d + 1 == rank;
    if (inner && operand.strides[d] == 0) continue;
    text += " + " + index +
            (inner && operand.strides[d] == 1 ? "" : " * p." + operand.name + "[" + std::to_string(d) + "]");
  }
  return text;
}

}  // namespace

bool Body::is_literal(size_t input) const { return std::binary_search(literals.begin(), literals.end(), input); }

bool has_device_type(c10::ScalarType dtype) { return find_type(dtype) != nullptr; }

std::string storage_type(c10::ScalarType dtype) {
  const DeviceType* row = find_type(dtype);
  expect(row != nullptr, "device code has no element type " + dtype_name(dtype));
  return row->storage;
}

std::string compute_type(c10::ScalarType dtype) {
  const DeviceType* row = find_type(dtype);
  expect(row != nullptr, "device code has no element type " + dtype_name(dtype));
  return row->compute;
}

Body body_of(const Node& node) {
  Body body;
  if (auto* fused = node.as<Fused>()) {
    bool has_numbers = std::any_of(node.inputs().begin(), node.inputs().end(), is_host_number);
    body.graph = has_numbers ? with_literals(*fused->body, node) : fused->body;
    body.anchor = anchor_of(Fused{body.graph});
  } else {
    body.graph = graph_of(node);
    const Node* only = body.graph->nodes().back().get();
    if (is_anchor(*only)) body.anchor = only;
  }
  for (size_t i = 0; i < node.inputs().size(); ++i) {
    storage_type(node.input(i)->type.dtype);
    if (is_host_number(node.input(i))) {
      body.literals.push_back(i);
    } else {
      expect(node.input(i)->type.device.is_cuda(), "an operand lies in host memory");
    }
  }
  for (const auto& inner : body.graph->nodes()) {
    for (const auto& value : inner->outputs()) storage_type(value->type.dtype);
    auto* constant = inner->as<Constant>();
    if (constant) expect(constant->value.numel() == 1, "a body holds a constant that is more than a number");
  }
  return body;
}

std::string emit_statements(const Graph& body, std::map<const Value*, std::string>& names,
                            const std::vector<const Value*>& wanted) {
  std::vector<const Node*> needed;
  for (const Value* value : wanted) mark_needed(value, names, needed);
  std::string text;
  for (const auto& node : body.nodes()) {
    if (std::find(needed.begin(), needed.end(), node.get()) == needed.end()) continue;
    std::string result = "t" + std::to_string(names.size());
    if (auto* constant = node->as<Constant>()) {
      std::string type = compute_type(node->output()->type.dtype);
      text +=
          "const " + type + " " + result + " = static_cast<" + type + ">(" + literal(constant->value.tensor()) + ");\n";
    } else {
      std::vector<std::string> operands;
      for (const Value* input : node->inputs()) operands.push_back(names.at(input));
      text += emit_node(*node, operands, result);
    }
    names[node->output()] = result;
  }
  return text;
}

namespace {

/// Statements that find the rows that takes read, for place_in(). All numbers are read before any is needed.
std::string emit_picked_rows(const Loops& loops) {
  std::string reads, rows;
  for (const Operand& operand : loops.operands) {
    if (!operand.rows) continue;
    const Operand& numbers = loops.named(operand.rows->numbers);
    const std::string& n = operand.name;
    reads += "    const auto number_" + n + " = " + numbers.name + "[" + offset_of(numbers) + "];\n";
    rows += "    const I row_" + n + " = tw::picked_row<" + (operand.rows->wraps ? "true" : "false") + ">(number_" + n +
            ", p." + n + "_rows) * p." + n + "_stride;\n";
  }
  return reads + rows;
}

/// Where V neighbours of an operand begin, at the loops' indexes.
std::string place_in(const Operand& operand) {
  return operand.name + " + (" + offset_of(operand) + (operand.rows ? " + row_" + operand.name : "") + ")";
}

/// Operands whose data the struct of these loops points to.
std::vector<const Operand*> pointed_to(const Loops& loops) {
  std::vector<const Operand*> pointed;
  for (const Operand& operand : loops.operands) {
    if (operand.rows) pointed.push_back(&loops.named(operand.rows->numbers));
    if (operand.value) pointed.push_back(&operand);
  }
  return pointed;
}

/// Members that point to the operands' data.
std::string emit_pointer_members(const Loops& loops) {
  std::string members;
  for (const Operand* operand : pointed_to(loops)) {
    members += std::string("  ") + (operand->output ? "" : "const ") + storage_type(operand->dtype) + "* " +
               operand->name + ";\n";
  }
  return members;
}

/// `{x0, y0, p, aligned` for a struct with these members.
std::string emit_members(const Loops& loops) {
  std::string text;
  std::string aligned = "true";
  for (const Operand* operand : pointed_to(loops)) {
    const std::string& pointer = operand->pointer.empty() ? operand->name : operand->pointer;
    text += pointer + ", ";
    if (operand->value && operand->strides.back() == 1 && loops.width > 1)
      aligned += " && tw::is_aligned<" + std::to_string(loops.width) + ">(" + pointer + ")";
  }
  return "{" + text + "p, " + aligned;
}

}  // namespace

std::string emit_elements(const Body& body, const Loops& loops, const Value* given, const Value* source) {
  std::string arrays;
  std::string reads = emit_picked_rows(loops);
  std::string writes;
  std::map<const Value*, std::string> names;
  std::string stores;
  std::vector<const Value*> wanted;
  for (const auto& [value, array] : {std::pair(given, "acc"), std::pair(source, "x")}) {
    if (!value) continue;
    names[value] = std::string(array) + "[k]";
    arrays += "const " + compute_type(value->type.dtype) + " (&" + array + ")[V], ";
  }
  for (const Operand& operand : loops.operands) {
    if (!operand.value) continue;
    const std::string& n = operand.name;
    int64_t inner = operand.strides.back();
    std::string declare = "    " + compute_type(operand.dtype) + " v" + n + "[V];\n";
    std::string place = place_in(operand);
    std::string step = "p." + n + "[" + std::to_string(operand.strides.size() - 1) + "]";
    if (operand.output) {
      reads += declare;
      wanted.push_back(operand.value);
      writes += inner == 1 ? "    tw::write<V>(" + place + ", aligned, v" + n + ");\n"
                           : "    tw::scatter<V>(" + place + ", " + step + ", v" + n + ");\n";
    } else {
      names[operand.value] = "v" + n + "[k]";
      reads += declare + (inner == 1   ? "    tw::read<V>(" + place + ", aligned, v" + n + ");\n"
                          : inner == 0 ? "    tw::repeat<V>(" + place + ", v" + n + ");\n"
                                       : "    tw::gather<V>(" + place + ", " + step + ", v" + n + ");\n");
    }
  }
  std::string statements = emit_statements(*body.graph, names, wanted);
  for (const Operand& operand : loops.operands) {
    if (operand.output && operand.value) stores += "v" + operand.name + "[k] = " + names.at(operand.value) + ";\n";
  }
  return "struct Elements {\n" + emit_pointer_members(loops) + "  const Params& p;\n  bool aligned;\n" +
         "  template <int V>\n  __device__ __forceinline__ void run(" + arrays +
         index_names(loops.sizes.size()).substr(2) + ") const {\n" + reads +
         "#pragma unroll\n    for (int k = 0; k < V; ++k) {\n" + statements + stores + "    }\n" + writes + "  }\n};\n";
}

std::string emit_source(const Body& body, const Loops& loops, const Value* wanted) {
  std::string kept, starts = emit_picked_rows(loops), fetches, reads;
  std::map<const Value*, std::string> names;
  std::string last = "i" + std::to_string(loops.sizes.size() - 1);
  for (const Operand& operand : loops.operands) {
    if (!operand.value) continue;
    const std::string& n = operand.name;
    int64_t inner = operand.strides.back();
    std::string count = inner == 0 ? "1" : "V";
    std::string step = "p." + n + "[" + std::to_string(operand.strides.size() - 1) + "]";
    kept += "    tw::Staged<" + count + ", " + storage_type(operand.dtype) + "> " + n + ";\n";
    starts += "    " + n + " = " + place_in(operand) + ";\n";
    fetches += "    early." + n +
               (inner == 1   ? ".fetch(" + n + " + j, aligned);\n"
                : inner == 0 ? ".fetch(" + n + ", true);\n"
                             : ".fetch_apart(" + n + " + j * " + step + ", " + step + ");\n");
    reads += "    " + compute_type(operand.dtype) + " v" + n + "[" + count + "];\n    early." + n + ".widened(v" + n +
             ");\n";
    names[operand.value] = "v" + n + (inner == 0 ? "[0]" : "[k]");
  }
  std::string statements = emit_statements(*body.graph, names, {wanted});
  return "struct Source {\n" + emit_pointer_members(loops) + "  const Params& p;\n  bool aligned;\n  I " +
         index_list(loops.sizes.size() - 1) + ";\n  static constexpr I " + last +
         " = 0;\n  template <int V>\n  struct Early {\n" + kept +
         "  };\n  __device__ __forceinline__ void start() {\n" + starts +
         "  }\n  template <int V>\n  __device__ __forceinline__ void fetch(Early<V>& early, I j) const {\n" + fetches +
         "  }\n  template <int V>\n  __device__ __forceinline__ void run(" + compute_type(wanted->type.dtype) +
         " (&x)[V], const Early<V>& early) const {\n" + reads + "#pragma unroll\n    for (int k = 0; k < V; ++k) {\n" +
         statements + "x[k] = " + names.at(wanted) + ";\n    }\n  }\n};\n";
}

std::string emit_pointers(const Node& node, const std::vector<size_t>& packed) {
  std::string text;
  for (size_t i = 0; i < node.inputs().size(); ++i) {
    if (std::find(packed.begin(), packed.end(), i) != packed.end()) continue;
    text += "const " + storage_type(node.input(i)->type.dtype) + "* x" + std::to_string(i) + ", ";
  }
  for (size_t i = 0; i < node.outputs().size(); ++i) {
    text += storage_type(node.output(i)->type.dtype) + "* y" + std::to_string(i) + ", ";
  }
  return text;
}

std::string emit_elements_object(const Loops& loops) {
  return "const Elements elements" + emit_members(loops) + "};\n";
}

std::string emit_source_object(const Loops& loops) {
  return "const Source source" + emit_members(loops) + ", " + index_list(loops.sizes.size() - 1) + "};\n";
}

std::string emit_head(const Loops& loops, const std::vector<std::string>& headers) {
  std::string text = "#include \"types.cuh\"\n#include \"index.cuh\"\n#include \"math.cuh\"\n";
  for (const std::string& header : headers) text += "#include \"" + header + "\"\n";
  return text + "using I = " + loops.index_type() + ";\n";
}

std::string index_list(size_t rank) {
  std::string text;
  for (size_t d = 0; d < rank; ++d) text += (d ? ", i" : "i") + std::to_string(d);
  return text;
}

std::string emit_split(size_t rank) {
  std::string text;
  for (size_t d = rank; d-- > 1;) {
    std::string n = std::to_string(d);
    text += "    I i" + n + "; tw::divide(rest, p.size[" + n + "], rest, i" + n + ");\n";
  }
  return text + "    I i0 = rest;\n";
}

size_t anchor_input(const Body& body, size_t i) {
  const Value* value = body.anchor->input(i);
  expect(value->producer() == nullptr, body.anchor->op() + ": an operand is computed inside the fused body");
  return static_cast<size_t>(value->index());
}

void add_finish_operands(const Node& node, const Body& body, const Dims& order, Loops& loops) {
  const Dims& shape = body.anchor->output()->type.shape;
  for (size_t i = 0; i < node.inputs().size(); ++i) {
    const auto& users = body.graph->inputs()[i]->users();
    bool read = std::any_of(users.begin(), users.end(),
                            [&](const Node* user) { return user != body.anchor && !user->as<Take>(); });
    if (read && !body.is_literal(i)) loops.add_operand(body, node.input(i)->type, i, false, shape, order);
  }
  loops.add_takes(node, body, shape, order);
  for (size_t i = 0; i < node.outputs().size(); ++i) {
    expect(node.output(i)->type.shape == shape, "a result of the fused body has other sizes than its anchor's");
    loops.add_operand(body, node.output(i)->type, i, true, shape, order);
  }
}

bool is_only_taken(const Value* input) {
  const auto& users = input->users();
  return !users.empty() && std::all_of(users.begin(), users.end(), [](const Node* user) { return user->as<Take>(); });
}

std::vector<size_t> packed_inputs_of(const Node& node, const Body& body, const std::vector<size_t>& eaten) {
  std::vector<size_t> packed = body.literals;
  for (size_t i : eaten) {
    expect(node.input(i)->from<Constant>() != nullptr, "weights are not constant");
    expect(body.graph->inputs()[i]->users().size() == 1, "weights are read by more than one node of the body");
    if (!body.is_literal(i)) packed.push_back(i);
  }
  std::sort(packed.begin(), packed.end());
  return packed;
}

void add_index(Arguments& arguments, int64_t number, const std::string& index_type) {
  if (index_type == "int") {
    arguments.add(static_cast<int32_t>(number));
  } else {
    arguments.add(number);
  }
}

void add_size(Arguments& arguments, int64_t size, const std::string& index_type) {
  if (index_type != "int") return arguments.add(size);
  auto divisor = static_cast<uint32_t>(std::max<int64_t>(size, 1));
  uint32_t shift = divisor == 1 ? 0 : 32 - static_cast<uint32_t>(std::countl_zero(divisor - 1));
  uint64_t multiplier = ((uint64_t{1} << 32) * ((uint64_t{1} << shift) - divisor)) / divisor + 1;
  arguments.add(divisor);
  arguments.add(static_cast<uint32_t>(multiplier));
  arguments.add(shift);
}

}  // namespace torchweld::cuda
