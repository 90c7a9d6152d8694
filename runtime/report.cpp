#include "runtime/report.h"

#include <charconv>
#include <cstdio>
#include <iterator>

#include "core/error.h"

namespace torchweld {

static void print_field(std::string& out, const Fallback& fallback) { out += print_fields(fallback); }
static void parse_field(TextReader& in, Fallback& fallback) { fallback = parse_fields<Fallback>(in); }
static void print_field(std::string& out, const Separation& separation) { out += print_fields(separation); }
static void parse_field(TextReader& in, Separation& separation) { separation = parse_fields<Separation>(in); }
static void print_field(std::string& out, const SmallerBlocks& blocks) { out += print_fields(blocks); }
static void parse_field(TextReader& in, SmallerBlocks& blocks) { blocks = parse_fields<SmallerBlocks>(in); }

namespace {

constexpr const char* kAttribute = "torchweld_report";

/// In every locale with a point.
std::string number(double value, int digits) {
  char buffer[512];
  return {buffer, std::to_chars(buffer, std::end(buffer), value, std::chars_format::fixed, digits).ptr};
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') {
      out += std::string("\\") + c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char buffer[8];
      std::snprintf(buffer, sizeof buffer, "\\u%04x", c);
      out += buffer;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

template <class Range, class F>
std::string json_list(const Range& range, F element) {
  std::string out = "[";
  for (const auto& item : range) out += (out.size() > 1 ? ", " : "") + element(item);
  return out + "]";
}

std::string counted(int64_t count, const std::string& noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

/// "aten::sin (net.py:7), aten::cos (net.py:8), aten::tan (net.py:9) and 4 more"
std::string short_list(const std::vector<Fallback>& fallbacks) {
  constexpr size_t kNamed = 3;
  std::string out;
  for (size_t i = 0; i < fallbacks.size() && i < kNamed; ++i) {
    const Fallback& fallback = fallbacks[i];
    out += (i ? ", " : "") + fallback.op + (fallback.source.empty() ? "" : " (" + fallback.source + ")");
  }
  return fallbacks.size() > kNamed ? out + " and " + std::to_string(fallbacks.size() - kNamed) + " more" : out;
}

/// "segment_0 and segment_1 are apart because of aten::sin (net.py:7); ..."
std::string separation_text(const Report& report, const Separation& separation) {
  std::vector<Fallback> because;
  for (int64_t place : separation.because) because.push_back(report.fallbacks.at(place));
  std::string out = separation.first + " and " + separation.second + " are apart because of " + short_list(because);
  if (separation.settings.empty()) return out;
  out += "; ";
  for (size_t i = 0; i < separation.settings.size(); ++i) out += (i ? ", " : "") + separation.settings[i];
  return out + ": without " + (separation.settings.size() == 1 ? "it" : "them") + " they would be one";
}

std::string smaller_blocks_text(const Report& report, const SmallerBlocks& blocks) {
  return "min_block_size=" + std::to_string(report.min_block_size) + " left " + counted(blocks.left, "operation") +
         " to LibTorch: min_block_size=" + std::to_string(blocks.min_block_size) + " takes " +
         (blocks.operations < blocks.left ? std::to_string(blocks.operations) + " of them"
          : blocks.left == 1              ? "it"
                                          : "them") +
         " in";
}

/// The first line of an op's text: bodies of fused ops are summed up by the names of their ops.
std::string short_op(const std::string& text) {
  if (text.rfind("fused", 0) != 0) return text.substr(0, text.find('\n'));
  std::string names;
  for (size_t at = text.find(" = "); at != std::string::npos; at = text.find(" = ", at + 3)) {
    size_t end = text.find_first_of("{(", at + 3);
    std::string name = text.substr(at + 3, end - at - 3);
    if (name == "constant") continue;
    if (name == "pointwise") {
      size_t open = text.find('"', end);
      name = text.substr(open + 1, text.find('"', open + 1) - open - 1);
    }
    names += (names.empty() ? "" : " + ") + name;
  }
  return names;
}

}  // namespace

void store_report(torch::jit::Module& module, const Report& report) {
  module.register_attribute(kAttribute, c10::StringType::get(), print_fields(report));
}

void require_compiled_part(const torch::jit::Module& module) {
  for (const auto& part : module.modules()) {
    if (part.hasattr(kAttribute)) return;
  }
  throw Error(
      "this module was not compiled by Torchweld; pass the result of torchweld.compile or a file saved from it");
}

Report stored_report(const torch::jit::Module& module) {
  require_compiled_part(module);
  if (!module.hasattr(kAttribute)) {
    std::string parts;
    for (const auto& part : module.named_modules()) {
      if (part.value.hasattr(kAttribute)) parts += (parts.empty() ? "" : ", ") + part.name;
    }
    throw Error("parts of this module were compiled by Torchweld, not the whole; pass one of these: " + parts);
  }
  const std::string text = module.attr(kAttribute).toStringRef();
  TextReader in(text);
  Report report = parse_fields<Report>(in);
  for (const Separation& separation : report.separations) {
    for (int64_t place : separation.because) {
      if (place < 0 || place >= static_cast<int64_t>(report.fallbacks.size())) {
        throw Error("the report in this module is damaged; save the module again with torch.jit.save");
      }
    }
  }
  return report;
}

std::string Report::text() const {
  std::string out =
      counted(engines.size(), "engine") + " with " + std::to_string(operations_in_engines) + " of " +
      counted(operations, "operation") + " (" +
      number(operations ? 100.0 * static_cast<double>(operations_in_engines) / static_cast<double>(operations) : 0, 1) +
      " %) and " + number(flops_in_engines * 100, 1) + " % of the FLOPs; " +
      counted(operations - operations_in_engines, "operation") + " left to LibTorch\n";
  for (const EngineReport& engine : engines) {
    out += "\n" + engine.name + ": " + std::to_string(engine.steps.size()) + " steps";
    if (!engine.precision.empty()) out += " in " + engine.precision;
    if (engine.streams > 1) out += ", " + counted(engine.streams, "stream");
    if (engine.arena_bytes > 0) out += ", arena " + number(static_cast<double>(engine.arena_bytes) / 1e6, 1) + " MB";
    out += "\n";
    if (!engine.not_recorded.empty()) out += "  not recorded as a CUDA graph: " + engine.not_recorded + "\n";
    for (const std::string& input : engine.inputs) out += "  in   " + input + "\n";
    for (const std::string& output : engine.outputs) out += "  out  " + output + "\n";
    for (const EngineReport::Step& step : engine.steps) {
      out += "  " + short_op(step.op);
      if (!step.tactic.empty()) out += "  [" + step.tactic + "]";
      if (step.microseconds > 0) out += "  " + number(step.microseconds, 1) + " us";
      if (!step.source.empty()) out += "  " + step.source;
      out += "\n";
    }
  }
  if (!fallbacks.empty()) out += "\nleft to LibTorch:\n";
  for (const Fallback& f : fallbacks) {
    out += "  " + f.op + (f.source.empty() ? "" : "  " + f.source) + ": " + f.reason + "\n";
  }
  if (!unreached.empty()) {
    out += "\nLibTorch also runs " + counted(unreached.size(), "operation") +
           " where a call reaches them, as the inputs given to compile do not: " + short_list(unreached) + "\n";
  }
  if (!separations.empty() || !smaller_blocks.empty()) out += "\nsegments and settings:\n";
  for (const Separation& separation : separations) out += "  " + separation_text(*this, separation) + "\n";
  for (const SmallerBlocks& blocks : smaller_blocks) out += "  " + smaller_blocks_text(*this, blocks) + "\n";
  return out;
}

std::string Report::json() const {
  auto step = [](const EngineReport::Step& s) {
    return "{\"op\": " + quoted(short_op(s.op)) + ", \"tactic\": " + quoted(s.tactic) +
           ", \"source\": " + quoted(s.source) + ", \"microseconds\": " + number(s.microseconds, 3) +
           ", \"flops\": " + number(s.flops, 0) + ", \"bytes\": " + std::to_string(s.bytes) +
           ", \"weight_bytes\": " + std::to_string(s.weight_bytes) + "}";
  };
  auto engine = [&](const EngineReport& e) {
    return "{\"name\": " + quoted(e.name) + ", \"precision\": " + quoted(e.precision) +
           ", \"inputs\": " + json_list(e.inputs, quoted) + ", \"outputs\": " + json_list(e.outputs, quoted) +
           ", \"arena_bytes\": " + std::to_string(e.arena_bytes) +
           ", \"constant_bytes\": " + std::to_string(e.constant_bytes) +
           ", \"launches\": " + std::to_string(e.launches) + ", \"streams\": " + std::to_string(e.streams) +
           ", \"not_recorded\": " + quoted(e.not_recorded) + ", \"flops\": " + number(e.flops, 0) +
           ", \"steps\": " + json_list(e.steps, step) + "}";
  };
  auto fallback = [](const Fallback& f) {
    return "{\"op\": " + quoted(f.op) + ", \"reason\": " + quoted(f.reason) + ", \"source\": " + quoted(f.source) + "}";
  };
  auto separation = [](const Separation& s) {
    return "{\"first\": " + quoted(s.first) + ", \"second\": " + quoted(s.second) +
           ", \"because\": " + json_list(s.because, [](int64_t place) { return std::to_string(place); }) +
           ", \"settings\": " + json_list(s.settings, quoted) + "}";
  };
  auto blocks = [](const SmallerBlocks& b) {
    return "{\"min_block_size\": " + std::to_string(b.min_block_size) +
           ", \"operations\": " + std::to_string(b.operations) + ", \"left\": " + std::to_string(b.left) + "}";
  };
  return "{\"engines\": " + json_list(engines, engine) + ", \"fallbacks\": " + json_list(fallbacks, fallback) +
         ", \"unreached\": " + json_list(unreached, fallback) + ", \"operations\": " + std::to_string(operations) +
         ", \"operations_in_engines\": " + std::to_string(operations_in_engines) + ", \"flops\": " + number(flops, 0) +
         ", \"flops_in_engines\": " + number(flops_in_engines, 6) +
         ", \"separations\": " + json_list(separations, separation) +
         ", \"min_block_size\": " + std::to_string(min_block_size) +
         ", \"smaller_blocks\": " + json_list(smaller_blocks, blocks) + "}";
}

}  // namespace torchweld
