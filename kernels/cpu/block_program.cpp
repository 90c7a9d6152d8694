#include "kernels/cpu/block_program.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <unordered_map>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "core/ops/pointwise.h"
#include "core/ops/shape.h"

namespace torchweld::cpu {
namespace {

/// The node as a body: its own, or a graph of itself alone in which numbers are constants.
std::shared_ptr<const Graph> body_of(const Node& node) {
  if (auto* fused = node.as<Fused>()) {
    expect(anchor_of(*fused) == nullptr, "the body has an anchor");
    return fused->body;
  }
  expect(node.as<Pointwise>() || node.as<Cast>() || node.as<Copy>(), "not a pointwise op");
  auto body = std::make_shared<Graph>();
  std::vector<Value*> inputs;
  for (const Value* v : node.inputs()) {
    Value* input = body->add_input(v->type);
    inputs.push_back(v->from<Constant>() && v->type.rank() == 0 ? body->add(v->producer()->attrs, {}) : input);
  }
  Attrs attrs = node.as<Copy>() ? Attrs(Cast{node.output()->type.dtype}) : node.attrs;
  Value* result = body->add(attrs, inputs);
  result->type = node.output()->type;
  body->add_output(result);
  return body;
}

/// Loops over the result in the order of its memory, neighbours merged where every operand allows it.
class Loops {
 public:
  Loops(const Node& node, const Graph& body) : shape_(node.output()->type.shape) {
    for (const auto& v : node.outputs()) {
      expect(v->type.shape == shape_, "results of several sizes");
      strides_.push_back(v->type.strides);
    }
    for (const auto& v : body.inputs()) strides_.push_back(broadcast_strides(v->type.shape, v->type.strides, shape_));
    collapse();
  }

  Dims sizes;
  /// Strides over the loops: outputs first, then inputs.
  const Dims& strides(size_t operand) const { return collapsed_[operand]; }

 private:
  void collapse() {
    std::vector<size_t> order(shape_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return strides_[0][a] > strides_[0][b]; });
    std::erase_if(order, [&](size_t d) { return shape_[d] == 1; });
    collapsed_.resize(strides_.size());
    for (size_t d : order) {
      bool merges = !sizes.empty();
      for (size_t i = 0; i < strides_.size() && merges; ++i)
        merges = collapsed_[i].back() == strides_[i][d] * shape_[d];
      if (merges) {
        sizes.back() *= shape_[d];
        for (size_t i = 0; i < strides_.size(); ++i) collapsed_[i].back() = strides_[i][d];
      } else {
        sizes.push_back(shape_[d]);
        for (size_t i = 0; i < strides_.size(); ++i) collapsed_[i].push_back(strides_[i][d]);
      }
    }
    if (!sizes.empty()) return;
    sizes.push_back(1);
    for (Dims& strides : collapsed_) strides.push_back(1);
  }

  Dims shape_;
  std::vector<Dims> strides_;
  std::vector<Dims> collapsed_;
};

class Compiler {
 public:
  Compiler(const Node& node, const Graph& body) : node_(node), body_(body), loops_(node, body) {}

  BlockProgram compile() {
    program_.sizes = loops_.sizes;
    for (size_t i = 0; i < body_.inputs().size(); ++i) {
      if (!body_.inputs()[i]->users().empty()) add_input(i);
    }
    for (const auto& node : body_.nodes()) {
      if (!node->as<Constant>()) add_node(*node);
    }
    for (size_t i = 0; i < body_.outputs().size(); ++i) add_output(i);
    assign_buffers();
    program_.block = kBlockBytes / static_cast<int64_t>(largest_element_);
    return std::move(program_);
  }

 private:
  struct Held {
    int reg;
    c10::ScalarType dtype;
    bool single;
  };

  int new_register(c10::ScalarType dtype) {
    largest_element_ = std::max(largest_element_, c10::elementSize(dtype));
    program_.buffers.push_back(0);
    return static_cast<int>(program_.buffers.size()) - 1;
  }

  BlockOperand make_operand(size_t index, size_t slot, c10::ScalarType dtype) {
    BlockOperand operand;
    operand.index = index;
    operand.dtype = dtype;
    operand.strides = loops_.strides(slot);
    Dims dense = contiguous_strides(loops_.sizes);
    operand.flat = same_layout(loops_.sizes, operand.strides, dense);
    operand.single = std::all_of(operand.strides.begin(), operand.strides.end(), [](int64_t s) { return s == 0; });
    operand.reg = new_register(dtype);
    if (operand.flat) program_.buffers[operand.reg] = -1;
    return operand;
  }

  void add_input(size_t i) {
    const TensorType& type = node_.input(i)->type;
    BlockOperand operand = make_operand(i, node_.outputs().size() + i, type.dtype);
    if (operand.flat) operand.single = false;
    Held held{operand.reg, type.dtype, operand.single};
    program_.inputs.push_back(std::move(operand));
    held_[body_.inputs()[i].get()] = to_dtype(held, block_dtype(type.dtype));
  }

  Held to_dtype(Held held, c10::ScalarType dtype) {
    if (held.dtype == dtype) return held;
    BlockFunction cast = find_block_cast(held.dtype, dtype);
    expect(cast != nullptr, "no cast of blocks from " + dtype_name(held.dtype) + " to " + dtype_name(dtype));
    return add_step(cast, {held}, dtype);
  }

  Held add_step(BlockFunction function, const std::vector<Held>& in, c10::ScalarType dtype) {
    BlockProgram::Step step;
    step.function = function;
    bool single = true;
    for (size_t i = 0; i < in.size(); ++i) {
      step.in[i] = in[i].reg;
      single &= in[i].single;
    }
    for (size_t i = in.size(); i < 3; ++i) step.in[i] = in[0].reg;
    step.out = new_register(dtype);
    (single ? program_.once : program_.steps).push_back(step);
    return {step.out, dtype, single};
  }

