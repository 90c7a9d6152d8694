#include "core/fields.h"

#include <ATen/ops/empty.h>

#include <charconv>
#include <cmath>
#include <type_traits>

#include "core/error.h"
#include "core/graph.h"

namespace torchweld {
namespace {

bool is_name_char(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || c == ':' || c == '/';
}

}  // namespace

void TextReader::skip_space() {
  while (position_ < text_.size()) {
    if (std::isspace(static_cast<unsigned char>(text_[position_]))) {
      ++position_;
    } else if (text_[position_] == '#') {
      while (position_ < text_.size() && text_[position_] != '\n') ++position_;
    } else {
      return;
    }
  }
}

bool TextReader::at_end() {
  skip_space();
  return position_ == text_.size();
}

char TextReader::peek() {
  skip_space();
  return position_ < text_.size() ? text_[position_] : '\0';
}

bool TextReader::accept(std::string_view token) {
  skip_space();
  if (text_.substr(position_, token.size()) != token) return false;
  // A word token must not be the head of a longer word.
  bool is_word = is_name_char(token.back()) && token.back() != ':';
  size_t end = position_ + token.size();
  if (is_word && end < text_.size() && is_name_char(text_[end])) return false;
  position_ = end;
  return true;
}

void TextReader::require(std::string_view token) {
  if (!accept(token)) fail("expected '" + std::string(token) + "'");
}

std::string TextReader::word() {
  skip_space();
  size_t start = position_;
  while (position_ < text_.size() && is_name_char(text_[position_])) ++position_;
  if (position_ == start) fail("expected a name");
  return std::string(text_.substr(start, position_ - start));
}

std::string TextReader::quoted() {
  require("\"");
  std::string result;
  while (position_ < text_.size() && text_[position_] != '"') {
    if (text_[position_] == '\\' && position_ + 1 < text_.size()) {
      ++position_;
      result += text_[position_] == 'n' ? '\n' : text_[position_];
    } else {
      result += text_[position_];
    }
    ++position_;
  }
  if (position_ == text_.size()) fail("text in quotes does not end");
  ++position_;
  return result;
}

std::string TextReader::number() {
  skip_space();
  size_t start = position_;
  for (std::string_view special : {"-inf", "inf", "nan"}) {
    if (accept(special)) return std::string(special);
  }
  while (position_ < text_.size() &&
         (std::isdigit(static_cast<unsigned char>(text_[position_])) || text_[position_] == '.' ||
          text_[position_] == 'e' || text_[position_] == '-' || text_[position_] == '+')) {
    ++position_;
  }
  if (position_ == start) fail("expected a number");
  return std::string(text_.substr(start, position_ - start));
}

void TextReader::fail(const std::string& what) const {
  size_t line = 1;
  size_t column = 1;
  for (size_t i = 0; i < position_ && i < text_.size(); ++i) {
    column = text_[i] == '\n' ? 1 : column + 1;
    line += text_[i] == '\n';
  }
  throw Error("line " + std::to_string(line) + ", column " + std::to_string(column) + ": " + what);
}

void print_field(std::string& out, bool value) { out += value ? "true" : "false"; }
void print_field(std::string& out, int64_t value) { out += std::to_string(value); }

void print_field(std::string& out, double value) {
  char buffer[32];
  std::string text = "nan";  // which has no sign
  if (!std::isnan(value)) text.assign(buffer, std::to_chars(buffer, std::end(buffer), value).ptr);
  // A whole number keeps a point, so that it reads back as a float.
  out += text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
}

void print_field(std::string& out, const std::string& value) {
  out += '"';
  for (char c : value) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  out += '"';
}

void print_field(std::string& out, c10::ScalarType value) { out += dtype_name(value); }
void print_field(std::string& out, const TensorType& value) { out += to_string(value); }

void print_field(std::string& out, const c10::IValue& value) {
  auto print_all = [&](c10::ArrayRef<c10::IValue> elements) {
    for (size_t i = 0; i < elements.size(); ++i) {
      if (i) out += ", ";
      print_field(out, elements[i]);
    }
  };
  if (value.isNone()) {
    out += "none";
  } else if (value.isBool()) {
    print_field(out, value.toBool());
  } else if (value.isInt()) {
    print_field(out, value.toInt());
  } else if (value.isDouble()) {
    print_field(out, value.toDouble());
  } else if (value.isString()) {
    print_field(out, value.toStringRef());
  } else if (value.isDevice()) {
    out += "device(";
    print_field(out, value.toDevice().str());
    out += ")";
  } else if (value.isList()) {
    // The element kind is told by a letter, because an empty list shows none: i f b t(ensor) s(tring) o(ther).
    const auto& element = *value.toList().elementType();
    char kind = element.kind() == c10::TypeKind::IntType      ? 'i'
                : element.kind() == c10::TypeKind::FloatType  ? 'f'
                : element.kind() == c10::TypeKind::BoolType   ? 'b'
                : element.kind() == c10::TypeKind::StringType ? 's'
                : element.kind() == c10::TypeKind::TensorType ? 't'
                                                              : 'o';
    out += kind;
    out += "[";
    print_all(value.toListRef());
    out += "]";
  } else if (value.isTuple()) {
    out += "(";
    print_all(value.toTupleRef().elements());
    out += ")";
  } else {
    check(false, "a generic op holds an argument of kind " + value.tagKind());
  }
}

void print_field(std::string& out, const at::Tensor& value) {
  TensorType type = type_of(value);
  out += to_string(type);
  if (value.numel() > 16 || value.is_meta()) return;
  out += "(";
  at::Tensor flat = value.to(c10::kCPU, c10::kDouble).reshape({-1});
  for (int64_t i = 0; i < flat.numel(); ++i) {
    if (i) out += ", ";
    double element = flat.data_ptr<double>()[i];
    if (type.is_floating()) {
      print_field(out, element);
    } else {
      print_field(out, static_cast<int64_t>(element));
    }
  }
  out += ")";
}

void print_field(std::string& out, const std::shared_ptr<const Graph>& value) { out += value->text(); }

void parse_field(TextReader& in, bool& value) {
  value = in.accept("true");
  if (!value) in.require("false");
}

/// By from_chars, which knows "nan" and "inf", and no locale.
template <class Number>
static Number parsed(TextReader& in, const std::string& text) {
  Number value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size()) return value;
  in.fail("'" + text + (std::is_integral_v<Number> ? "' is not a whole number" : "' is not a number"));
}

