#include "kernels/cuda/codegen.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/ops/index.h"

namespace torchweld::cuda {
namespace {

/// Strides of a tensor as it is seen from a domain of sizes `shape` whose dimension order[i] is loop i.
Dims strides_in(const TensorType& type, bool output, const Dims& shape, const Dims& order) {
  expect(type.shape.size() <= shape.size(), "an operand has more dimensions than the result");
  size_t lead = shape.size() - type.shape.size();
  Dims strides(shape.size(), 0);
  for (size_t i = 0; i < type.shape.size(); ++i) {
    bool fits = type.shape[i] == shape[lead + i];
    expect(fits || (type.shape[i] == 1 && !output),
           "an operand of sizes " + to_string(type.shape) + " does not broadcast to " + to_string(shape));
    // A dimension of size 1 keeps its stride, so that code does not depend on whether a size happens to be 1.
    if (fits) strides[lead + i] = type.strides[i];
  }
  Dims ordered;
  for (int64_t d : order) ordered.push_back(strides[d]);
  return ordered;
}

/// Adds `value` and what it is computed from, as far as nothing in `given` is, and takes are read like operands.
void add_sources(const Value* value, const std::vector<const Value*>& given, std::vector<const Value*>& found) {
  if (std::find(found.begin(), found.end(), value) != found.end()) return;
  if (std::find(given.begin(), given.end(), value) != given.end()) return;
  found.push_back(value);
  if (!value->producer() || value->from<Take>()) return;
  for (const Value* input : value->producer()->inputs()) add_sources(input, given, found);
}

}  // namespace

const Operand& Loops::named(const std::string& name) const {
  auto found =
      std::find_if(operands.begin(), operands.end(), [&](const Operand& operand) { return operand.name == name; });
  check(found != operands.end(), "no operand " + name);
  return *found;
}

void Loops::add_operand(const Body& body, const TensorType& type, size_t index, bool output, const Dims& shape,
                        const Dims& order) {
  Operand operand;
  operand.name = (output ? "y" : "x") + std::to_string(index);
  operand.value = output ? body.graph->outputs()[index] : body.graph->inputs()[index].get();
  operand.dtype = type.dtype;
  operand.output = output;
  operand.strides = strides_in(type, output, shape, order);
  if (sizes.empty()) {
    for (int64_t d : order) sizes.push_back(shape[d]);
  }
  operands.push_back(std::move(operand));
}

void Loops::add_takes(const Node& node, const Body& body, const Dims& shape, const Dims& order) {
  size_t count = 0;
  for (const auto& inner : body.graph->nodes()) {
    auto* take = inner->as<Take>();
    if (!take) continue;
    expect(!inner->input(0)->producer() && !inner->input(1)->producer(),
           "take: an operand is computed inside the body");
    size_t table_input = inner->input(0)->index();
    size_t index_input = inner->input(1)->index();
    const TensorType& table = node.input(table_input)->type;
    const TensorType& index = node.input(index_input)->type;
    // Both as if they had the sizes of the result: along dimensions of the index the table stands still, and vice
    // versa.
    TensorType rows = contiguous_type(table.dtype, inner->output()->type.shape, table.device);
    TensorType numbers = rows;
    for (int64_t d = 0; d < rows.rank(); ++d) {
      int64_t inside = d - take->axis;
      bool picks = inside >= 0 && inside < index.rank();
      numbers.strides[d] = picks ? index.strides[inside] : 0;
      rows.strides[d] = picks ? 0 : table.strides[d < take->axis ? d : d - index.rank() + 1];
    }
    std::string number = std::to_string(count++);
    Operand of_index{.name = "n" + number,
                     .pointer = "x" + std::to_string(index_input),
                     .dtype = index.dtype,
                     .strides = strides_in(numbers, false, shape, order)};
    Operand of_table{.name = "t" + number,
                     .pointer = "x" + std::to_string(table_input),
                     .value = inner->output(),
                     .dtype = table.dtype,
                     .strides = strides_in(rows, false, shape, order)};
    of_table.rows = PickedRows{of_index.name, table.shape[take->axis], table.strides[take->axis], take->wraps};
    operands.push_back(std::move(of_index));
    operands.push_back(std::move(of_table));
  }
}

void Loops::collapse(size_t fixed) {
  auto lead = std::find_if(operands.begin(), operands.end(), [](const Operand& operand) { return operand.output; });
  check(lead != operands.end(), "loops without an output");
  std::vector<size_t> order;
  size_t free = sizes.size() - fixed;
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (d == 0 || d >= free || sizes[d] != 1) order.push_back(d);
  }
  fixed_loops = fixed;
  Dims by = lead->strides;
  std::stable_sort(order.begin(), order.end() - static_cast<std::ptrdiff_t>(fixed),
                   [&](size_t a, size_t b) { return by[a] > by[b]; });
  auto permuted = [&](const Dims& dims) {
    Dims result;
    for (size_t i : order) result.push_back(dims[i]);
    return result;
  };
  sizes = permuted(sizes);
  for (Operand& operand : operands) operand.strides = permuted(operand.strides);
  for (size_t d = sizes.size(); d-- > 1;) {
    if (d == sizes.size() - fixed_loops) continue;
    bool merges = std::all_of(operands.begin(), operands.end(), [&](const Operand& operand) {
      return operand.strides[d - 1] == operand.strides[d] * sizes[d];
    });
    if (!merges) continue;
    if (d > sizes.size() - fixed_loops) --fixed_loops;
    sizes[d - 1] *= sizes[d];
    sizes.erase(sizes.begin() + static_cast<std::ptrdiff_t>(d));
    for (Operand& operand : operands)
      operand.strides.erase(operand.strides.begin() + static_cast<std::ptrdiff_t>(d) - 1);
  }
  if (sizes.size() == fixed_loops) {
    sizes.insert(sizes.begin(), 1);
    for (Operand& operand : operands) operand.strides.insert(operand.strides.begin(), operand.output && !fixed ? 1 : 0);
  }
  for (const Operand& operand : operands) {
    if (operand.rows)
      expect(named(operand.rows->numbers).strides.back() == 0, "take: neighbours lie in different rows");
  }
}

