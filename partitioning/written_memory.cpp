#include "partitioning/written_memory.h"

#include <algorithm>
#include <functional>
#include <unordered_map>
#include <unordered_set>

#include "partitioning/reads.h"

namespace torchweld {

namespace jit = torch::jit;

namespace {

/// True for nodes that ask for a tensor's sizes or dtype, which writing its elements does not change.
bool is_about_type(const jit::Node* node) {
  static const std::unordered_set<std::string> names{
      "aten::size",       "aten::dim",     "aten::numel",  "aten::len",     "aten::stride",
      "prim::device",     "prim::dtype",   "prim::layout", "prim::is_cuda", "aten::is_floating_point",
      "aten::is_complex", "aten::sym_size"};
  return names.count(node->kind().toQualString()) > 0;
}

}  // namespace

std::vector<WrittenGroup> find_written(jit::Block* block, const Memory& memory) {
  std::vector<WrittenGroup> groups;
  std::unordered_map<Memory::Class, size_t> places;
  auto touch = [&](const jit::Value* value, jit::Node* node) {
    for (Memory::Class written : memory.classes_of(value)) {
      if (!memory.is_written(written)) continue;
      if (node && is_about_type(node) && is_tensor(value) && !memory.is_reshaped(written)) continue;
      auto [place, is_new] = places.emplace(written, groups.size());
      if (is_new) groups.push_back({written, is_tensor(value), {}, {}});
      WrittenGroup& group = groups[place->second];
      group.is_tensor = group.is_tensor || is_tensor(value);
      if (node) group.nodes.push_back(node);
      // A segment hands out the tensors it wrote, but no lists; what comes from elsewhere it cannot write.
      bool comes_in = value->node()->owningBlock() != block || value->node()->kind() == c10::prim::Param;
      group.stays = group.stays || comes_in || (!node && !is_tensor(value));
      if (node) continue;
      // Two results that share memory, of a block in another one, where LibTorch may write into either.
      group.given_back.insert(value);
      group.stays = group.stays || (block->owningNode() && group.given_back.size() > 1);
    }
  };
  for (jit::Node* node : block->nodes()) {
    if (only_gives_back(node)) continue;
    std::vector<const jit::Value*> values = values_read(node);
    values.insert(values.end(), node->outputs().begin(), node->outputs().end());
    for (const jit::Value* value : values) touch(value, node);
  }
  std::function<void(const jit::Value*)> give_back = [&](const jit::Value* value) {
    if (!only_gives_back(value->node())) return touch(value, nullptr);
    for (const jit::Value* element : value->node()->inputs()) give_back(element);
  };
  for (const jit::Value* value : block->outputs()) give_back(value);
  return groups;
}

bool touches_written(const jit::Node* node, const Memory& memory) {
  auto written = [&](const jit::Value* value) {
    auto classes = memory.classes_of(value);
    return std::any_of(classes.begin(), classes.end(), [&](Memory::Class c) { return memory.is_written(c); });
  };
  return std::any_of(node->inputs().begin(), node->inputs().end(), written) ||
         std::any_of(node->outputs().begin(), node->outputs().end(), written);
}

bool only_reads(const jit::Node* node, Memory::Class of, const Memory& memory) {
  if (!node->blocks().empty() || node->maybeSchema() == nullptr) return false;
  auto shares = [&](const jit::Value* value) {
    auto classes = memory.classes_of(value);
    return std::find(classes.begin(), classes.end(), of) != classes.end();
  };
  if (std::any_of(node->outputs().begin(), node->outputs().end(), shares)) return false;
  const auto& formals = node->schema().arguments();
  for (size_t i = 0; i < formals.size() && i < node->inputs().size(); ++i) {
    if (formals[i].alias_info() && formals[i].alias_info()->isWrite() && shares(node->inputs()[i])) return false;
  }
  return true;
}

}  // namespace torchweld
