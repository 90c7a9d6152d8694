// The three ways in which something can go wrong, and who hears of each.
#pragma once

#include <concepts>
#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>

namespace torchweld {

/// A mistake of the caller. The message says what is wrong and what to change; Python sees a ValueError.
class Error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Something asked for that this machine or build cannot give; Python sees a RuntimeError.
class UnavailableError : public Error {
  using Error::Error;
};

/// An op or module part that an engine cannot express. Never reaches the caller: the part stays in LibTorch and the
/// message becomes its reason in the report.
class Unsupported : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A defect of Torchweld itself.
class InternalError : public std::logic_error {
  using std::logic_error::logic_error;
};

/// States what an op needs; a false condition throws Unsupported with `need` in words.
inline void expect(bool condition, std::string_view need) {
  if (!condition) throw Unsupported(std::string(need));
}

/// The same where the words have to be put together, which is done only when they are needed: conditions are looked at
/// for every node of every plan.
template <std::invocable Words>
void expect(bool condition, const Words& words) {
  if (!condition) throw Unsupported(words());
}

/// What a user can read of the text of an error: behind the first line, LibTorch's carry a stack trace.
inline std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

/// States what must hold in our own code; a false condition throws InternalError naming the place.
void check(bool condition, std::string_view what, std::source_location where = std::source_location::current());
/// The same, as for expect().
template <std::invocable Words>
void check(bool condition, const Words& words, std::source_location where = std::source_location::current()) {
  if (!condition) check(false, words(), where);
}

}  // namespace torchweld
