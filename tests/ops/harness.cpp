#include "tests/ops/harness.h"

#include <ATen/Context.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/jit/frontend/resolver.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <random>

#include "conversion/convert.h"
#include "runtime/executor.h"

namespace torchweld::test {
namespace {

/// Names that only the Python front end knows, and what TorchScript holds in their place.
constexpr std::pair<std::string_view, const char*> kConstants[] = {
    {"torch.float16", "5"},   {"torch.float32", "6"},       {"torch.float64", "7"},
    {"torch.bfloat16", "15"}, {"torch.int32", "3"},         {"torch.uint8", "0"},
    {"torch.bool", "11"},     {"torch.channels_last", "2"}, {"torch.contiguous_format", "0"}};

double draw(char content, std::mt19937& engine) {
  static const double special[] = {0.0, -0.0, NAN, INFINITY, -INFINITY, 1.0, -2.5, 0.5};
  double uniform = std::uniform_real_distribution<double>(0.0, 1.0)(engine);
  switch (content) {
    case 'p':
      return 0.1 + 3 * uniform;
    case 'u':
      return 0.05 + 0.9 * uniform;
    case 'b':
      return uniform < 0.5 ? 0 : 1;
    case 'i':
      return uniform < 0.5 ? 0 : 1;
    case 'j':
      return std::floor(uniform * 4) - 2;
    case 'h':
      return (uniform < 0.5 ? -1 : 1) * (0.6 + 2 * std::abs(uniform - 0.5));
    case 's':
      return special[static_cast<size_t>(uniform * 8)];
    default:
      return std::normal_distribution<double>(0.0, 1.0)(engine);
  }
}

c10::ScalarType content_dtype(char content, c10::ScalarType dtype) {
  if (content == 'b') return c10::kBool;
  if (content == 'i' || content == 'j') return c10::kLong;
  return content == 'f' ? c10::kFloat : dtype;
}

/// Numbers for a tensor; for integer dtypes small ones, never 0 where the row asks for that.
at::Tensor numbers(const Shape& shape, char content, c10::ScalarType dtype, std::mt19937& engine) {
  at::Tensor result = at::empty(shape, at::TensorOptions(c10::kDouble));
  double* data = result.mutable_data_ptr<double>();
  bool is_integer = c10::isIntegralType(dtype, false);
  for (int64_t i = 0; i < result.numel(); ++i) {
    double number = draw(content, engine);
    if (is_integer && content != 'i' && content != 'j') {
      number = std::isfinite(number) ? std::round(number * 2) : 3;
      if (dtype == c10::kByte || content == 'p') number = std::abs(number);
      if (content == 'h' && number == 0) number = 1;
    }
    if (dtype == c10::kBool) number = number > 0 ? 1 : 0;
    data[i] = number;
  }
  return result.to(dtype);
}

at::Tensor laid_out(const at::Tensor& plain, Layout layout) {
  int64_t rank = plain.dim();
  switch (layout) {
    case Layout::kChannelsLast:
      if (rank == 4) return plain.contiguous(c10::MemoryFormat::ChannelsLast);
      return rank == 5 ? plain.contiguous(c10::MemoryFormat::ChannelsLast3d) : plain;
    case Layout::kTransposed:
      return rank < 2 ? plain : plain.transpose(-1, -2).contiguous().transpose(-1, -2);
    case Layout::kSliced: {
      if (rank == 0) return plain;
      std::vector<int64_t> wide = plain.sizes().vec();
      wide.back() = 2 * wide.back() + 1;
      at::Tensor base = at::zeros(wide, plain.options());
      return base.slice(-1, 1, wide.back(), 2).copy_(plain);
    }
    case Layout::kExpanded:
      return rank == 0 || plain.size(0) == 0 ? plain : plain.slice(0, 0, 1).expand(plain.sizes());
    default:
      return plain;
  }
}

void flatten(const c10::IValue& value, std::vector<at::Tensor>& out) {
  if (value.isTensor()) {
    out.push_back(value.toTensor());
  } else if (value.isTuple()) {
    for (const c10::IValue& element : value.toTupleRef().elements()) flatten(element, out);
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) flatten(element, out);
  }
}

}  // namespace

const char* layout_name(Layout layout) {
  static constexpr const char* kNames[] = {"contiguous", "channels-last", "transposed", "sliced", "expanded"};
  return kNames[static_cast<size_t>(layout)];
}

CompiledCase::CompiledCase(const Case& row) : unit_(std::make_shared<torch::jit::CompilationUnit>()) {
  static const char* const parameters[] = {"", "x", "x, y", "x, y, z", "x, y, z, w"};
  std::string body = row.expression;
  if (body.find("return ") == std::string::npos) body = "return " + body;
  for (auto [word, number] : kConstants) {
    for (size_t at = body.find(word); at != std::string::npos; at = body.find(word, at))
      body.replace(at, word.size(), number);
  }
  std::string source = std::string("def f(") + parameters[row.shapes.at(0).size()] + "):\n  " + body + "\n";
  unit_->define(std::nullopt, source, torch::jit::nativeResolver(), nullptr);
  // Compiles now, so that a mistake in the row shows here.
  unit_->get_function(c10::QualifiedName("f")).ensure_defined();
}

