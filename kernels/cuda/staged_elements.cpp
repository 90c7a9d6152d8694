#include "kernels/cuda/staged_elements.h"

#include <algorithm>
#include <map>

#include "core/error.h"

namespace torchweld::cuda {
namespace {

/// Where the operand lies at loop indexes i0, i1 ...; a last loop of stride 0 or 1 needs no factor.
std::string place_of(const Operand& operand) {
  std::string text = operand.name;
  for (size_t d = 0; d < operand.strides.size(); ++d) {
    bool last = d + 1 == operand.strides.size();
    if (last && operand.strides[d] == 0) continue;
    std::string index = "i" + std::to_string(d);
    text += " + " + (last && operand.begin > 0 ? "(" + index + " - " + std::to_string(operand.begin) + ")" : index);
    if (!last || operand.strides[d] != 1) text += " * p." + operand.name + "[" + std::to_string(d) + "]";
  }
  return text;
}

/// Whether an output has the position.
std::string condition_of(const Operand& operand) {
  if (operand.end == 0) return "";
  std::string index = "i" + std::to_string(operand.strides.size() - 1);
  return "if (" + index + " >= " + std::to_string(operand.begin) + " && " + index + " < " +
         std::to_string(operand.end) + ") ";
}

std::string last_stride(const Operand& operand) {
  return "p." + operand.name + "[" + std::to_string(operand.strides.size() - 1) + "]";
}

}  // namespace

std::string emit_staged_elements(const Body& body, const Loops& loops, const Value* given) {
  size_t outer = loops.sizes.size() - 1;
  std::string last = "I i" + std::to_string(outer);
  std::string pointers, kept, fetches, reads, writes, results;
  std::map<const Value*, std::string> names{{given, "acc[k]"}};
  std::vector<const Value*> wanted;
  for (const Operand& operand : loops.operands) {
    if (!operand.value) continue;
    expect(!operand.rows, "takes are not read ahead");
    const std::string& n = operand.name;
    int64_t stride = operand.strides.back();
    pointers += std::string("  ") + (operand.output ? "" : "const ") + storage_type(operand.dtype) + "* " + n + ";\n";
    reads += "    " + compute_type(operand.dtype) + " v" + n + "[V];\n";
    if (operand.output) {
      wanted.push_back(operand.value);
      writes +=
          "    " + condition_of(operand) +
          (stride == 1 ? "tw::write<V>(" + place_of(operand) + ", aligned, v" + n + ");\n"
                       : "tw::scatter<V>(" + place_of(operand) + ", " + last_stride(operand) + ", v" + n + ");\n");
    } else {
      names[operand.value] = "v" + n + "[k]";
      kept += "    tw::Staged<V, " + storage_type(operand.dtype) + "> " + n + ";\n";
      fetches += "    early." + n +
                 (stride == 1 ? ".fetch(" + place_of(operand) + ", aligned);\n"
                              : ".fetch_apart(" + place_of(operand) + ", " + last_stride(operand) + ");\n");
      reads += "    early." + n + ".widened(v" + n + ");\n";
    }
  }
  std::string statements = emit_statements(*body.graph, names, wanted);
  for (const Operand& operand : loops.operands) {
    if (operand.output && operand.value) results += "v" + operand.name + "[k] = " + names.at(operand.value) + ";\n";
  }
  auto first = std::find_if(loops.operands.begin(), loops.operands.end(), [](const Operand& o) { return o.output; });
  std::string left = "acc[k] = v" + first->name + "[k];\n";
  std::string acc = compute_type(given->type.dtype) + " (&acc)[V]";
  return "struct Elements {\n" + pointers + "  const Params& p;\n  bool aligned;\n" +
         "  template <int V>\n  struct Early {\n" + kept + "  };\n" +
         "  template <int V>\n  __device__ __forceinline__ void fetch(Early<V>& early, I rest, " + last +
         ") const {\n" + emit_split(outer) + fetches + "  }\n" +
         "  template <int V>\n  __device__ __forceinline__ void run(" + acc + ", const Early<V>& early, I rest, " +
         last + ") const {\n" + emit_split(outer) + reads + "#pragma unroll\n    for (int k = 0; k < V; ++k) {\n" +
         statements + results + left + "    }\n" + writes + "  }\n};\n";
}

}  // namespace torchweld::cuda
