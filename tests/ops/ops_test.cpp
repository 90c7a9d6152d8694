// Every row of the case list against LibTorch; every importer against the list.
#include <ATen/Context.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/operator.h>

#include <iostream>
#include <set>

#include "core/error.h"
#include "core/ops/aten_types.h"
#include "core/ops/fused.h"
#include "tests/ops/harness.h"
#include "tests/tolerance.h"

namespace torchweld::test {
namespace {

constexpr Layout kLayouts[] = {Layout::kContiguous, Layout::kChannelsLast, Layout::kTransposed, Layout::kSliced,
                               Layout::kExpanded};

bool same_memory(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].strides() != b[i].strides()) return false;
  }
  return true;
}

/// Runs of a row on one device. CUDA runs compile device code, so they are fewer: layouts vary with the first shapes
/// only.
class CaseTest : public testing::Test {
 public:
  CaseTest(const Case& row, c10::DeviceType device) : row_(row), device_(device) {}

  void TestBody() override {
    if (device_ == c10::kCUDA && !at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
    CompiledCase compiled(row_);
    for (const std::vector<Shape>& shapes : row_.shapes) {
      for (c10::ScalarType dtype : dtypes_of(row_)) {
        bool all_layouts = device_ == c10::kCPU || &shapes == &row_.shapes.front();
        std::vector<at::Tensor> plain = inputs_for(shapes, dtype, Layout::kContiguous);
        for (Layout layout : kLayouts) {
          std::vector<at::Tensor> inputs = inputs_for(shapes, dtype, layout);
          if (layout != Layout::kContiguous && (!all_layouts || same_memory(inputs, plain))) continue;
          SCOPED_TRACE("dtype " + dtype_name(dtype) + ", " + layout_name(layout) + ", x " +
                       to_string(type_of(inputs[0])));
          run(compiled, inputs, layout);
          if (HasFatalFailure()) return;
        }
      }
    }
    if (runs_ == 0) GTEST_SKIP() << "LibTorch itself runs the row for no dtype on this device";
  }

 private:
  std::vector<at::Tensor> inputs_for(const std::vector<Shape>& shapes, c10::ScalarType dtype, Layout layout) const {
    return make_inputs(row_, shapes, dtype, layout, c10::Device(device_, device_ == c10::kCUDA ? 0 : -1));
  }

  void run(const CompiledCase& compiled, const std::vector<at::Tensor>& inputs, Layout layout) {
    if (*row_.refusal) {
      ++runs_;
      return expect_refusal(compiled, inputs);
    }
    std::vector<at::Tensor> eager;
    try {
      eager = compiled.run_eager(inputs);
    } catch (const std::exception& error) {
      // A dtype or layout for which LibTorch itself has no kernel on this device.
      std::string words = error.what();
      if (words.find("not implemented for") != std::string::npos) return;
      if (layout != Layout::kContiguous) {
        if (words.find("view size is not compatible") != std::string::npos) return;
        if (words.find("is not contiguous") != std::string::npos) return;
      }
      throw;
    }
    ++runs_;
    std::vector<at::Tensor> reference = compiled.run_eager(widened(inputs));
    try {
      std::unique_ptr<Graph> graph = compiled.import(inputs);
      graph->verify();
      check_types(*graph, eager, layout);
      check_results("meaning", run_aten(*graph, inputs), eager, reference, inputs);
      check_results("plan", compiled.run_plan(inputs), eager, reference, inputs);
    } catch (const std::exception& error) {
      FAIL() << error.what();
    }
  }

  void check_types(const Graph& graph, const std::vector<at::Tensor>& eager, Layout layout) const {
    ASSERT_EQ(graph.outputs().size(), eager.size());
    bool promised = !row_.free_layout && (layout == Layout::kContiguous || layout == Layout::kChannelsLast);
    for (size_t i = 0; i < eager.size(); ++i) {
      TensorType inferred = graph.outputs()[i]->type;
      TensorType actual = type_of(eager[i]);
      ASSERT_EQ(to_string(with_strides(inferred, {})), to_string(with_strides(actual, {}))) << graph.text();
      if (!promised || device_ != c10::kCPU) continue;
      EXPECT_TRUE(same_layout(actual.shape, inferred.strides, actual.strides))
          << "inferred " << to_string(inferred) << ", eager gives " << to_string(actual);
    }
  }

  static void check_results(const char* what, const std::vector<at::Tensor>& results,
                            const std::vector<at::Tensor>& eager, const std::vector<at::Tensor>& reference,
                            const std::vector<at::Tensor>& inputs) {
    ASSERT_EQ(results.size(), eager.size()) << what;
    for (size_t i = 0; i < eager.size(); ++i) {
      ASSERT_EQ(results[i].sizes(), eager[i].sizes()) << what;
      ASSERT_EQ(results[i].scalar_type(), eager[i].scalar_type()) << what;
      ASSERT_EQ(compare(results[i], eager[i], reference[i], largest_number(inputs)), "") << what;
    }
  }

  void expect_refusal(const CompiledCase& compiled, const std::vector<at::Tensor>& inputs) {
    try {
      compiled.import(inputs);
    } catch (const Unsupported& refusal) {
      EXPECT_NE(std::string(refusal.what()).find(row_.refusal), std::string::npos) << refusal.what();
      return;
    }
    FAIL() << "was not refused";
  }

  const Case& row_;
  c10::DeviceType device_;
  int runs_ = 0;  // dtypes, shapes and layouts that were compared with LibTorch
};

void collect_operators(const torch::jit::Block* block, std::set<std::string>& names) {
  for (const torch::jit::Node* node : block->nodes()) {
    for (const torch::jit::Block* inner : node->blocks()) collect_operators(inner, names);
    if (!node->maybeOperator()) continue;
    const c10::OperatorName& name = node->schema().operator_name();
    std::string base = name.name;
    names.insert(toString(name));
    if (base.back() == '_' && name.overload_name.empty()) names.insert(base.substr(0, base.size() - 1));
    if (base.back() == '_' && !name.overload_name.empty()) {
      names.insert(base.substr(0, base.size() - 1) + "." + name.overload_name);
    }
  }
}

/// True when LibTorch has the operator, or its in-place form.
bool exists(const std::string& schema) {
  size_t dot = schema.find('.');
  std::string base = schema.substr(0, dot);
  std::string overload = dot == std::string::npos ? "" : schema.substr(dot + 1);
  for (const std::string& name : {base, base + "_"}) {
    for (const auto& op : torch::jit::getAllOperatorsFor(c10::Symbol::fromQualString(name))) {
      if (op->schema().overload_name() == overload) return true;
    }
  }
  return false;
}

TEST(Coverage, EveryImporterIsAnOperatorOfLibTorch) {
  for (const auto& [schema, importer] : op_set().imports()) EXPECT_TRUE(exists(schema)) << schema;
}

TEST(Coverage, EveryImporterHasACase) {
  std::set<std::string> used;
  std::string expressions;
  for (const Family& family : families()) {
    for (const Case& row : family.cases) {
      collect_operators(CompiledCase(row).script().block(), used);
      expressions += std::string(row.expression) + "\n";
    }
  }
  std::vector<std::string> schemas = operators_of_known_types();
  std::erase_if(schemas, [](const std::string& schema) { return !schema.starts_with("aten::"); });
  for (const auto& [schema, importer] : op_set().imports()) schemas.push_back(schema);
  for (const std::string& schema : schemas) {
    // The compiler replaces aliases (absolute -> abs), so for these the row's own words count.
    std::string base = schema.substr(0, schema.find('.')).substr(std::string("aten::").size());
    bool named = expressions.find("." + base + "(") != std::string::npos;
    EXPECT_TRUE(used.count(schema) || named) << schema << " has no row in tests/ops/*_cases.cpp";
  }
}

}  // namespace
}  // namespace torchweld::test

int main(int argc, char** argv) {
  using namespace torchweld::test;
  testing::InitGoogleTest(&argc, argv);
  // The rule compares with f32 as f32 is.
  at::globalContext().setAllowTF32CuDNN(false);
  for (const Family& family : families()) {
    for (const Case& row : family.cases) {
      for (c10::DeviceType device : {c10::kCPU, c10::kCUDA}) {
        std::string suite = std::string(family.name) + (device == c10::kCPU ? "_cpu" : "_cuda");
        testing::RegisterTest(suite.c_str(), row.name, nullptr, nullptr, __FILE__, __LINE__,
                              [&row, device]() -> testing::Test* { return new CaseTest(row, device); });
      }
    }
  }
  int result = RUN_ALL_TESTS();
  const testing::UnitTest& unit = *testing::UnitTest::GetInstance();
  std::cout << "ops: " << unit.successful_test_count() << " passed, " << unit.failed_test_count() << " failed, "
            << unit.skipped_test_count() << " skipped" << (at::hasCUDA() ? "" : " (no CUDA device)") << std::endl;
  return result;
}
