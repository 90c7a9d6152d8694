// Random graphs, optimised, planned and run on the CPU, beside the ATen line of every node.
//
// FUZZ_GRAPHS: how many (400); FUZZ_SEED: the first seed (0); FUZZ_SECONDS: stop after this time (10).
#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <set>
#include <unordered_map>

#include "conversion/passes/passes.h"
#include "conversion/place.h"
#include "conversion/select.h"
#include "core/environment.h"
#include "core/ops/fused.h"
#include "runtime/executor.h"
#include "tests/fuzz/graphs.h"
#include "tests/tolerance.h"

namespace torchweld::test {
namespace {

int64_t from_environment(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoll(text) : otherwise;
}

/// Tensors of the graph's input types; `poison`: NaN for every number.
std::vector<at::Tensor> make_arguments(const Graph& graph, bool poison) {
  std::vector<at::Tensor> arguments;
  for (const auto& input : graph.inputs()) {
    const TensorType& type = input->type;
    // Where elements share memory all of them get the last number.
    at::Tensor tensor = at::full({type.storage_bytes() / static_cast<int64_t>(c10::elementSize(type.dtype))}, 0,
                                 at::TensorOptions(type.dtype));
    if (type.is_floating()) {
      tensor.copy_(at::rand(tensor.sizes(), at::kDouble) * 3 - 1);
      if (poison) tensor.fill_(NAN);
    } else {
      tensor.copy_(at::randint(0, type.dtype == c10::kBool ? 2 : 5, tensor.sizes()));
    }
    arguments.push_back(tensor.as_strided(type.shape, type.strides));
  }
  return arguments;
}

/// The largest magnitude of any value in a run; infinity when one is not finite.
double largest_inside(const Graph& graph, const std::vector<at::Tensor>& inputs) {
  auto open = graph.clone();
  for (const auto& node : open->nodes()) open->add_output(node->output());
  std::vector<at::Tensor> all = run_aten(*open, inputs);
  for (const at::Tensor& tensor : all) {
    if (tensor.is_floating_point() && !tensor.isfinite().all().item<bool>()) return INFINITY;
  }
  all.insert(all.end(), inputs.begin(), inputs.end());
  return largest_number(all);
}

bool share_memory(const at::Tensor& a, const at::Tensor& b) { return a.numel() > 0 && a.is_alias_of(b); }

/// The coarsest floating dtype among `value` and all that it is made of: it is no more exact than that.
c10::ScalarType exactness_of(const Value* value, std::unordered_map<const Value*, c10::ScalarType>& known) {
  if (auto found = known.find(value); found != known.end()) return found->second;
  c10::ScalarType coarsest = value->type.dtype;
  if (value->producer() && value->type.is_floating()) {
    for (const Value* input : value->producer()->inputs()) {
      c10::ScalarType dtype = exactness_of(input, known);
      if (c10::isFloatingType(dtype) && rounding_unit(dtype) > rounding_unit(coarsest)) coarsest = dtype;
    }
  }
  return known[value] = coarsest;
}

/// Why the engine for `graph` is wrong; empty when it is right, or when numbers grow too large to tell.
std::string find_difference(const Graph& graph, uint64_t seed) {
  at::manual_seed(seed);
  std::vector<at::Tensor> inputs = make_arguments(graph, false);
  std::vector<at::Tensor> wide_inputs;
  for (const at::Tensor& x : inputs) wide_inputs.push_back(x.is_floating_point() ? x.to(c10::kDouble) : x);
  auto wide = widened(graph);
  double largest = largest_inside(*wide, wide_inputs);
  bool is_half = graph.inputs()[0]->type.dtype == c10::kHalf;
  if (largest > (is_half ? 1e4 : 1e6)) return "";
  std::vector<at::Tensor> expected = run_aten(graph, inputs);
  std::vector<at::Tensor> exact = run_aten(*wide, wide_inputs);
  std::vector<at::Tensor> kept;
  for (const at::Tensor& x : inputs) kept.push_back(x.clone());

  auto optimised = graph.clone();
  optimize(*optimised, {});
  TimingCache timings;
  Options options;
  options.optimization_level = 0;
  Selection selection = select(*optimised, options, /*tune=*/false, timings);
  Executor executor(place(*optimised, selection, c10::kCPU), /*cuda_graphs=*/false);
  executor.run(make_arguments(graph, true));
  std::vector<at::Tensor> results = executor.run(inputs);

  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].equal(kept[i])) return "input " + std::to_string(i) + " was written";
  }
  std::unordered_map<const Value*, c10::ScalarType> exactness;
  for (size_t i = 0; i < results.size(); ++i) {
    std::string output = "output " + std::to_string(i) + ": ";
    TensorType type = type_of(results[i]), wanted = graph.outputs()[i]->type;
    if (type.dtype != wanted.dtype || type.shape != wanted.shape ||
        !same_layout(wanted.shape, type.strides, wanted.strides)) {
      return output + to_string(wanted) + " became " + to_string(type);
    }
    c10::ScalarType dtype = exactness_of(graph.outputs()[i], exactness);
    // A sum in another order counts for the largest number on the way to it; f16 and bf16 are summed in f32.
    bool summed_in_itself = dtype == c10::kFloat || dtype == c10::kDouble;
    std::string wrong = compare(results[i].to(dtype), expected[i].to(dtype), exact[i],
                                summed_in_itself ? 8 * largest : largest_number(inputs));
    if (!wrong.empty()) return output + wrong;
    // Who writes to one result must not change another, or an input.
    auto lies_with = [&](const std::vector<at::Tensor>& tensors, const std::vector<at::Tensor>& theirs, size_t k) {
      return share_memory(results[i], tensors[k]) && !share_memory(expected[i], theirs[k]);
    };
    for (size_t k = 0; k < inputs.size(); ++k) {
      if (lies_with(inputs, inputs, k)) return output + "shares memory with input " + std::to_string(k);
    }
    for (size_t k = 0; k < i; ++k) {
      if (lies_with(results, expected, k)) return output + "shares memory with output " + std::to_string(k);
    }
  }
  return "";
}

