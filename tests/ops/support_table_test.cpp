// docs/operators.md: what becomes of each operator, from LibTorch's schemas, our importers and the case list.
// UPDATE_GOLDEN=1 writes it.
#include <gtest/gtest.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/operator.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "core/op_set.h"
#include "core/ops/aten.h"
#include "core/ops/aten_types.h"
#include "tests/ops/harness.h"

namespace torchweld::test {
namespace {

constexpr const char* kFile = "docs/operators.md";

/// One operator with all its overloads.
struct Entry {
  std::set<std::string> native;
  std::set<std::string> generic;
  std::map<std::string, std::string> refused;  ///< Overload -> reason.
  bool in_place = false;
  std::set<std::string> dtypes;  ///< In which rows of the case list run it.
};

bool handles_tensors(const c10::FunctionSchema& schema) {
  auto is_tensor = [](const c10::Argument& argument) {
    return argument.type()->str().find("Tensor") != std::string::npos;
  };
  return std::any_of(schema.arguments().begin(), schema.arguments().end(), is_tensor) &&
         std::any_of(schema.returns().begin(), schema.returns().end(), is_tensor);
}

bool is_listed(const c10::FunctionSchema& schema) {
  const std::string& name = schema.name();
  if (!name.starts_with("aten::") || !handles_tensors(schema)) return false;
  bool with_out = schema.overload_name().find("out") != std::string::npos && schema.arguments().back().alias_info();
  bool by_names = toString(schema).find("Dimname") != std::string::npos ||
                  toString(schema).find("str[1]") != std::string::npos || schema.overload_name().starts_with("names");
  bool internal = name.find("_backward") != std::string::npos || name.find("_copy") != std::string::npos ||
                  name.starts_with("aten::cudnn_") || name.starts_with("aten::miopen_") ||
                  name.starts_with("aten::mkldnn_") || name.starts_with("aten::sparse_") ||
                  name.starts_with("aten::quantized_") || name.starts_with("aten::fbgemm_");
  return !with_out && !by_names && !internal;
}

/// "aten::add_.Tensor" -> {"add", "Tensor", in place}
struct Name {
  std::string base;
  std::string overload;
  bool in_place;
};

Name name_of(const c10::FunctionSchema& schema) {
  std::string base = schema.name().substr(6);
  bool in_place = base.size() > 1 && base.back() == '_' && base[base.size() - 2] != '_';
  if (in_place) base.pop_back();
  return {base, schema.overload_name(), in_place};
}

std::string qualified(const Name& name) {
  return "aten::" + name.base + (name.overload.empty() ? "" : "." + name.overload);
}

const char* dtypes_text(Dtypes dtypes) {
  static constexpr const char* kTexts[] = {
      "f32 f16 bf16", "f32 f16 bf16 f64", "i64 i32 u8", "f32 f16 bf16 f64 i64 i32 u8", "f32 f16 bf16 f64 i64 i32 u8 b8",
      "f32"};
  return kTexts[static_cast<size_t>(dtypes)];
}

void collect(const torch::jit::Block* block, const Case& row, std::map<std::string, Entry>& entries) {
  for (const torch::jit::Node* node : block->nodes()) {
    for (const torch::jit::Block* inner : node->blocks()) collect(inner, row, entries);
    if (!node->maybeOperator() || !node->schema().name().starts_with("aten::")) continue;
    auto entry = entries.find(name_of(node->schema()).base);
    if (entry == entries.end()) continue;
    std::istringstream words(dtypes_text(row.dtypes));
    for (std::string word; words >> word;) entry->second.dtypes.insert(word);
  }
}

std::map<std::string, Entry> collect_entries() {
  std::map<std::string, Entry> entries;
  for (const auto& op : torch::jit::getAllOperators()) {
    const c10::FunctionSchema& schema = op->schema();
    if (!is_listed(schema)) continue;
    Name name = name_of(schema);
    std::string full = qualified(name);
    bool is_native = op_set().find_import(full) || op_set().find_import(toString(schema.operator_name()));
    if (name.base.starts_with("_") && !is_native) continue;
    Entry& entry = entries[name.base];
    std::string reason = why_not_generic(full);
    if (is_native) {
      entry.native.insert(name.overload);
      entry.in_place |= name.in_place;
    } else if (reason.empty()) {
      entry.generic.insert(name.overload);
      entry.in_place |= name.in_place;
    } else if (!name.in_place) {
      entry.refused[name.overload] = reason.starts_with("aten::") ? "it is an operator of TorchScript alone" : reason;
    }
  }
  for (const Family& family : families()) {
    for (const Case& row : family.cases) {
      if (!*row.refusal) collect(CompiledCase(row).script().block(), row, entries);
    }
  }
  return entries;
}

std::string joined(const std::set<std::string>& words, const std::string& between) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : between) + (word.empty() ? "(plain)" : word);
  return text;
}

