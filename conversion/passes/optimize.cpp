#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>

#include "conversion/passes/passes.h"
#include "conversion/place.h"
#include "core/environment.h"
#include "core/error.h"
#include "core/ops/layout.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

void dump(const std::string& folder, const std::string& name, int number, const std::string& text) {
  std::filesystem::create_directories(folder);
  std::string digits = (number < 10 ? "0" : "") + std::to_string(number);
  std::ofstream file(std::filesystem::path(folder) / (name + "." + digits + ".txt"));
  if (!file) throw Error("TORCHWELD_DUMP names the folder \"" + folder + "\", which cannot be written; name another");
  file << text << "\n";
}

/// In whose memory the inputs and then the outputs lie.
std::vector<const Value*> memories_of(const Graph& graph) {
  std::vector<const Value*> memories;
  for (const auto& input : graph.inputs()) memories.push_back(input.get());
  for (const Value* output : graph.outputs()) memories.push_back(memory_of(output));
  return memories;
}

/// Places in memories_of() of an output, and of an input or earlier output that lies in the same memory.
using SharedPairs = std::set<std::pair<size_t, size_t>>;

SharedPairs shared_outputs(const Graph& graph) {
  std::vector<const Value*> memories = memories_of(graph);
  SharedPairs pairs;
  for (size_t i = graph.inputs().size(); i < memories.size(); ++i) {
    for (size_t other = 0; other < i; ++other) {
      if (memories[i] == memories[other]) pairs.emplace(i, other);
    }
  }
  return pairs;
}

/// `value` in memory of its own. A view with gaps or repeated elements stays a view, of a copy of what it views.
Value* copied(Graph& graph, Value* value) {
  const Node* view = value->producer();
  if (is_dense(value->type) || !view || !view->attrs.def().is_view) {
    return graph.add(Copy{dense_strides_like(value->type.shape, value->type.strides)}, {value});
  }
  return graph.add(view->attrs, {copied(graph, view->input(0))});
}

/// Copies outputs that have come to lie in memory of an input or of another output: the caller may write into one.
void separate_outputs(Graph& graph, const SharedPairs& shared_before) {
  size_t inputs = graph.inputs().size();
  std::vector<const Value*> memories = memories_of(graph);
  for (size_t i = inputs; i < memories.size(); ++i) {
    for (size_t other = 0; other < i; ++other) {
      if (memories[i] != memories[other] || shared_before.count({i, other})) continue;
      Value* copy = copied(graph, graph.outputs()[i - inputs]);
      graph.set_output(i - inputs, copy);
      memories[i] = memory_of(copy);
      break;
    }
  }
}

}  // namespace

const std::vector<Pass>& passes() {
  static const auto& table = *new std::vector<Pass>{
      {"fold_constants", fold_constants},
      {"simplify", simplify},
      {"fold_batch_norm", fold_batch_norm},
      {"share_common_nodes", share_common_nodes},
      {"recognise_attention", recognise_attention},
      {"recognise_rms_norm", recognise_rms_norm},
      {"recognise_gelu", recognise_gelu},
      {"merge_linears", merge_linears},
      {"follow_memory", follow_memory},
      {"set_precision", set_precision},
      {"patches_to_products", patches_to_products},
      {"layout", layout},
      {"fold_constants", fold_constants},
      {"simplify", simplify},
      {"share_common_nodes", share_common_nodes},
      {"fuse", fuse},
      {"fuse_blocks", fuse_blocks},
  };
  return table;
}

void optimize(Graph& graph, const PassContext& context) {
  std::string folder = environment("TORCHWELD_DUMP");
  std::string before = folder.empty() ? "" : graph.text();
  if (!folder.empty()) dump(folder, context.name, 0, "# imported\n" + before);
  auto shared = shared_outputs(graph);
  int number = 0;
  int64_t swept = -1;
  for (const Pass& pass : passes()) {
    ++number;
    if (is_disabled(pass.name)) continue;
    auto start = std::chrono::steady_clock::now();
    pass.run(graph, context);
    if (graph.changes() != swept) {
      graph.sweep();
      if (context.verify_each) graph.verify();
      swept = graph.changes();
    }
    std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    log(3, context.name + ": " + pass.name + " took " + std::to_string(time.count()) + " ms, " +
               std::to_string(graph.nodes().size()) + " nodes");
    if (folder.empty()) continue;
    std::string after = graph.text();
    if (after != before) dump(folder, context.name, number, "# after " + std::string(pass.name) + "\n" + after);
    before = std::move(after);
  }
  if (!context.verify_each) graph.verify();
  separate_outputs(graph, shared);
}

}  // namespace torchweld
