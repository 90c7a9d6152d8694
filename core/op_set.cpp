#include "core/op_set.h"

#include "core/error.h"
#include "core/ops/all.h"

namespace torchweld {

void OpSet::add_import(const std::string& schema, ImportFn fn) {
  check(imports_.emplace(schema, std::move(fn)).second, [&] { return "two importers for " + schema; });
}

const OpDef* OpSet::find(std::type_index type) const {
  auto found = by_type_.find(type);
  return found == by_type_.end() ? nullptr : found->second;
}

const OpDef* OpSet::find(const std::string& name) const {
  auto found = defs_.find(name);
  return found == defs_.end() ? nullptr : found->second.get();
}

const ImportFn* OpSet::find_import(const std::string& schema) const {
  auto found = imports_.find(schema);
  return found == imports_.end() ? nullptr : &found->second;
}

std::vector<const OpDef*> OpSet::defs() const {
  std::vector<const OpDef*> list;
  for (const auto& [name, def] : defs_) list.push_back(def.get());
  return list;
}

const OpSet& op_set() {
  static const OpSet* ops = [] {
    auto* set = new OpSet;
    define_all_ops(*set);
    return set;
  }();
  return *ops;
}

}  // namespace torchweld
