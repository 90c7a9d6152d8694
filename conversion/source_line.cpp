#include "conversion/source_line.h"

#include <torch/csrc/jit/ir/ir.h>

#include <algorithm>
#include <functional>
#include <string_view>

namespace torchweld {
namespace {

bool is_torch_file(const std::string& file) {
  return file.find("torch/nn/") != std::string::npos || file.find("torch/jit/") != std::string::npos ||
         file.find("torch/_jit") != std::string::npos || file.find("torch/functional.py") != std::string::npos;
}

/// A place in a file of the user's or of torch's.
struct Frame {
  std::string file;
  std::string line;

  std::string text() const { return file.substr(file.rfind('/') + 1) + ":" + line; }  // npos + 1 is 0
};

/// Calls `visit` with the frames of a range, innermost first, until it returns true.
void visit_frames(const torch::jit::SourceRange& range, const std::function<bool(Frame)>& visit) {
  if (!range.source()) return;
  // A traced node's range holds Python's call stack as text, "/path/file.py(12): forward\n...", and its location is
  // only the innermost frame.
  const std::string text = range.source()->text_str().str();
  std::string_view left = text;
  bool traced = false;
  while (!left.empty()) {
    std::string_view line = left.substr(0, left.find('\n'));
    left.remove_prefix(std::min(left.size(), line.size() + 1));
    size_t open = line.find(".py(");
    size_t close = open == std::string_view::npos ? open : line.find("):", open);
    if (close == std::string_view::npos) continue;
    traced = true;
    if (visit({std::string(line.substr(0, open + 3)), std::string(line.substr(open + 4, close - open - 4))})) return;
  }
  if (traced) return;
  if (auto location = range.file_line_col()) {
    auto& [file, line, column] = *location;
    visit({file, std::to_string(line)});
  }
}

}  // namespace

std::string source_line(const torch::jit::Node* node) {
  std::string first;  // Of all frames, for nodes that only torch's own files mention.
  std::string users;
  auto look = [&](const Frame& frame) {
    if (first.empty()) first = frame.text();
    if (!is_torch_file(frame.file)) users = frame.text();
    return !users.empty();
  };
  // A module loaded from a file has the lines of its serialised code, which remember the user's own.
  torch::jit::SourceRange range = node->sourceRange();
  if (auto original = range.findSourceRangeThatGenerated()) range = *original;
  visit_frames(range, look);
  if (auto stack = users.empty() ? node->callstack() : std::nullopt) {
    // Outermost first; each entry's range is the place of the call.
    auto entries = (*stack)->vec();
    for (auto it = entries.rbegin(); it != entries.rend() && users.empty(); ++it) visit_frames(std::get<1>(*it), look);
  }
  return users.empty() ? first : users;
}

}  // namespace torchweld
