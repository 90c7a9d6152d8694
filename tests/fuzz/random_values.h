// A random graph as it grows: its inputs, constants and the values that nodes may read.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/graph.h"

namespace torchweld::test {

/// Begins with one to three inputs in various layouts. What cannot be chosen or is too large throws Unsupported.
class RandomValues {
 protected:
  explicit RandomValues(uint64_t seed);

  int64_t below(int64_t count) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(count)); }
  bool chance(double p) { return static_cast<double>(random_() % 1000) < 1000 * p; }
  template <class T>
  T choose(const std::vector<T>& list) {
    return list[static_cast<size_t>(below(static_cast<int64_t>(list.size())))];
  }
  int64_t choose(std::initializer_list<int64_t> list) { return choose(std::vector<int64_t>(list)); }

  Value* add(Attrs attrs, const std::vector<Value*>& inputs);
  /// A pointwise node.
  Value* fn(const char* name, const std::vector<Value*>& inputs);

  /// A value of the graph, the newest ones preferred.
  Value* any();
  /// One of the graph's floating dtype.
  Value* floating(int64_t least_rank = 0);
  /// One of that dtype and rank 4.
  Value* image();

  /// Random numbers in [-scale, scale].
  Value* constant(const Dims& shape, double scale = 1);
  Value* filled(const Dims& shape, double x);
  Value* number(double x);
  Value* whole_number(int64_t x);

  void choose_outputs();

  std::unique_ptr<Graph> graph_ = std::make_unique<Graph>();
  c10::ScalarType dtype_ = c10::kFloat;

 private:
  void add_input();

  std::mt19937_64 random_;
  std::vector<Value*> values_;
  int64_t batch_ = 1;
  int64_t channels_ = 1;
};

}  // namespace torchweld::test
