// Passes on graphs as text: tests/golden/<pass>.txt holds cases of the form
//
//   # name of the case [options: f16, bf16; or cuda: as if the graph were for CUDA]
//   graph(...) { ... }
//   ---
//   graph(...) { ... }
//
// UPDATE_GOLDEN=1 rewrites what stands below the lines.
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/nan_to_num.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "conversion/passes/passes.h"
#include "core/error.h"
#include "core/ops/fused.h"

namespace torchweld {
namespace {

struct Case {
  std::string name;
  std::string before;
  std::string after;
};

std::filesystem::path file_of(const std::string& pass) { return "tests/golden/" + pass + ".txt"; }

std::vector<Case> read_cases(const std::string& pass) {
  std::ifstream file(file_of(pass));
  std::vector<Case> cases;
  bool below = false;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("# ")) {
      cases.push_back({line.substr(2), "", ""});
      below = false;
    } else if (line == "---") {
      below = true;
    } else if (!cases.empty() && !line.empty()) {
      (below ? cases.back().after : cases.back().before) += line + "\n";
    }
  }
  return cases;
}

void write_cases(const std::string& pass, const std::vector<Case>& cases) {
  std::ofstream file(file_of(pass));
  for (size_t i = 0; i < cases.size(); ++i) {
    file << (i ? "\n" : "") << "# " << cases[i].name << "\n" << cases[i].before << "---\n" << cases[i].after;
  }
}

const Pass& find_pass(const std::string& name) {
  for (const Pass& pass : passes()) {
    if (pass.name == name) return pass;
  }
  throw Error("no pass " + name);
}

PassContext context_of(const Case& test) {
  PassContext context;
  context.tensor_cores = true;
  if (test.name.find("[f16]") != std::string::npos) context.precisions.push_back(c10::kHalf);
  if (test.name.find("[bf16]") != std::string::npos) context.precisions.push_back(c10::kBFloat16);
  return context;
}

/// Says of all values, in bodies too, that they lie there.
void move_types(Graph& graph, c10::Device device) {
  for (const auto& input : graph.inputs()) input->type.device = device;
  for (const auto& node : graph.nodes()) {
    for (const auto& output : node->outputs()) output->type.device = device;
    auto* fused = node->as<Fused>();
    if (!fused) continue;
    std::shared_ptr<Graph> body = fused->body->clone();
    move_types(*body, device);
    graph.set_attrs(node.get(), Fused{body});
  }
}

std::unique_ptr<Graph> run_pass(const std::string& pass, const Case& test) {
  auto graph = Graph::parse(test.before);
  bool on_cuda = test.name.find("[cuda]") != std::string::npos;
  if (on_cuda) move_types(*graph, c10::Device(c10::kCUDA, 0));
  find_pass(pass).run(*graph, context_of(test));
  graph->sweep();
  if (on_cuda) move_types(*graph, c10::kCPU);
  graph->verify();
  return graph;
}

std::vector<at::Tensor> random_inputs(const Graph& graph) {
  std::vector<at::Tensor> inputs;
  for (const auto& input : graph.inputs()) {
    const TensorType& type = input->type;
    at::Tensor values = type.is_floating() ? at::rand(type.shape) * 4 - 2 : at::randint(0, 2, type.shape);
    at::Tensor tensor = empty_tensor(type);
    tensor.copy_(values);
    inputs.push_back(tensor);
  }
  return inputs;
}

class Golden : public testing::TestWithParam<std::string> {};

TEST_P(Golden, GivesTheExpectedText) {
  std::vector<Case> cases = read_cases(GetParam());
  ASSERT_FALSE(cases.empty()) << "no cases in " << file_of(GetParam());
  bool update = std::getenv("UPDATE_GOLDEN") != nullptr;
  for (Case& test : cases) {
    std::string text = run_pass(GetParam(), test)->text() + "\n";
    if (update) test.after = text;
    EXPECT_EQ(text, test.after) << test.name;
  }
  if (update) write_cases(GetParam(), cases);
}

TEST_P(Golden, KeepsTheMeaning) {
  for (const Case& test : read_cases(GetParam())) {
    auto before = Graph::parse(test.before);
    auto after = run_pass(GetParam(), test);
    std::vector<at::Tensor> inputs = random_inputs(*before);
    std::vector<at::Tensor> expected = run_aten(*before, inputs);
    std::vector<at::Tensor> results = run_aten(*after, inputs);
    ASSERT_EQ(expected.size(), results.size()) << test.name;
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(expected[i].scalar_type(), results[i].scalar_type()) << test.name;
      EXPECT_EQ(after->outputs()[i]->type.strides, before->outputs()[i]->type.strides) << test.name;
      double tolerance = context_of(test).precisions.size() > 1 ? 5e-2 : 1e-4;
      at::Tensor a = expected[i].to(c10::kDouble);
      EXPECT_TRUE(at::allclose(a, results[i].to(c10::kDouble), tolerance,
                               tolerance * at::nan_to_num(a).abs().max().item<double>(), true))
          << test.name;
    }
  }
}

std::vector<std::string> pass_names() {
  std::set<std::string> names;
  for (const Pass& pass : passes()) names.insert(pass.name);
  return {names.begin(), names.end()};
}

INSTANTIATE_TEST_SUITE_P(Passes, Golden, testing::ValuesIn(pass_names()), [](const auto& row) { return row.param; });

}  // namespace
}  // namespace torchweld