std::string support_table() {
  std::map<std::string, Entry> entries = collect_entries();
  std::ostringstream out;
  out << "# Operators\n\n"
         "Written by `UPDATE_GOLDEN=1 build/tests/test_ops --gtest_filter='SupportTable*'` from the schemas of "
         "LibTorch "
         "2.11; a test keeps it\nup to date. Both devices, CPU and CUDA, run every operator listed under the first two "
         "headings: where no kernel of ours, cuDNN's,\ncuBLASLt's or oneDNN's takes a node, it runs by LibTorch's own, "
         "inside the engine. `in place` says that the form with an\nunderscore is imported too. Dtypes are those in "
         "which "
         "the case list (`tests/ops`) compares the operator with LibTorch.\n\n"
         "An importer takes the arguments that its operator documents; what it does not take (a matrix norm, say) runs "
         "as "
         "the generic\nop, or stays in LibTorch with the reason that `explain` shows.\n\n"
         "## Imported natively\n\nThey become nodes of the instruction set: passes see them, they fuse, and kernels "
         "are "
         "chosen for them.\n\n| operator | overloads | in place | tested in |\n| --- | --- | --- | --- |\n";
  for (const auto& [name, entry] : entries) {
    if (entry.native.empty()) continue;
    out << "| `" << name << "` | " << joined(entry.native, ", ") << " | " << (entry.in_place ? "yes" : "") << " | "
        << joined(entry.dtypes, " ") << " |\n";
  }
  out << "\n## Generic\n\nThey join an engine as themselves: one step that calls LibTorch's operator. `typed` ones "
         "have "
         "result types of our own, where\nLibTorch could tell them only in Python.\n\n"
         "| operator | overloads | in place | tested in |\n| --- | --- | --- | --- |\n";
  std::set<std::string> typed;
  for (const std::string& op : operators_of_known_types()) typed.insert(op);
  for (const auto& [name, entry] : entries) {
    if (entry.generic.empty()) continue;
    bool is_typed = std::any_of(entry.generic.begin(), entry.generic.end(), [&, n = name](const std::string& overload) {
      return typed.count(qualified({n, overload, false})) > 0;
    });
    out << "| `" << name << "`" << (is_typed ? " (typed)" : "") << " | " << joined(entry.generic, ", ") << " | "
        << (entry.in_place ? "yes" : "") << " | " << joined(entry.dtypes, " ") << " |\n";
  }
  std::map<std::string, std::set<std::string>> by_reason;
  for (const auto& [name, entry] : entries) {
    for (const auto& [overload, reason] : entry.refused) {
      by_reason[reason].insert("`" + name + (overload.empty() ? "" : "." + overload) + "`");
    }
  }
  out << "\n## Left to LibTorch\n";
  for (const auto& [reason, names] : by_reason) out << "\nBecause " << reason << ": " << joined(names, ", ") << "\n";
  return out.str();
}

TEST(SupportTable, IsUpToDate) {
  if (!std::string(TORCHWELD_TORCH_VERSION).starts_with("2.11")) GTEST_SKIP() << "the table is that of LibTorch 2.11";
  std::string table = support_table();
  if (std::getenv("UPDATE_GOLDEN")) std::ofstream(kFile) << table;
  std::ifstream file(kFile);
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_TRUE(text.str() == table) << kFile << " is out of date; run with UPDATE_GOLDEN=1 to write it again";
}

}  // namespace
}  // namespace torchweld::test
