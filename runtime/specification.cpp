#include "runtime/specification.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>

#include <unordered_map>
#include <unordered_set>

#include "conversion/import.h"
#include "core/error.h"
#include "runtime/unit_lock.h"

#ifdef TORCHWELD_WITH_CUDA
#include <ATen/cuda/CUDAContext.h>
#endif

namespace torchweld {

namespace jit = torch::jit;

namespace {

std::string describe(const Input& input, size_t index) {
  return input.name.empty() ? "input " + std::to_string(index)
                            : "input " + std::to_string(index) + " (" + input.name + ")";
}

void check_input(const Input& input, size_t index) {
  std::string name = describe(input, index);
  size_t rank = input.opt_shape.size();
  if (input.min_shape.size() != rank || input.max_shape.size() != rank) {
    throw Error(name + ": min_shape " + to_string(input.min_shape) + ", opt_shape " + to_string(input.opt_shape) +
                " and max_shape " + to_string(input.max_shape) + " must have the same number of dimensions");
  }
  constexpr double kMostElements = 0x1p56;
  double elements = 1;
  for (int64_t size : input.max_shape) elements *= static_cast<double>(size);
  if (elements > kMostElements) throw Error(name + ": no memory holds max_shape " + to_string(input.max_shape));
  for (size_t d = 0; d < rank; ++d) {
    std::string where = name + ", dimension " + std::to_string(d) + ": ";
    int64_t low = input.min_shape[d];
    int64_t opt = input.opt_shape[d];
    int64_t high = input.max_shape[d];
    if (low < 1 || opt < 1 || high < 1) {
      throw Error(where + "size " + std::to_string(std::min({low, opt, high})) +
                  " is not allowed; sizes start at 1 (tensors without elements run in LibTorch at call time)");
    }
    if (low > high) {
      throw Error(where + "min " + std::to_string(low) + " is larger than max " + std::to_string(high) + "; swap them");
    }
    if (opt < low || opt > high) {
      throw Error(where + "opt " + std::to_string(opt) + " is outside the range " + std::to_string(low) + ".." +
                  std::to_string(high) + "; choose opt_shape between min_shape and max_shape");
    }
  }
}

c10::Device device_of(const jit::Module& module, const Signature& signature, const Options& options) {
  std::optional<c10::Device> weights;
  for (const auto& parameter : module.parameters()) {
    if (!weights) weights = parameter.device();
  }
  for (const auto& buffer : module.buffers()) {
    if (!weights) weights = buffer.device();
  }
  for (const Input& input : signature.inputs) {
    if (!weights && input.example.defined()) weights = input.example.device();
  }
  c10::Device device = weights.value_or(c10::Device(c10::kCPU));
  if (!options.device.empty()) {
    try {
      device = c10::Device(options.device);
    } catch (const c10::Error&) {
      throw Error("device \"" + options.device + "\" is unknown; use \"cpu\" or \"cuda:0\"");
    }
  }
  if (device.is_cuda() && !device.has_index()) device.set_index(0);
  if (!device.is_cpu() && !device.is_cuda()) {
    throw Error("device \"" + device.str() + "\" is not supported; use a CPU or CUDA device");
  }
#ifndef TORCHWELD_WITH_CUDA
  if (device.is_cuda()) {
    throw UnavailableError("this build of Torchweld has no CUDA part; build it against a CUDA build of LibTorch");
  }
#endif
  if (weights && *weights != device) {
    throw Error("the module's weights are on " + weights->str() + " but device is \"" + device.str() +
                "\"; move the module first: module.to(\"" + device.str() + "\")");
  }
  return device;
}

void check_precisions(const Options& options, c10::Device device) {
#ifdef TORCHWELD_WITH_CUDA
  if (!device.is_cuda()) return;
  const cudaDeviceProp* properties = at::cuda::getDeviceProperties(device.index());
  for (c10::ScalarType dtype : options.enabled_precisions) {
    if (dtype == c10::kBFloat16 && properties->major < 8) {
      throw UnavailableError(std::string("enabled_precisions asks for bfloat16, which ") + properties->name +
                             " lacks; use torch.half or torch.float32");
    }
  }
#else
  (void)options;
  (void)device;
#endif
}

c10::ScalarType default_dtype(const jit::Module& module) {
  for (const auto& parameter : module.parameters()) {
    if (parameter.is_floating_point()) return parameter.scalar_type();
  }
  return c10::kFloat;
}

at::Tensor meta_tensor(const Input& input, const Dims& shape, c10::ScalarType otherwise) {
  Dims strides = input.channels_last ? channels_last_strides(shape) : contiguous_strides(shape);
  if (input.example.defined() && shape == input.example.sizes().vec()) strides = input.example.strides().vec();
  return at::empty_strided(shape, strides, at::TensorOptions(input.dtype.value_or(otherwise)).device(c10::kMeta));
}

std::vector<c10::IValue> arguments_at(const c10::FunctionSchema& schema, const Signature& signature,
                                      const std::vector<at::Tensor>& tensors) {
  auto next = tensors.begin();
  auto give_next = [&](const at::Tensor&) {
    if (next == tensors.end()) throw Error("there are more tensors in the arguments than Inputs; describe each tensor");
    return *next++;
  };
  std::vector<c10::IValue> arguments;
  for (const c10::IValue& value : signature.arguments) arguments.push_back(with_tensors(value, give_next));
  size_t expected = schema.arguments().size() - 1;  // without self
  if (arguments.size() > expected) {
    throw Error(schema.name() + "() takes " + std::to_string(expected) + " argument" + (expected == 1 ? "" : "s") +
                ", but " + std::to_string(arguments.size()) + " inputs are given");
  }
  for (size_t i = arguments.size(); i < expected; ++i) {
    const c10::Argument& formal = schema.arguments()[i + 1];
    if (!formal.default_value()) {
      throw Error(schema.name() + "() needs the argument '" + formal.name() + "' of type " + formal.type()->str() +
                  ", for which no input is given; add one to inputs");
    }
    arguments.push_back(*formal.default_value());
  }
  for (size_t i = 0; i < expected; ++i) {
    const c10::Argument& formal = schema.arguments()[i + 1];
    if (arguments[i].type()->isSubtypeOf(*formal.type())) continue;
    bool list_of_tuple = arguments[i].isTuple() && formal.type()->kind() == c10::TypeKind::ListType;
    throw Error("argument '" + formal.name() + "' of " + schema.name() + "() is a " + formal.type()->str() +
                ", but the input given for it is a " + arguments[i].type()->str() +
                (list_of_tuple ? "; pass a list instead of a tuple" : "; give an input of that type"));
  }
  return arguments;
}

/// A tensor with its own copy of the memory, which `copies` holds for all tensors that look into it.
at::Tensor copy_in_shared_memory(const at::Tensor& tensor, std::unordered_map<const void*, at::Tensor>& copies) {
  at::Tensor& bytes = copies[tensor.storage().unsafeGetStorageImpl()];
  if (!bytes.defined()) {
    auto size = static_cast<int64_t>(tensor.storage().nbytes());
    bytes = at::empty({0}, tensor.options().dtype(c10::kByte)).set_(tensor.storage(), 0, {size}, {1}).clone();
  }
  return at::empty({0}, tensor.options())
      .set_(bytes.storage(), tensor.storage_offset(), tensor.sizes(), tensor.strides());
}

/// Copies of all tensors of a module: one for each tensor, and tensors that share memory still do.
c10::IValue::HashIdentityIValueMap copy_tensors(const jit::Module& module) {
  std::vector<at::Tensor> tensors;
  std::unordered_set<const void*> seen;
  std::unordered_map<const void*, int> users;
  c10::IValue(module._ivalue()).visit([&](const c10::IValue& value) {
    if (value.isTensor() && value.toTensor().defined() && seen.insert(value.toTensor().unsafeGetTensorImpl()).second) {
      tensors.push_back(value.toTensor());
      if (value.toTensor().has_storage()) ++users[value.toTensor().storage().unsafeGetStorageImpl()];
    }
    return false;
  });
  c10::IValue::HashIdentityIValueMap copies;
  std::unordered_map<const void*, at::Tensor> memory;
  for (const at::Tensor& tensor : tensors) {
    bool shares = tensor.has_storage() && !tensor.is_quantized() && !tensor.is_meta() &&
                  users.at(tensor.storage().unsafeGetStorageImpl()) > 1;
    at::Tensor copy = shares ? copy_in_shared_memory(tensor, memory) : tensor.detach().clone();
    copies[tensor] = copy.set_requires_grad(tensor.requires_grad());
  }
  return copies;
}

}  // namespace

Input::Input(Dims shape, std::optional<c10::ScalarType> type)
    : min_shape(shape), opt_shape(shape), max_shape(std::move(shape)), dtype(type) {}

Input::Input(Dims low, Dims opt, Dims high, std::optional<c10::ScalarType> type)
    : min_shape(std::move(low)), opt_shape(std::move(opt)), max_shape(std::move(high)), dtype(type) {}

Input Input::from_tensor(const at::Tensor& tensor) {
  Input input(tensor.sizes().vec(), tensor.scalar_type());
  input.example = tensor;
  return input;
}

Signature Signature::of(std::vector<Input> inputs) {
  Signature signature;
  for (size_t i = 0; i < inputs.size(); ++i) signature.arguments.emplace_back(at::Tensor());
  signature.inputs = std::move(inputs);
  return signature;
}

Specification specify(const jit::Module& module, const std::string& method, const Signature& signature,
                      const Options& options) {
  if (!module.find_method(method)) {
    throw Error("the module has no method '" + method + "'; name one that it has in methods");
  }
  for (size_t i = 0; i < signature.inputs.size(); ++i) check_input(signature.inputs[i], i);
  Specification result;
  result.device = device_of(module, signature, options);
  check_precisions(options, result.device);
  c10::ScalarType otherwise = default_dtype(module);
  const c10::FunctionSchema& schema = module.get_method(method).function().getSchema();
  bool has_range = false;
  for (const Input& input : signature.inputs) has_range = has_range || input.min_shape != input.max_shape;
  for (Dims Input::* shape : {&Input::opt_shape, &Input::min_shape, &Input::max_shape}) {
    std::vector<at::Tensor> tensors;
    for (const Input& input : signature.inputs) tensors.push_back(meta_tensor(input, input.*shape, otherwise));
    result.arguments.push_back(arguments_at(schema, signature, tensors));
    if (!has_range) break;
  }
  return result;
}

jit::Module clone_for_inference(const jit::Module& module) {
  if (!module.type()->getForwardPreHooks().empty() || !module.type()->getForwardHooks().empty()) {
    throw Error(
        "the module has forward hooks, which would be lost: they are no part of its forward(); script a module "
        "that calls this one, and compile that");
  }
  // Ordinary tensors without a history, whatever mode the caller is in: a history would keep the originals alive.
  c10::NoGradGuard no_grad;
  c10::InferenceMode ordinary(false);
  c10::IValue::HashIdentityIValueMap copies = copy_tensors(module);
  auto types_of_its_own = [&module] {
    std::shared_ptr<void> lock = lock_units();
    return module.clone(/*inplace=*/true);  // the module's values
  };
  jit::Module copy = types_of_its_own();
  for (const jit::Module& part : copy.modules()) {
    for (size_t slot = 0; slot < part.type()->numAttributes(); ++slot) {
      c10::IValue value = part._ivalue()->getSlot(slot);
      if (!value.isModule()) part._ivalue()->setSlot(slot, value.deepcopy(copies));
    }
  }
  bool in_training = false;
  for (const jit::Module& part : copy.modules()) {
    // Functions and frozen modules have no mode, which is_training() takes for training.
    in_training = in_training || (part.hasattr("training") && part.is_training());
  }
  if (in_training) {
    TORCH_WARN("torchweld: the module is in training mode; it is compiled as in eval mode. Call module.eval() first.");
    copy.eval();
  }
  return copy;
}

}  // namespace torchweld