  Held hold_number(const Value* value, c10::ScalarType dtype) {
    const at::Tensor* constant = constant_of(value);
    expect(constant->numel() == 1, "a constant in the body is no single number");
    c10::Scalar number = constant->item();
    bool integral = number.isIntegral(true);
    int reg = new_register(dtype);
    program_.numbers.push_back({reg, dtype, integral ? static_cast<double>(number.toLong()) : number.toDouble(),
                                integral ? number.toLong() : 0});
    if (!integral) program_.numbers.back().integer = static_cast<int64_t>(number.toDouble());
    return {reg, dtype, true};
  }

  Held operand(const Value* value, c10::ScalarType dtype) {
    return value->from<Constant>() ? hold_number(value, dtype) : to_dtype(held_.at(value), dtype);
  }

  void add_node(const Node& node) {
    c10::ScalarType result = node.output()->type.dtype;
    if (auto* cast = node.as<Cast>()) {
      Held held = operand(node.input(0), block_dtype(node.input(0)->type.dtype));
      held = to_dtype(held, block_dtype(cast->dtype));
      bool rounds =
          block_dtype(result) != result && node.input(0)->type.dtype != result && !node.output()->users().empty();
      // f32 keeps what f16 rounds away: through the narrow form and back.
      if (rounds) held = to_dtype(to_dtype(held, result), block_dtype(result));
      held_[node.output()] = held;
      return;
    }
    auto* op = node.as<Pointwise>();
    expect(op != nullptr, "not a pointwise op: " + node.op());
    c10::ScalarType dtype = block_dtype(operand_dtype(node.input_types()));
    if (find_pointwise(op->fn)->floating_only && c10::isIntegralType(dtype, true)) dtype = c10::kFloat;
    BlockFunction function = find_block_function(op->fn, dtype);
    expect(function != nullptr, op->fn + " of " + dtype_name(dtype) + " has no block function");
    std::vector<Held> in;
    for (size_t i = 0; i < node.inputs().size(); ++i) {
      bool is_condition = op->fn == "where" && i == 0;
      expect(!is_condition || node.input(0)->type.dtype == c10::kBool, "the condition of where is not b8");
      in.push_back(operand(node.input(i), is_condition ? c10::kBool : dtype));
    }
    bool compares = find_pointwise(op->fn)->result == PointwiseFn::Result::kBool;
    held_[node.output()] = add_step(function, in, compares ? c10::kBool : dtype);
  }

  void add_output(size_t i) {
    const TensorType& type = node_.output(i)->type;
    const Value* value = body_.outputs()[i];
    BlockOperand out = make_operand(i, i, type.dtype);
    Held held = operand(value, block_dtype(type.dtype));
    BlockProgram::Step* last = program_.steps.empty() ? nullptr : &program_.steps.back();
    // The step that computes it writes it in place.
    bool taken = std::any_of(program_.outputs.begin(), program_.outputs.end(),
                             [&](const auto& other) { return other.reg == held.reg; });
    if (held.dtype == type.dtype && last && last->out == held.reg && !taken) {
      program_.buffers[held.reg] = program_.buffers[out.reg];
      out.reg = held.reg;
    } else {
      BlockFunction cast = find_block_cast(held.dtype, type.dtype);
      expect(cast != nullptr, "results of " + dtype_name(type.dtype) + " have no block function");
      BlockProgram::Step step;
      step.function = cast;
      for (int& in : step.in) in = held.reg;
      step.out = out.reg;
      program_.steps.push_back(step);
    }
    out.single = false;
    program_.outputs.push_back(std::move(out));
  }

  /// Gives registers their buffers; one is used again when what it held has been read for the last time.
  void assign_buffers() {
    std::map<int, size_t> last_read;
    for (size_t i = 0; i < program_.steps.size(); ++i) {
      for (int in : program_.steps[i].in) last_read[in] = i;
    }
    std::vector<bool> placed(program_.buffers.size(), false);
    std::vector<int> free;
    auto place = [&](int reg) {
      if (placed[reg] || program_.buffers[reg] < 0) return;
      placed[reg] = true;
      if (free.empty()) free.push_back(program_.buffer_count++);
      program_.buffers[reg] = free.back();
      free.pop_back();
    };
    // Filled before the first block, or for each block before the first step, or read after the last.
    std::vector<bool> kept(program_.buffers.size(), false);
    auto keep = [&](int reg) {
      place(reg);
      kept[reg] = true;
    };
    for (const auto& number : program_.numbers) keep(number.reg);
    for (const auto& operand : program_.inputs) keep(operand.reg);
    for (const auto& step : program_.once) keep(step.out);
    for (const auto& operand : program_.outputs) keep(operand.reg);
    for (size_t i = 0; i < program_.steps.size(); ++i) {
      const auto& step = program_.steps[i];
      place(step.out);
      for (int in : std::vector<int>(std::begin(step.in), std::end(step.in))) {
        bool done = last_read[in] == i && !kept[in] && program_.buffers[in] >= 0;
        if (!done) continue;
        kept[in] = true;  // freed once
        free.push_back(program_.buffers[in]);
      }
    }
  }

  const Node& node_;
  const Graph& body_;
  Loops loops_;
  BlockProgram program_;
  std::unordered_map<const Value*, Held> held_;
  size_t largest_element_ = 4;
};

}  // namespace

BlockProgram compile_blocks(const Node& node) {
  std::shared_ptr<const Graph> body = body_of(node);
  return Compiler(node, *body).compile();
}

}  // namespace torchweld::cpu
