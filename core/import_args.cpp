#include "core/import_args.h"

#include <ATen/native/TypeProperties.h>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/pointwise.h"

namespace torchweld {
namespace {

[[noreturn]] void wrong_kind(const std::string& name, const char* wanted) {
  throw Unsupported("argument '" + name + "' is not " + wanted);
}

}  // namespace

bool ImportArgs::has(const std::string& name) const {
  for (const Argument& argument : arguments_) {
    if (argument.name == name) return !argument.value.isNone();
  }
  return false;
}

const c10::IValue& ImportArgs::raw(const std::string& name) const {
  for (const Argument& argument : arguments_) {
    if (argument.name == name) return argument.value;
  }
  check(false, "the schema has no argument '" + name + "'");
  std::abort();
}

bool ImportArgs::is_number(const std::string& name) const { return raw(name).isScalar(); }

Value* ImportArgs::value(const std::string& name) {
  const c10::IValue& v = raw(name);
  if (v.isTensor() && v.toTensor().defined()) return source_.value_of(v.toTensor());
  if (v.isScalar()) return immediate(v.toScalar());
  wrong_kind(name, "a tensor");
}

Value* ImportArgs::exact_value(const std::string& name) {
  const c10::IValue& v = raw(name);
  return v.isTensor() && v.toTensor().defined() ? exact_value_of(v.toTensor()) : value(name);
}

Value* ImportArgs::exact_value_of(const at::Tensor& tensor) {
  bool known_number = tensor.dim() == 0 && !tensor.is_meta();
  return known_number ? emit(Constant{.value = tensor.detach().to(device_), .name = ""}, {}) : source_.value_of(tensor);
}

Value* ImportArgs::optional_value(const std::string& name) {
  if (!has(name)) return nullptr;
  const c10::IValue& v = raw(name);
  if (v.isTensor() && !v.toTensor().defined()) return nullptr;
  return value(name);
}

std::vector<Value*> ImportArgs::values(const std::string& name) {
  const c10::IValue& list = raw(name);
  if (!list.isList()) wrong_kind(name, "a list of tensors");
  std::vector<Value*> result;
  for (const c10::IValue& element : list.toListRef()) {
    if (!element.isTensor()) wrong_kind(name, "a list of tensors");
    result.push_back(exact_value_of(element.toTensor()));
  }
  return result;
}

int64_t ImportArgs::integer(const std::string& name) const {
  const c10::IValue& v = raw(name);
  if (!v.isInt()) wrong_kind(name, "an integer");
  return v.toInt();
}

int64_t ImportArgs::integer_or(const std::string& name, int64_t otherwise) const {
  return has(name) ? integer(name) : otherwise;
}

double ImportArgs::real(const std::string& name) const {
  const c10::IValue& v = raw(name);
  if (!v.isScalar()) wrong_kind(name, "a number");
  return v.toScalar().toDouble();
}

bool ImportArgs::boolean(const std::string& name) const {
  const c10::IValue& v = raw(name);
  if (!v.isBool()) wrong_kind(name, "a bool");
  return v.toBool();
}

c10::Scalar ImportArgs::scalar(const std::string& name) const {
  const c10::IValue& v = raw(name);
  if (!v.isScalar()) wrong_kind(name, "a number");
  return v.toScalar();
}

std::string ImportArgs::string(const std::string& name) const {
  const c10::IValue& v = raw(name);
  if (!v.isString()) wrong_kind(name, "a string");
  return v.toStringRef();
}

Dims ImportArgs::ints(const std::string& name) const {
  const c10::IValue& v = raw(name);
  if (v.isInt()) return {v.toInt()};
  if (!v.isIntList()) wrong_kind(name, "a list of integers");
  return v.toIntVector();
}

int64_t ImportArgs::axis(const std::string& name, const Value* x) const {
  return normalize_axis(integer(name), x->type.rank());
}

Dims ImportArgs::axes(const std::string& name, const Value* x) const {
  Dims result;
  if (has(name)) result = ints(name);
  if (result.empty()) {
    for (int64_t i = 0; i < x->type.rank(); ++i) result.push_back(i);
    return result;
  }
  for (int64_t& a : result) a = normalize_axis(a, x->type.rank());
  std::sort(result.begin(), result.end());
  expect(std::adjacent_find(result.begin(), result.end()) == result.end(),
         [&] { return "a dimension is named twice in '" + name + "'"; });
  return result;
}

std::optional<c10::ScalarType> ImportArgs::dtype(const std::string& name) const {
  if (!has(name)) return std::nullopt;
  return static_cast<c10::ScalarType>(integer(name));
}

Value* ImportArgs::immediate(const c10::Scalar& number) { return graph.add(Constant::immediate(number, device_), {}); }

Value* ImportArgs::cast(Value* x, c10::ScalarType dtype) {
  return x->type.dtype == dtype ? x : emit(Cast{.dtype = dtype}, {x});
}

c10::ScalarType ImportArgs::promoted(std::initializer_list<const char*> names) const {
  at::native::ResultTypeState state;
  for (const char* name : names) {
    const c10::IValue& v = raw(name);
    if (v.isTensor()) {
      state = at::native::update_result_type_state(v.toTensor(), state);
    } else if (v.isScalar()) {
      state = at::native::update_result_type_state(v.toScalar(), state);
    } else {
      wrong_kind(name, "a tensor or a number");
    }
  }
  return at::native::result_type(state);
}

}  // namespace torchweld