Loops Loops::only_for(const std::vector<const Value*>& wanted, const std::vector<const Value*>& given) const {
  std::vector<const Value*> sources;
  for (const Value* value : wanted) add_sources(value, given, sources);
  Loops some = *this;
  some.operands.clear();
  for (const Operand& operand : operands) {
    const std::vector<const Value*>& among = operand.output ? wanted : sources;
    if (std::find(among.begin(), among.end(), operand.value) == among.end()) continue;
    if (operand.rows) some.operands.push_back(named(operand.rows->numbers));
    some.operands.push_back(operand);
  }
  return some;
}

void Loops::choose_width(int most, bool partial_end) {
  size_t smallest = 8;
  for (const Operand& operand : operands) smallest = std::min(smallest, c10::elementSize(operand.dtype));
  size_t inner = sizes.size() - 1;
  auto fits = [&](int64_t w) {
    if (!partial_end && sizes[inner] % w != 0) return false;
    return std::all_of(operands.begin(), operands.end(), [&](const Operand& operand) {
      if (operand.output && operand.strides[inner] != 1) return false;
      if (operand.strides[inner] != 1) return true;
      for (size_t d = 0; d < inner; ++d) {
        if (operand.strides[d] % w != 0) return false;
      }
      return !operand.rows || operand.rows->stride % w == 0;
    });
  };
  width = std::min<int>(most, std::min<int>(8, static_cast<int>(16 / smallest)));
  while (width > 1 && !fits(width)) width /= 2;
}

int64_t Loops::positions() const {
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

std::string Loops::index_type() const {
  constexpr int64_t kMost = int64_t{1} << 30;
  if (positions() >= kMost || other_extent >= kMost) return "long long";
  auto too_far = [&](const Dims& strides) {
    int64_t extent = 0;
    for (size_t d = 0; d < sizes.size() && d < strides.size(); ++d) extent += (sizes[d] - 1) * strides[d];
    return extent >= kMost;
  };
  for (const Operand& operand : operands) {
    bool far_rows = operand.rows && operand.rows->count * operand.rows->stride >= kMost;
    if (far_rows || too_far(operand.strides)) return "long long";
  }
  return "int";
}

std::string Loops::parameter_members() const {
  std::string text;
  for (const Operand& operand : operands) {
    text += "  I " + operand.name + "[" + std::to_string(operand.strides.size()) + "];\n";
    if (operand.rows) text += "  I " + operand.name + "_rows;\n  I " + operand.name + "_stride;\n";
  }
  return text;
}

void Loops::add_arguments(Arguments& arguments) const {
  std::string type = index_type();
  for (const Operand& operand : operands) {
    for (int64_t stride : operand.strides) add_index(arguments, stride, type);
    if (!operand.rows) continue;
    add_index(arguments, operand.rows->count, type);
    add_index(arguments, operand.rows->stride, type);
  }
}

}  // namespace torchweld::cuda
