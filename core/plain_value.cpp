#include "core/plain_value.h"

#include <ATen/core/jit_type.h>

#include <algorithm>
#include <cmath>

namespace torchweld {

bool is_plain(const c10::Type& type) {
  switch (type.kind()) {
    case c10::TypeKind::IntType:
    case c10::TypeKind::FloatType:
    case c10::TypeKind::BoolType:
    case c10::TypeKind::StringType:
    case c10::TypeKind::DeviceObjType:
    case c10::TypeKind::NoneType:
      return true;
    case c10::TypeKind::OptionalType:
      return is_plain(*type.castRaw<c10::OptionalType>()->getElementType());
    case c10::TypeKind::ListType:
    case c10::TypeKind::TupleType:
      return std::all_of(type.containedTypes().begin(), type.containedTypes().end(),
                         [](const c10::TypePtr& element) { return is_plain(*element); });
    default:
      return false;
  }
}

bool is_plain(const c10::IValue& value) {
  if (value.isList()) return is_plain(*value.toList().elementType());
  auto is_plain_too = [](const c10::IValue& element) { return is_plain(element); };
  if (value.isTuple()) {
    const auto& elements = value.toTupleRef().elements();
    return std::all_of(elements.begin(), elements.end(), is_plain_too);
  }
  return value.isInt() || value.isDouble() || value.isBool() || value.isString() || value.isDevice() || value.isNone();
}

bool is_same(const c10::IValue& a, const c10::IValue& b) {
  if (a.isDouble() && b.isDouble()) {
    const double x = a.toDouble();
    const double y = b.toDouble();
    return (x == y && std::signbit(x) == std::signbit(y)) || (std::isnan(x) && std::isnan(y));
  }
  auto all_same = [](auto x, auto y) { return std::equal(x.begin(), x.end(), y.begin(), y.end(), is_same); };
  if (a.isList() && b.isList()) return all_same(a.toListRef(), b.toListRef());
  if (a.isTuple() && b.isTuple())
    return all_same(a.toTupleRef().elements().asArrayRef(), b.toTupleRef().elements().asArrayRef());
  return a == b;
}

}  // namespace torchweld
