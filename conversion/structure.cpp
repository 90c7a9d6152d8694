#include "conversion/structure.h"

#include <torch/csrc/jit/ir/ir.h>

#include "core/error.h"

namespace torchweld {

namespace jit = torch::jit;
namespace prim = c10::prim;
using IValues = std::vector<c10::IValue>;

namespace {

c10::IValue make_list(const c10::TypePtr& type, IValues elements) {
  c10::impl::GenericList list(type->expectRef<c10::ListType>().getElementType());
  for (c10::IValue& element : elements) list.push_back(std::move(element));
  return list;
}

c10::IValue make_dict(const c10::TypePtr& type, const IValues& keys_and_values) {
  const auto& dict_type = type->expectRef<c10::DictType>();
  c10::impl::GenericDict dict(dict_type.getKeyType(), dict_type.getValueType());
  for (size_t i = 0; i + 1 < keys_and_values.size(); i += 2) {
    dict.insert_or_assign(keys_and_values[i], keys_and_values[i + 1]);
  }
  return dict;
}

c10::IValue make_tuple(const c10::TypePtr& type, IValues elements) {
  auto tuple_type = type->expect<c10::TupleType>();
  if (tuple_type->name()) return c10::ivalue::Tuple::createNamed(std::move(elements), std::move(tuple_type));
  return c10::ivalue::Tuple::create(std::move(elements));
}

bool is_instance(const c10::IValue& value, const std::vector<c10::TypePtr>& types) {
  c10::TypePtr type = value.type();
  for (const c10::TypePtr& candidate : types) {
    if (type->isSubtypeOf(*candidate)) return true;
  }
  return false;
}

}  // namespace

std::optional<IValues> run_structural(const jit::Node* node, IValues inputs) {
  switch (node->kind()) {
    case prim::ListConstruct:
      return IValues{make_list(node->output()->type(), std::move(inputs))};
    case prim::TupleConstruct:
      return IValues{make_tuple(node->output()->type(), std::move(inputs))};
    case prim::DictConstruct:
      return IValues{make_dict(node->output()->type(), inputs)};
    case prim::ListUnpack: {
      auto elements = inputs.at(0).toListRef();
      expect(elements.size() == node->outputs().size(), "unpacks a list of " + std::to_string(elements.size()) +
                                                            " into " + std::to_string(node->outputs().size()));
      return elements.vec();
    }
    case prim::TupleUnpack: {
      auto elements = inputs.at(0).toTupleRef().elements().asArrayRef();
      return elements.vec();
    }
    case prim::TupleSlice: {
      auto elements = inputs.at(0).toTupleRef().elements().asArrayRef();
      auto begin = static_cast<size_t>(node->i(c10::attr::beg));
      auto end = static_cast<size_t>(node->i(c10::attr::end));
      return IValues{c10::ivalue::Tuple::create(elements.slice(begin, end - begin).vec())};
    }
    case prim::isinstance:
      return IValues{is_instance(inputs.at(0), node->tys(c10::attr::types))};
    case prim::unchecked_cast:
      return inputs;
    case prim::Uninitialized:
      return IValues{c10::IValue::uninitialized()};
    default:
      return std::nullopt;
  }
}

}  // namespace torchweld
