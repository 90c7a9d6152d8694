#include <chrono>
#include <filesystem>
#include <fstream>

#include "conversion/passes/passes.h"
#include "core/environment.h"
#include "core/error.h"

namespace torchweld {
namespace {

void dump(const std::string& folder, const std::string& name, int number, const std::string& text) {
  std::filesystem::create_directories(folder);
  std::string digits = (number < 10 ? "0" : "") + std::to_string(number);
  std::ofstream file(std::filesystem::path(folder) / (name + "." + digits + ".txt"));
  if (!file) throw Error("TORCHWELD_DUMP names the folder \"" + folder + "\", which cannot be written; name another");
  file << text << "\n";
}

}  // namespace

const std::vector<Pass>& passes() {
  static const std::vector<Pass> table{
      {"fold_constants", fold_constants},
      {"simplify", simplify},
      {"fold_batch_norm", fold_batch_norm},
      {"share_common_nodes", share_common_nodes},
      {"recognise_attention", recognise_attention},
      {"recognise_rms_norm", recognise_rms_norm},
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
  int number = 0;
  for (const Pass& pass : passes()) {
    ++number;
    if (is_disabled(pass.name)) continue;
    auto start = std::chrono::steady_clock::now();
    pass.run(graph, context);
    graph.sweep();
    graph.verify();
    std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    log(3, context.name + ": " + pass.name + " took " + std::to_string(time.count()) + " ms, " +
               std::to_string(graph.nodes().size()) + " nodes");
    if (folder.empty()) continue;
    std::string after = graph.text();
    if (after != before) dump(folder, context.name, number, "# after " + std::string(pass.name) + "\n" + after);
    before = std::move(after);
  }
}

}  // namespace torchweld
