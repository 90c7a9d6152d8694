#include "core/ops/aten.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>

#include "core/error.h"
#include "core/ops/aten_types.h"
#include "core/ops/layout.h"

namespace torchweld {
namespace {

constexpr std::string_view kPlace = "$";  // stands where the call has a tensor

std::optional<c10::OperatorHandle> find_operator(const std::string& op) {
  size_t name_start = op.find("::");
  size_t dot = op.find('.', name_start == std::string::npos ? 0 : name_start);
  std::string overload = dot == std::string::npos ? "" : op.substr(dot + 1);
  return c10::Dispatcher::singleton().findSchema({op.substr(0, dot), overload});
}

const c10::OperatorHandle operator_named(const std::string& op) {
  auto found = find_operator(op);
  expect(found.has_value(), [&] { return op + " is not an operator of this LibTorch"; });
  return *found;
}

bool gives_tensors(const c10::Argument& result) {
  const c10::Type& type = *result.type();
  if (type.kind() == c10::TypeKind::TensorType) return true;
  return type.kind() == c10::TypeKind::ListType &&
         type.castRaw<c10::ListType>()->getElementType()->kind() == c10::TypeKind::TensorType;
}

/// True for an argument that decides whether random numbers are drawn or statistics are updated.
bool is_training_argument(const std::string& name) {
  return name == "train" || name == "training" || name == "is_training" || name == "use_input_stats";
}

bool is_dropout_argument(const std::string& name) { return name == "dropout_p" || name == "dropout"; }

bool has_mode_argument(const c10::FunctionSchema& schema) {
  return std::any_of(schema.arguments().begin(), schema.arguments().end(), [](const c10::Argument& argument) {
    return is_training_argument(argument.name()) || is_dropout_argument(argument.name());
  });
}

/// Operators that LibTorch does not tag as random or as of data-dependent size, though they are.
bool is_known_exception(const std::string& name) {
  static constexpr std::array kNames{"aten::where",
                                     "aten::nonzero_numpy",
                                     "aten::argwhere",
                                     "aten::unique_consecutive",
                                     "aten::combinations",
                                     "aten::gumbel_softmax",
                                     "aten::_pack_padded_sequence",
                                     "aten::masked_select_backward",
                                     "aten::item",
                                     "torchvision::nms",
                                     "aten::nested_tensor",
                                     "aten::cartesian_prod",
                                     "aten::set",
                                     "aten::resize",
                                     "aten::rrelu"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

/// `value` as an element of a typed list.
template <class T>
c10::IValue typed_list(const c10::IValue& value, T (c10::IValue::*read)() const) {
  c10::List<T> list;
  for (const c10::IValue& element : value.toListRef()) list.push_back((element.*read)());
  return list;
}

/// Puts inputs into the places of "$", and gives lists the element type that the schema wants.
class Filler {
 public:
  explicit Filler(Tensors inputs) : inputs_(inputs) {}

  c10::IValue fill(const c10::IValue& value, const c10::Type& type) {
    if (value.isString() && value.toStringRef() == kPlace) return next();
    if (type.kind() == c10::TypeKind::OptionalType && !value.isNone()) {
      return fill(value, *type.castRaw<c10::OptionalType>()->getElementType());
    }
    if (!value.isList() || type.kind() != c10::TypeKind::ListType) return value;
    return fill_list(value, *type.castRaw<c10::ListType>()->getElementType());
  }

  bool done() const { return used_ == inputs_.size(); }

 private:
  at::Tensor next() {
    check(used_ < inputs_.size(), "a generic op has more places than inputs");
    return inputs_[used_++];
  }

  c10::IValue fill_list(const c10::IValue& value, const c10::Type& element) {
    if (element.kind() == c10::TypeKind::TensorType) {
      c10::List<at::Tensor> list;
      for (const c10::IValue& v : value.toListRef()) list.push_back(fill(v, element).toTensor());
      return list;
    }
    if (element.kind() == c10::TypeKind::OptionalType) {
      c10::List<std::optional<at::Tensor>> list;
      for (const c10::IValue& v : value.toListRef()) {
        list.push_back(v.isNone() ? std::nullopt : std::optional(fill(v, element).toTensor()));
      }
      return list;
    }
    if (element.kind() == c10::TypeKind::FloatType) return typed_list<double>(value, &c10::IValue::toDouble);
    if (element.kind() == c10::TypeKind::BoolType) return typed_list<bool>(value, &c10::IValue::toBool);
    return value;
  }

  Tensors inputs_;
  size_t used_ = 0;
};

/// Runs an operator on a full list of arguments; tensor results flattened.
std::vector<at::Tensor> run_boxed(const c10::OperatorHandle& op, std::vector<c10::IValue> stack) {
  const auto& arguments = op.schema().arguments();
  for (size_t i = stack.size(); i < arguments.size(); ++i) {
    expect(arguments[i].default_value().has_value(),
           [&] { return "argument '" + arguments[i].name() + "' is missing"; });
    stack.push_back(*arguments[i].default_value());
  }
  op.callBoxed(stack);
  std::vector<at::Tensor> results;
  for (const c10::IValue& value : stack) {
    if (value.isTensor()) {
      results.push_back(value.toTensor());
    } else {
      for (const at::Tensor& tensor : value.toTensorVector()) results.push_back(tensor);
    }
  }
  return results;
}

void check_mode(const c10::FunctionSchema& schema, const std::vector<c10::IValue>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& name = schema.arguments()[i].name();
    const c10::IValue& value = arguments[i];
    bool on = value.isBool() ? value.toBool() : value.isDouble() && value.toDouble() != 0;
    if (is_training_argument(name)) expect(!on, "the operator is called in training mode");
    bool has_train = schema.argumentIndexWithName("train").has_value();
    if (is_dropout_argument(name) && !has_train) expect(!on, "dropout draws random numbers");
  }
}

void check_index(const std::string& op, const std::vector<c10::IValue>& arguments) {
  if (op != "aten::index.Tensor") return;
  for (const c10::IValue& index : arguments.at(1).toListRef()) {
    bool known = !index.isTensor() || !c10::isIntegralType(index.toTensor().scalar_type(), true) ||
                 (index.toTensor().scalar_type() != c10::kBool && index.toTensor().scalar_type() != c10::kByte);
    expect(known, "sizes of its results depend on data");
  }
}

/// LibTorch's messages go on with advice about torch.compile and a stack of C++ calls.
std::string first_sentence(const std::string& message) {
  size_t end = std::min(message.find('\n'), message.find(". "));
  return message.substr(0, end);
}

}  // namespace

std::string why_not_generic(const std::string& op) {
  auto handle = find_operator(op);
  if (!handle) return op + " is not an operator of LibTorch's dispatcher";
  const c10::FunctionSchema& schema = handle->schema();
  if (schema.is_mutable()) return "it writes to its arguments";
  if (schema.is_vararg() || schema.is_varret()) return "it takes any number of arguments";
  if (schema.returns().empty()) return "it gives no tensor";
  for (const c10::Argument& result : schema.returns()) {
    if (!gives_tensors(result)) return "it gives something other than tensors";
  }
  std::string name = op.substr(0, op.find('.'));
  bool judged_by_arguments = has_mode_argument(schema);
  if (handle->hasTag(at::Tag::nondeterministic_seeded) && !judged_by_arguments) return "it draws random numbers";
  // Indexing by integers has known sizes; infer_by_meta_run refuses bools.
  if (op == "aten::index.Tensor") return "";
  if (handle->hasTag(at::Tag::dynamic_output_shape) || handle->hasTag(at::Tag::data_dependent_output)) {
    return "sizes of its results depend on data";
  }
  if (name.rfind("aten::as_strided", 0) == 0 || name.rfind("aten::_reshape_alias", 0) == 0)
    return "it reads memory by strides, and engines choose their own";
  if (is_known_exception(name)) return "sizes of its results depend on data, or it draws random numbers";
  return "";
}

std::vector<at::Tensor> call_aten(const Aten& op, Tensors inputs) {
  c10::OperatorHandle handle = operator_named(op.op);
  const auto& schema_arguments = handle.schema().arguments();
  check(op.arguments.size() <= schema_arguments.size(), "a generic op has more arguments than its schema");
  Filler filler(inputs);
  std::vector<c10::IValue> stack;
  for (size_t i = 0; i < op.arguments.size(); ++i) {
    stack.push_back(filler.fill(op.arguments[i], *schema_arguments[i].type()));
  }
  check(filler.done(), "a generic op has more inputs than places");
  return run_boxed(handle, std::move(stack));
}

std::vector<TensorType> infer_by_meta_run(const std::string& op, const std::vector<c10::IValue>& arguments,
                                          c10::Device device) {
  c10::OperatorHandle handle = operator_named(op);
  check_mode(handle.schema(), arguments);
  check_index(op, arguments);
  if (auto types = known_result_types(op, arguments)) {
    for (TensorType& type : *types) type.device = device;
    return *types;
  }
  std::vector<at::Tensor> results;
  try {
    results = run_boxed(handle, arguments);
  } catch (const c10::Error& error) {
    throw Unsupported("its result type is not known before it runs: " + first_sentence(error.what_without_backtrace()));
  } catch (const std::exception& error) {  // meta kernels written in Python
    throw Unsupported("its result type is not known before it runs: " + first_sentence(error.what()));
  }
  std::vector<TensorType> types;
  for (const at::Tensor& tensor : results) {
    expect(tensor.defined() && tensor.layout() == c10::kStrided && !tensor.is_quantized() && !tensor.is_nested(),
           "it gives something other than dense tensors");
    expect(tensor.is_meta() || tensor.device() == device, "it gives a tensor on another device");
    // Results that are views lose their gaps and overlaps, for the engine gives them memory of their own.
    TensorType type = type_of(tensor);
    type.device = device;
    if (!is_dense(type)) type.strides = dense_strides_like(type.shape, type.strides);
    types.push_back(std::move(type));
  }
  return types;
}

void define_aten(OpSet& ops) {
  ops.add<Aten>("aten")
      .infer([](const Aten& a, Types in) {
        std::vector<TensorType> results = a.results;
        // A graph that is moved to another device moves this op too.
        for (TensorType& type : results) {
          for (const TensorType& input : in) {
            if (!input.device.is_cpu()) type.device = input.device;
          }
        }
        return results;
      })
      .aten([](const Aten& a, Tensors in) { return call_aten(a, in); });
}

}  // namespace torchweld
