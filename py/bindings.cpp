// The Python module torchweld._C: the public C++ interface (runtime/torchweld.h), its types translated and nothing
// more. What users call is py/torchweld.

#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/jit/python/pybind_utils.h>
#include <torch/csrc/utils/pybind.h>

#include <unordered_map>

#include "core/environment.h"
#include "core/error.h"
#include "core/options.h"
#include "runtime/background.h"
#include "runtime/torchweld.h"
#include "runtime/unit_lock.h"

namespace py = pybind11;

namespace torchweld {
namespace {

using torch::jit::Module;

// An exception of Python that travels through C++ code that runs without the interpreter lock.
class PythonException : public std::exception {
 public:
  explicit PythonException(py::error_already_set error)
      : error_(std::make_shared<py::error_already_set>(std::move(error))) {}
  const char* what() const noexcept override { return "exception in Python"; }
  py::error_already_set& error() const { return *error_; }

 private:
  std::shared_ptr<py::error_already_set> error_;
};

const c10::FunctionSchema& schema_of(const Module& module, const std::string& method) {
  auto found = module.find_method(method);
  if (!found) throw Error("methods: the module has no method '" + method + "'; name methods that it has");
  return found->function().getSchema();
}

// Arguments of a method, in the order of its schema, without self; absent ones have their defaults.
std::vector<c10::IValue> bind_arguments(const Module& module, const std::string& method, const py::tuple& args,
                                        const py::dict& kwargs) {
  const c10::FunctionSchema& schema = schema_of(module, method);
  try {
    auto stack = torch::jit::createStackForSchema(schema, torch::jit::tuple_slice(args),
                                                  py::reinterpret_borrow<py::kwargs>(kwargs), module._ivalue());
    return {stack.begin() + 1, stack.end()};
  } catch (const torch::jit::schema_match_error& error) {
    throw Error("inputs: they do not fit the arguments of " + method +
                "(); give one entry for each argument, in order: " + error.what());
  }
}

void collect_tensors(const c10::IValue& value, std::vector<at::Tensor>& out) {
  if (value.isTensor()) {
    out.push_back(value.toTensor());
  } else if (value.isTuple()) {
    for (const auto& element : value.toTupleRef().elements()) collect_tensors(element, out);
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) collect_tensors(element, out);
  } else if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) collect_tensors(entry.value(), out);
  }
}

// `placeholders[i]` stands in args and kwargs where `inputs[i]` belongs.
Signature make_signature(const Module& module, const std::string& method, const py::tuple& args, const py::dict& kwargs,
                         const std::vector<Input>& inputs, const std::vector<at::Tensor>& placeholders) {
  std::unordered_map<const void*, size_t> index;
  for (size_t i = 0; i < placeholders.size(); ++i) index.emplace(placeholders[i].unsafeGetTensorImpl(), i);
  Signature signature;
  signature.arguments = bind_arguments(module, method, args, kwargs);
  std::vector<at::Tensor> tensors;
  for (const auto& argument : signature.arguments) collect_tensors(argument, tensors);
  for (const at::Tensor& tensor : tensors) {
    auto found = index.find(tensor.unsafeGetTensorImpl());
    // A tensor that is the default of an argument.
    signature.inputs.push_back(found == index.end() ? Input::from_tensor(tensor) : inputs.at(found->second));
  }
  return signature;
}

// Reports to `callback` (which may be None) and lets Ctrl-C end the compilation.
Progress make_progress(const py::object& callback) {
  return [&callback](const std::string& what, double share) {
    py::gil_scoped_acquire lock;
    try {
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (!callback.is_none()) callback(what, share);
    } catch (py::error_already_set& error) {
      throw PythonException(std::move(error));
    }
  };
}

// Runs `work` without the interpreter lock. What it warns of becomes warnings of Python when it has ended.
template <class F>
auto without_lock(const F& work) {
  torch::PyWarningHandler warnings;
  try {
    py::gil_scoped_release unlock;
    return work();
  } catch (...) {
    warnings.set_in_exception();
    throw;
  }
}