void parse_field(TextReader& in, int64_t& value) { value = parsed<int64_t>(in, in.number()); }
void parse_field(TextReader& in, double& value) { value = parsed<double>(in, in.number()); }

void parse_field(TextReader& in, std::string& value) { value = in.quoted(); }

void parse_field(TextReader& in, c10::ScalarType& value) {
  std::string name = in.word();
  auto dtype = parse_dtype(name);
  if (!dtype) in.fail("unknown element type '" + name + "'");
  value = *dtype;
}

void parse_field(TextReader& in, TensorType& value) {
  parse_field(in, value.dtype);
  parse_field(in, value.shape);
  value.strides = contiguous_strides(value.shape);
  if (in.accept("{")) {
    value.strides.clear();
    while (!in.accept("}")) {
      if (!value.strides.empty()) in.require(",");
      parse_field(in, value.strides.emplace_back());
    }
    if (value.strides.size() != value.shape.size()) in.fail("as many strides as sizes are needed");
  }
  value.device = in.accept("@") ? c10::Device(in.word()) : c10::Device(c10::kCPU);
}

void parse_field(TextReader& in, c10::IValue& value) {
  auto parse_all = [&](auto& elements, const char* end) {
    const TextReader::Level level(in);
    while (!in.accept(end)) {
      if (!elements.empty()) in.require(",");
      c10::IValue element;
      parse_field(in, element);
      elements.push_back(element.to<typename std::decay_t<decltype(elements)>::value_type>());
    }
  };
  auto parse_list = [&](auto list) {
    in.require("[");
    parse_all(list, "]");
    value = list;
  };
  char next = in.peek();
  if (in.accept("none")) {
    value = c10::IValue();
  } else if (in.accept("true")) {
    value = true;
  } else if (in.accept("false")) {
    value = false;
  } else if (in.accept("device")) {
    in.require("(");
    value = c10::Device(in.quoted());
    in.require(")");
  } else if (next == '"') {
    value = in.quoted();
  } else if (in.accept("i")) {
    parse_list(c10::List<int64_t>());
  } else if (in.accept("f")) {
    parse_list(c10::List<double>());
  } else if (in.accept("b")) {
    parse_list(c10::List<bool>());
  } else if (in.accept("s")) {
    parse_list(c10::List<std::string>());
  } else if (in.accept("t") || in.accept("o")) {
    // Tensor arguments are placeholders (see ops/aten.h): a list of them is kept as a generic list of integers.
    parse_list(c10::impl::GenericList(next == 't' ? c10::TypePtr(c10::TensorType::get())
                                                  : c10::TypePtr(c10::OptionalType::ofTensor())));
  } else if (in.accept("(")) {
    std::vector<c10::IValue> elements;
    parse_all(elements, ")");
    value = c10::ivalue::Tuple::create(std::move(elements));
  } else {
    std::string text = in.number();
    value = text.find_first_of(".enf") == std::string::npos ? c10::IValue(parsed<int64_t>(in, text))
                                                            : c10::IValue(parsed<double>(in, text));
  }
}

void parse_field(TextReader& in, at::Tensor& value) {
  TensorType type;
  parse_field(in, type);
  at::Tensor flat = at::empty({type.numel()}, c10::kDouble);
  auto* data = flat.data_ptr<double>();
  if (in.accept("(")) {
    for (int64_t i = 0; i < type.numel(); ++i) {
      if (i) in.require(",");
      parse_field(in, data[i]);
    }
    in.require(")");
  } else {
    uint32_t state = 12345;
    for (int64_t i = 0; i < type.numel(); ++i) {
      state = state * 1664525u + 1013904223u;
      data[i] = static_cast<double>(state >> 8) / (1 << 24) + 0.25;
    }
  }
  value = empty_tensor(type);
  value.copy_(flat.reshape(type.shape));
}

void parse_field(TextReader& in, std::shared_ptr<const Graph>& value) { value = Graph::parse(in); }

}  // namespace torchweld
