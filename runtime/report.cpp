#include "runtime/report.h"

#include <cstdio>
#include <map>

#include "core/error.h"

namespace torchweld {
namespace {

constexpr const char* kAttribute = "torchweld_report";

struct StoredFallback {
  std::string op;
  std::string reason;
  std::string source;
  void fields(auto&& f) {
    f("op", op);
    f("reason", reason);
    f("source", source);
  }
};
void print_field(std::string& out, const StoredFallback& fallback) { out += print_fields(fallback); }
void parse_field(TextReader& in, StoredFallback& fallback) { fallback = parse_fields<StoredFallback>(in); }

struct Stored {
  std::vector<StoredFallback> fallbacks;
  double flops_in_engines = 0;
  void fields(auto&& f) {
    f("fallbacks", fallbacks);
    f("flops_in_engines", flops_in_engines);
  }
};

std::string number(double value, int digits) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.*f", digits, value);
  return buffer;
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
  Stored stored{{}, report.flops_in_engines};
  for (const Fallback& f : report.fallbacks) stored.fallbacks.push_back({f.op, f.reason, f.source});
  module.register_attribute(kAttribute, c10::StringType::get(), print_fields(stored));
}

Report stored_report(const torch::jit::Module& module) {
  if (!module.hasattr(kAttribute)) {
    throw Error(
        "this module was not compiled by Torchweld; pass the result of torchweld.compile or a file saved from it");
  }
  const std::string text = module.attr(kAttribute).toStringRef();
  TextReader in(text);
  Stored stored = parse_fields<Stored>(in);
  Report report;
  report.flops_in_engines = stored.flops_in_engines;
  for (const StoredFallback& f : stored.fallbacks) report.fallbacks.push_back({f.op, f.reason, f.source});
  return report;
}

std::string Report::text() const {
  std::string out = std::to_string(engines.size()) + (engines.size() == 1 ? " engine, " : " engines, ") +
                    number(flops_in_engines * 100, 1) + " % of the arithmetic in engines, " +
                    std::to_string(fallbacks.size()) + " operation" + (fallbacks.size() == 1 ? "" : "s") +
                    " left to LibTorch\n";
  for (const EngineReport& engine : engines) {
    out += "\n" + engine.name + ": " + std::to_string(engine.steps.size()) + " steps";
    if (!engine.precision.empty()) out += " in " + engine.precision;
    if (engine.arena_bytes > 0) out += ", arena " + number(static_cast<double>(engine.arena_bytes) / 1e6, 1) + " MB";
    out += "\n";
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
  return out;
}

std::string Report::json() const {
  auto step = [](const EngineReport::Step& s) {
    return "{\"op\": " + quoted(short_op(s.op)) + ", \"tactic\": " + quoted(s.tactic) +
           ", \"source\": " + quoted(s.source) + ", \"microseconds\": " + number(s.microseconds, 3) + "}";
  };
  auto engine = [&](const EngineReport& e) {
    return "{\"name\": " + quoted(e.name) + ", \"precision\": " + quoted(e.precision) +
           ", \"inputs\": " + json_list(e.inputs, quoted) + ", \"outputs\": " + json_list(e.outputs, quoted) +
           ", \"arena_bytes\": " + std::to_string(e.arena_bytes) +
           ", \"constant_bytes\": " + std::to_string(e.constant_bytes) +
           ", \"launches\": " + std::to_string(e.launches) + ", \"flops\": " + number(e.flops, 0) +
           ", \"steps\": " + json_list(e.steps, step) + "}";
  };
  auto fallback = [](const Fallback& f) {
    return "{\"op\": " + quoted(f.op) + ", \"reason\": " + quoted(f.reason) + ", \"source\": " + quoted(f.source) + "}";
  };
  return "{\"engines\": " + json_list(engines, engine) + ", \"fallbacks\": " + json_list(fallbacks, fallback) +
         ", \"flops_in_engines\": " + number(flops_in_engines, 6) + "}";
}

}  // namespace torchweld