/// The same with passes and tactics left out.
std::string check_without(const std::string& disabled, const Graph& graph, uint64_t seed) {
  setenv("TORCHWELD_DISABLE", disabled.c_str(), 1);
  std::string wrong;
  try {
    wrong = find_difference(graph, seed);
  } catch (const std::exception& error) {
    wrong = error.what();
  }
  unsetenv("TORCHWELD_DISABLE");
  return wrong;
}

/// What can be left out: every pass, and every tactic of the CPU but the last.
std::vector<std::string> names_to_disable() {
  std::set<std::string> names;
  for (const Pass& pass : passes()) names.insert(pass.name);
  for (const Tactic& tactic : tactics()) {
    if (tactic.device == c10::kCPU) names.insert(tactic.name);
  }
  names.erase(tactics().back().name);
  return {names.begin(), names.end()};
}

TEST(RandomGraphs, MeanTheSameOptimised) {
  int64_t first = from_environment("FUZZ_SEED", 0);
  int64_t count = from_environment("FUZZ_GRAPHS", 400);
  auto end = std::chrono::steady_clock::now() + std::chrono::seconds(from_environment("FUZZ_SECONDS", 10));
  std::vector<std::string> names = names_to_disable();
  int64_t done = 0;
  for (; done < count && std::chrono::steady_clock::now() < end; ++done) {
    auto seed = static_cast<uint64_t>(first + done);
    auto graph = random_graph(seed);
    // Every other graph goes without one pass or tactic, so that what comes next in the tables is seen too.
    std::string disabled = seed % 2 == 0 ? "" : names[seed / 2 % names.size()];
    std::string wrong = check_without(disabled, *graph, seed);
    if (wrong.empty()) continue;
    std::string cures;
    for (const std::string& name : names) {
      if (check_without(disabled + "," + name, *graph, seed).empty()) cures += " " + name;
    }
    ADD_FAILURE() << "seed " << seed << (disabled.empty() ? "" : " without " + disabled) << ": " << wrong
                  << "\nright without:" << cures << "\n"
                  << graph->text();
  }
  std::printf("%lld graphs from seed %lld\n", static_cast<long long>(done), static_cast<long long>(first));
  EXPECT_GT(done, 0);
}

}  // namespace
}  // namespace torchweld::test