const torch::jit::Graph& CompiledCase::script() const {
  return *torch::jit::toGraphFunction(unit_->get_function(c10::QualifiedName("f"))).graph();
}

std::vector<at::Tensor> CompiledCase::run_eager(const std::vector<at::Tensor>& inputs) const {
  std::vector<c10::IValue> arguments(inputs.begin(), inputs.end());
  std::vector<at::Tensor> results;
  c10::NoGradGuard no_grad;
  flatten(unit_->get_function(c10::QualifiedName("f"))(std::move(arguments)), results);
  return results;
}

std::unique_ptr<Graph> CompiledCase::import(const std::vector<at::Tensor>& inputs) const {
  std::vector<ImportArgument> arguments;
  for (const at::Tensor& tensor : inputs) arguments.emplace_back(type_of(tensor));
  return import_graph(script(), arguments, inputs[0].device());
}

std::vector<at::Tensor> CompiledCase::run_plan(const std::vector<at::Tensor>& inputs) const {
  std::vector<ImportArgument> arguments;
  std::vector<at::Tensor> poison;
  for (const at::Tensor& tensor : inputs) {
    arguments.emplace_back(type_of(tensor));
    // Numbers that steer (indices, masks) stay as they are.
    if (!tensor.is_floating_point()) {
      poison.push_back(tensor);
      continue;
    }
    int64_t reach = type_of(tensor).storage_bytes() / static_cast<int64_t>(tensor.element_size());
    poison.push_back(at::full({reach}, NAN, tensor.options()).as_strided(tensor.sizes(), tensor.strides()));
  }
  // The first offer of each node, without timing; f32 stays f32.
  Options options;
  options.optimization_level = 0;
  options.disable_tf32 = true;
  TimingCache cache;
  c10::Device device = inputs[0].device();
  std::shared_ptr<Plan> plan = convert(script(), arguments, device, options, "case", /*tune=*/false, cache);
  Executor executor(plan, /*cuda_graphs=*/true);
  try {
    executor.run(poison);
  } catch (const c10::Error&) {
    // Some operators raise on NaN, as an inverse does on CUDA.
  }
  return executor.run(inputs);
}

std::vector<c10::Device> devices() {
  std::vector<c10::Device> result{c10::kCPU};
  if (at::hasCUDA()) result.emplace_back(c10::kCUDA, 0);
  return result;
}

std::vector<c10::ScalarType> dtypes_of(const Case& row) {
  using c10::ScalarType;
  static const std::vector<ScalarType> floats{c10::kFloat, c10::kHalf, c10::kBFloat16};
  static const std::vector<ScalarType> integers{c10::kLong, c10::kInt, c10::kByte};
  std::vector<ScalarType> result;
  auto add = [&](const std::vector<ScalarType>& more) { result.insert(result.end(), more.begin(), more.end()); };
  if (row.dtypes == Dtypes::kSingle) return {c10::kFloat};
  if (row.dtypes != Dtypes::kInteger) add(floats);
  if (row.dtypes == Dtypes::kFloating || row.dtypes == Dtypes::kNumber || row.dtypes == Dtypes::kAny)
    add({c10::kDouble});
  if (row.dtypes == Dtypes::kInteger || row.dtypes == Dtypes::kNumber || row.dtypes == Dtypes::kAny) add(integers);
  if (row.dtypes == Dtypes::kAny) add({c10::kBool});
  return result;
}

std::vector<at::Tensor> make_inputs(const Case& row, const std::vector<Shape>& shapes, c10::ScalarType dtype,
                                    Layout layout, c10::Device device) {
  std::mt19937 engine(1234);
  std::string content = row.content;
  content.resize(shapes.size(), 'n');
  std::vector<at::Tensor> inputs;
  for (size_t i = 0; i < shapes.size(); ++i) {
    at::Tensor plain = numbers(shapes[i], content[i], content_dtype(content[i], dtype), engine);
    inputs.push_back(laid_out(plain.to(device), layout));
  }
  return inputs;
}

/// On the CPU: ATen's CUDA code of hardswish and others holds constants in f32 even for f64.
std::vector<at::Tensor> widened(const std::vector<at::Tensor>& inputs) {
  std::vector<at::Tensor> result;
  for (const at::Tensor& tensor : inputs)
    result.push_back(tensor.is_floating_point() ? tensor.to(c10::kCPU, c10::kDouble) : tensor.to(c10::kCPU));
  return result;
}

}  // namespace torchweld::test