Module compile_module(const Module& module, const py::tuple& args, const py::dict& kwargs,
                      const std::vector<Input>& inputs, const std::vector<at::Tensor>& placeholders,
                      const Options& options, const py::object& progress) {
  Signature signature = make_signature(module, options.methods.at(0), args, kwargs, inputs, placeholders);
  Progress report = make_progress(progress);
  return without_lock([&] { return compile(module, signature, options, report); });
}

Report dry_run_module(const Module& module, const py::tuple& args, const py::dict& kwargs,
                      const std::vector<Input>& inputs, const std::vector<at::Tensor>& placeholders,
                      const Options& options) {
  Signature signature = make_signature(module, options.methods.at(0), args, kwargs, inputs, placeholders);
  return without_lock([&] { return dry_run(module, signature, options); });
}

void warm_up_module(Module& module, const py::tuple& args, const py::dict& kwargs) {
  auto arguments = bind_arguments(module, "forward", args, kwargs);
  without_lock([&] { warm_up(module, std::move(arguments)); });
}

// A module whose forward() is the function.
Module module_of_function(const torch::jit::StrongFunctionPtr& function) {
  Module module("__torch__." + function.function_->name());
  auto graph = torch::jit::toGraphFunction(*function.function_).graph()->copy();
  graph->insertInput(0, "self")->setType(module._ivalue()->type());
  const c10::FunctionSchema& schema = function.function_->getSchema();
  std::vector<c10::Argument> arguments = {c10::Argument("self", module._ivalue()->type())};
  arguments.insert(arguments.end(), schema.arguments().begin(), schema.arguments().end());
  auto* method = module._ivalue()->compilation_unit()->create_function(
      c10::QualifiedName(*module.type()->name(), "forward"), std::move(graph));
  method->setSchema(c10::FunctionSchema("forward", "", std::move(arguments), schema.returns()));
  module.type()->addMethod(method);
  return module;
}

void bind_errors(py::module_& m) {
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const PythonException& error) {
      error.error().restore();
    } catch (python_error& error) {  // a warning that Python was told to raise
      error.restore();
    } catch (const UnavailableError& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
    } catch (const Error& error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    }
  });
  m.def("environment_table", [] {
    std::vector<std::tuple<std::string, std::string, std::string>> rows;
    for (const auto& row : environment_table()) rows.emplace_back(row.name, row.meaning, row.fallback);
    return rows;
  });
}

void bind_inputs(py::module_& m) {
  py::class_<Input>(m, "Input")
      .def(py::init<>())
      .def_readwrite("min_shape", &Input::min_shape)
      .def_readwrite("opt_shape", &Input::opt_shape)
      .def_readwrite("max_shape", &Input::max_shape)
      .def_readwrite("dtype", &Input::dtype)
      .def_readwrite("channels_last", &Input::channels_last)
      .def_readwrite("name", &Input::name)
      .def_property(
          "example", [](const Input& input) { return input.example; },
          [](Input& input, const at::Tensor& tensor) { input.example = tensor; });

  py::class_<Options> options(m, "Options");
  options.def(py::init<>()).def("__repr__", [](const Options& o) { return print_fields(o); });
  options.def_readwrite("enabled_precisions", &Options::enabled_precisions)
      .def_readwrite("device", &Options::device)
      .def_readwrite("min_block_size", &Options::min_block_size)
      .def_readwrite("require_full_compilation", &Options::require_full_compilation)
      .def_readwrite("torch_executed_ops", &Options::torch_executed_ops)
      .def_readwrite("torch_executed_modules", &Options::torch_executed_modules)
      .def_readwrite("truncate_long_and_double", &Options::truncate_long_and_double)
      .def_readwrite("disable_tf32", &Options::disable_tf32)
      .def_readwrite("workspace_size", &Options::workspace_size)
      .def_readwrite("optimization_level", &Options::optimization_level)
      .def_readwrite("timing_cache", &Options::timing_cache)
      .def_readwrite("outside_range", &Options::outside_range)
      .def_readwrite("max_cached_plans", &Options::max_cached_plans)
      .def_readwrite("cuda_graphs", &Options::cuda_graphs)
      .def_readwrite("methods", &Options::methods);
}

