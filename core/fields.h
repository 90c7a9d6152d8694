// Text form of the typed fields of ops and options: `{axis=1, keepdim=true}`. One reflection, `fields(f)`, serves
// printing, parsing, comparing, hashing and saving.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/types.h"

namespace torchweld {

class Graph;

/// A cursor over text. Every failure throws Error with line and column.
class TextReader {
 public:
  explicit TextReader(std::string_view text) : text_(text) {}

  void skip_space();
  bool at_end();
  /// True, and moves past it, when `token` comes next.
  bool accept(std::string_view token);
  void require(std::string_view token);
  /// Letters, digits and `_ . : /`, the alphabet of names.
  std::string word();
  std::string quoted();
  std::string number();
  char peek();
  [[noreturn]] void fail(const std::string& what) const;

  /// Lives while the parts of a value are read, which may have parts themselves: a text that nests without end fails
  /// before the stack does.
  class Level {
   public:
    explicit Level(TextReader& in) : depth_(in.depth_) {
      if (depth_ == kDeepest) in.fail("lists are nested too deeply");
      ++depth_;
    }
    ~Level() { --depth_; }
    Level(const Level&) = delete;

   private:
    static constexpr int kDeepest = 100;
    int& depth_;
  };

 private:
  std::string_view text_;
  size_t position_ = 0;
  int depth_ = 0;
};

void print_field(std::string& out, bool value);
void print_field(std::string& out, int64_t value);
void print_field(std::string& out, double value);
void print_field(std::string& out, const std::string& value);
void print_field(std::string& out, c10::ScalarType value);
void print_field(std::string& out, const TensorType& value);
void print_field(std::string& out, const c10::IValue& value);
void print_field(std::string& out, const std::shared_ptr<const Graph>& value);
/// Up to 16 elements are written out, `f32[2](0.5, 1.0)`; of a larger tensor only the type.
void print_field(std::string& out, const at::Tensor& value);

void parse_field(TextReader& in, bool& value);
void parse_field(TextReader& in, int64_t& value);
void parse_field(TextReader& in, double& value);
void parse_field(TextReader& in, std::string& value);
void parse_field(TextReader& in, c10::ScalarType& value);
void parse_field(TextReader& in, TensorType& value);
void parse_field(TextReader& in, c10::IValue& value);
void parse_field(TextReader& in, std::shared_ptr<const Graph>& value);
/// A tensor whose elements the text does not hold gets made-up ones, always the same for the same type.
void parse_field(TextReader& in, at::Tensor& value);

template <class T>
void print_field(std::string& out, const std::optional<T>& value) {
  if (value) {
    print_field(out, *value);
  } else {
    out += "none";
  }
}

template <class T>
void parse_field(TextReader& in, std::optional<T>& value) {
  if (in.accept("none")) {
    value.reset();
  } else {
    parse_field(in, value.emplace());
  }
}

template <class T>
void print_field(std::string& out, const std::vector<T>& values) {
  out += "[";
  for (size_t i = 0; i < values.size(); ++i) {
    if (i) out += ", ";
    print_field(out, values[i]);
  }
  out += "]";
}

template <class T>
void parse_field(TextReader& in, std::vector<T>& values) {
  values.clear();
  in.require("[");
  while (!in.accept("]")) {
    if (!values.empty()) in.require(",");
    parse_field(in, values.emplace_back());
  }
}

/// `{name=value, ...}`, or nothing for a struct without fields.
template <class A>
std::string print_fields(const A& object) {
  std::string out;
  const_cast<A&>(object).fields([&](const char* name, auto& value) {
    out += out.empty() ? "{" : ", ";
    out += std::string(name) + "=";
    print_field(out, value);
  });
  return out.empty() ? out : out + "}";
}

/// The reverse of print_fields; fields that the text leaves out keep their defaults, unknown ones are an Error.
template <class A>
A parse_fields(TextReader& in) {
  A object;
  if (!in.accept("{")) return object;
  bool first = true;
  while (!in.accept("}")) {
    if (!first) in.require(",");
    first = false;
    std::string name = in.word();
    in.require("=");
    bool known = false;
    object.fields([&](const char* field, auto& value) {
      if (name != field) return;
      known = true;
      parse_field(in, value);
    });
    if (!known) in.fail("unknown field '" + name + "'");
  }
  return object;
}

}  // namespace torchweld
