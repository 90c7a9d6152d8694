#include "conversion/source_line.h"

#include <torch/csrc/jit/ir/ir.h>

#include <vector>

namespace torchweld {
namespace {

bool is_torch_file(const std::string& file) {
  return file.find("torch/nn/") != std::string::npos || file.find("torch/jit/") != std::string::npos ||
         file.find("torch/_jit") != std::string::npos || file.find("torch/functional.py") != std::string::npos;
}

std::string short_name(const std::string& file) {
  size_t slash = file.rfind('/');
  return slash == std::string::npos ? file : file.substr(slash + 1);
}

// A traced node's range holds Python's call stack as text, innermost first: "/path/file.py(12): forward\n...".
std::vector<std::pair<std::string, std::string>> traced_frames(const std::string& text) {
  std::vector<std::pair<std::string, std::string>> frames;
  for (size_t start = 0; start < text.size();) {
    size_t end = text.find('\n', start);
    if (end == std::string::npos) end = text.size();
    std::string line = text.substr(start, end - start);
    size_t open = line.find(".py(");
    size_t close = open == std::string::npos ? open : line.find("):", open);
    if (close != std::string::npos) {
      frames.emplace_back(line.substr(0, open + 3), line.substr(open + 4, close - open - 4));
    }
    start = end + 1;
  }
  return frames;
}

std::vector<std::pair<std::string, std::string>> frames_of(const torch::jit::SourceRange& range) {
  if (!range.source()) return {};
  // Of a traced node the location is only the innermost frame.
  if (auto frames = traced_frames(range.source()->text_str().str()); !frames.empty()) return frames;
  if (auto location = range.file_line_col()) {
    auto [file, line, column] = *location;
    return {{file, std::to_string(line)}};
  }
  return {};
}

}  // namespace

std::string source_line(const torch::jit::Node* node) {
  // A module loaded from a file has the lines of its serialised code, which remember the user's own.
  torch::jit::SourceRange range = node->sourceRange();
  if (auto original = range.findSourceRangeThatGenerated()) range = *original;
  std::vector<std::pair<std::string, std::string>> frames = frames_of(range);
  if (auto stack = node->callstack()) {
    // Outermost first; each entry's range is the place of the call.
    auto entries = (*stack)->vec();
    for (auto it = entries.rbegin(); it != entries.rend(); ++it) {
      for (auto& frame : frames_of(std::get<1>(*it))) frames.push_back(frame);
    }
  }
  for (const auto& [file, line] : frames) {
    if (!is_torch_file(file)) return short_name(file) + ":" + line;
  }
  return frames.empty() ? "" : short_name(frames.front().first) + ":" + frames.front().second;
}

}  // namespace torchweld