void bind_report(py::module_& m) {
  py::class_<EngineReport::Step>(m, "Step")
      .def_readonly("op", &EngineReport::Step::op)
      .def_readonly("tactic", &EngineReport::Step::tactic)
      .def_readonly("source", &EngineReport::Step::source)
      .def_readonly("microseconds", &EngineReport::Step::microseconds)
      .def_readonly("flops", &EngineReport::Step::flops)
      .def_readonly("bytes", &EngineReport::Step::bytes)
      .def_readonly("weight_bytes", &EngineReport::Step::weight_bytes);
  py::class_<EngineReport>(m, "Engine")
      .def_readonly("name", &EngineReport::name)
      .def_readonly("precision", &EngineReport::precision)
      .def_readonly("inputs", &EngineReport::inputs)
      .def_readonly("outputs", &EngineReport::outputs)
      .def_readonly("launches", &EngineReport::launches)
      .def_readonly("streams", &EngineReport::streams)
      .def_readonly("not_recorded", &EngineReport::not_recorded)
      .def_readonly("steps", &EngineReport::steps)
      .def_readonly("arena_bytes", &EngineReport::arena_bytes)
      .def_readonly("constant_bytes", &EngineReport::constant_bytes);
  py::class_<Fallback>(m, "Fallback")
      .def_readonly("op", &Fallback::op)
      .def_readonly("reason", &Fallback::reason)
      .def_readonly("source", &Fallback::source);
  py::class_<Separation>(m, "Separation")
      .def_readonly("first", &Separation::first)
      .def_readonly("second", &Separation::second)
      .def_readonly("because", &Separation::because)
      .def_readonly("settings", &Separation::settings);
  py::class_<SmallerBlocks>(m, "SmallerBlocks")
      .def_readonly("min_block_size", &SmallerBlocks::min_block_size)
      .def_readonly("operations", &SmallerBlocks::operations)
      .def_readonly("left", &SmallerBlocks::left);
  py::class_<Report>(m, "Report")
      .def_readonly("engines", &Report::engines)
      .def_readonly("fallbacks", &Report::fallbacks)
      .def_readonly("unreached", &Report::unreached)
      .def_readonly("operations", &Report::operations)
      .def_readonly("operations_in_engines", &Report::operations_in_engines)
      .def_readonly("flops", &Report::flops)
      .def_readonly("flops_in_engines", &Report::flops_in_engines)
      .def_readonly("separations", &Report::separations)
      .def_readonly("min_block_size", &Report::min_block_size)
      .def_readonly("smaller_blocks", &Report::smaller_blocks)
      .def_property_readonly("text", &Report::text)
      .def("to_json", &Report::json)
      .def("__str__", &Report::text);
}

}  // namespace
}  // namespace torchweld

PYBIND11_MODULE(_C, m) {
  using namespace torchweld;
  set_unit_lock([] { return std::make_shared<py::gil_scoped_acquire>(); });
  bind_errors(m);
  bind_inputs(m);
  bind_report(m);
  m.def("compile", &compile_module);
  m.def("dry_run", &dry_run_module);
  m.def("explain", [](const Module& module) { return without_lock([&] { return explain(module); }); });
  m.def("warm_up", &warm_up_module);
  m.def("finish_planning", [] { return Background::get().finish(); }, py::call_guard<py::gil_scoped_release>());
  m.def("stop_planning", [] { Background::get().stop(); }, py::call_guard<py::gil_scoped_release>());
  m.attr("has_cuda") = has_cuda();
  m.def("module_of_function", &module_of_function);
}
