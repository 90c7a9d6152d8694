// Kernels of the CPU against the ATen meaning of their nodes.
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "core/ops/pointwise.h"
#include "kernels/cpu/block_functions.h"
#include "tests/unit/cpu_offers.h"

namespace torchweld {
namespace {

using test::random_tensor;
using test::run_offer;

/// Every offer for the last node of `text` gives what ATen gives; at least the tactics in `wanted` offer.
void expect_like_aten(const std::string& text, const std::set<std::string>& wanted, double f32_tolerance = 2e-5) {
  auto graph = Graph::parse(text);
  std::vector<at::Tensor> inputs;
  for (const auto& input : graph->inputs()) inputs.push_back(random_tensor(input->type));
  std::vector<at::Tensor> expected = run_aten(*graph, inputs);
  std::set<std::string> seen;
  Offers offers = offers_for(*graph->nodes().back(), {});
  for (const Offers::Offer& offer : offers.offers()) {
    seen.insert(offer.tactic);
    std::vector<at::Tensor> results = run_offer(*graph, offer, inputs);
    for (size_t i = 0; i < expected.size(); ++i) {
      const TensorType& type = graph->outputs()[i]->type;
      ASSERT_EQ(results[i].scalar_type(), type.dtype) << offer.tactic << " " << text;
      EXPECT_TRUE(same_layout(type.shape, results[i].strides().vec(), type.strides)) << offer.tactic << " " << text;
      double tolerance = type.dtype == c10::kHalf ? 4e-3 : type.dtype == c10::kBFloat16 ? 3e-2 : f32_tolerance;
      EXPECT_TRUE(at::allclose(expected[i].to(c10::kDouble), results[i].to(c10::kDouble), tolerance, tolerance, true))
          << offer.tactic << " " << text << "\nlargest difference "
          << (expected[i].to(c10::kDouble) - results[i].to(c10::kDouble)).abs().max().item<double>();
    }
  }
  for (const std::string& name : wanted) {
    std::string why;
    for (const auto& [tactic, reason] : offers.refusals()) why += tactic + ": " + reason + "\n";
    EXPECT_TRUE(seen.count(name)) << name << " makes no offer for " << text << "\n" << why;
  }
}

std::string pointwise_text(const PointwiseFn& row, const std::string& dtype, int64_t size) {
  std::string text = "graph(";
  std::string operands;
  for (int i = 0; i < row.arity; ++i) {
    std::string name = "%x" + std::to_string(i);
    bool condition = std::string(row.name) == "where" && i == 0;
    text += (i ? ", " : "") + name + ": " + (condition ? "b8" : dtype) + "[" + std::to_string(size) + "]";
    operands += (i ? ", " : "") + name;
  }
  return text + ") {\n %y = pointwise{fn=\"" + row.name + "\"}(" + operands + ")\n return %y\n}";
}

/// Rows whose ATen line reads the later operands as numbers.
const std::set<std::string> kNumberOperands{"celu", "hardshrink", "softshrink", "threshold", "elu", "softplus"};

TEST(CpuPointwise, TakesEveryFloatingRow) {
  for (const PointwiseFn& row : pointwise_table()) {
    if (row.refuses == PointwiseFn::Refuses::kFloats) continue;
    EXPECT_TRUE(cpu::find_block_function(row.name, c10::kFloat)) << row.name;
    EXPECT_TRUE(cpu::find_block_function(row.name, c10::kDouble)) << row.name;
  }
}

TEST(CpuPointwise, EveryRowAndDtypeEqualsAten) {
  for (const PointwiseFn& row : pointwise_table()) {
    if (kNumberOperands.count(row.name)) continue;
    for (const char* dtype : {"f32", "f64", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "b8"}) {
      // ATen rounds the quotient to bf16 before it cuts it off.
      if (std::string(row.name).ends_with("_div") && std::string(dtype).ends_with("f16")) continue;
      std::string text = pointwise_text(row, dtype, 1500);
      try {
        auto graph = Graph::parse(text);
        std::vector<at::Tensor> inputs;
        for (const auto& input : graph->inputs()) inputs.push_back(random_tensor(input->type));
        run_aten(*graph, inputs);
      } catch (const std::exception&) {
        continue;  // ATen has no such function of this dtype, or divides by a random zero
      }
      expect_like_aten(text, {"aten"});
    }
  }
}

TEST(CpuPointwise, ActivationsWithNumbers) {
  for (const std::string& fn :
       {std::string("celu"), std::string("hardshrink"), std::string("softshrink"), std::string("leaky_relu")}) {
    expect_like_aten("graph(%x: f32[2100]) {\n %a = constant{value=f64[](0.5)}()\n %y = pointwise{fn=\"" + fn +
                         "\"}(%x, %a)\n return %y\n}",
                     {"cpu_pointwise"});
  }
  for (const std::string& fn :
       {std::string("threshold"), std::string("elu"), std::string("softplus"), std::string("clamp")}) {
    expect_like_aten(
        "graph(%x: f32[2100]) {\n %a = constant{value=f64[](0.5)}()\n %b = constant{value=f64[](0.75)}()\n %y = "
        "pointwise{fn=\"" +
            fn + "\"}(%x, %a, %b)\n return %y\n}",
        {"cpu_pointwise"});
  }
}

TEST(CpuPointwise, StridesAndBroadcasting) {
  for (const char* types :
       {"%x: f32[2,3,17,19]{969,1,57,3}, %y: f32[2,3,17,19]", "%x: f32[2,3,17,19], %y: f32[2,3,17,19]{969,1,57,3}",
        "%x: f32[2,40,9,7]{2520,1,280,40}, %y: f32[1,40,1,1]", "%x: f32[2,40,9,7], %y: f32[2,40,1,1]",
        "%x: f32[5,1,7], %y: f32[1,300,1]", "%x: f32[40,60]{1,40}, %y: f32[40,60]", "%x: f32[], %y: f32[]",
        "%x: f32[0,3], %y: f32[3]", "%x: f32[1], %y: f32[300,70]{140,2}", "%x: f16[3,5,4], %y: f16[4]",
        "%x: bf16[2,3,33,31], %y: bf16[2,3,33,31]{3069,1,93,3}", "%x: i64[70,31], %y: i64[31]"}) {
    expect_like_aten("graph(" + std::string(types) + ") {\n %z = pointwise{fn=\"mul\"}(%x, %y)\n return %z\n}",
                     {"cpu_pointwise"});
  }
}

TEST(CpuPointwise, CastsAndCopies) {
  for (const char* from : {"f32", "f64", "f16", "bf16", "i64", "i32", "u8", "b8"}) {
    for (const char* to : {"f32", "f64", "f16", "bf16", "i64", "i32", "u8", "b8"}) {
      expect_like_aten("graph(%x: " + std::string(from) + "[3,700]) {\n %y = cast{dtype=" + to + "}(%x)\n return %y\n}",
                       {"cpu_pointwise"});
    }
  }
  expect_like_aten("graph(%x: f32[2,3,30,40]) {\n %y = copy{strides=[3600, 1, 120, 3]}(%x)\n return %y\n}",
                   {"cpu_pointwise"});
  expect_like_aten(
      "graph(%x: f16[2,3,30,40]{3600,1,120,3}) {\n %y = copy{strides=[3600, 1200, 40, 1]}(%x)\n return %y\n}",
      {"cpu_pointwise"});
}

TEST(CpuPointwise, BodyWithSeveralResults) {
  expect_like_aten(R"(graph(%x: f16[4,600], %y: f16[600], %c: b8[4,600]) {
    %r, %s = fused{body=graph(%x: f16[4,600], %y: f16[600], %c: b8[4,600]) {
      %n = constant{value=f64[](0.5)}()
      %a = pointwise{fn="mul"}(%x, %y)
      %b = pointwise{fn="tanh"}(%a)
      %d = pointwise{fn="where"}(%c, %b, %n)
      %e = cast{dtype=f32}(%d)
      %f = pointwise{fn="exp"}(%e)
      return %f, %b
    }}(%x, %y, %c)
    return %r, %s
  })",
                   {"cpu_pointwise"}, 2e-3);  // ATen rounds to f16 on the way
}

std::string conv_text(const std::string& dtype, const std::string& x, const std::string& weight,
                      const std::string& attrs, const std::string& out, const std::string& strides,
                      const std::string& epilogue) {
  std::string type = dtype + out + strides;
  return "graph(%x: " + dtype + x + ", %r: " + type + ") {\n %w = constant{value=" + dtype + weight + "}()\n" +
         " %y = fused{body=graph(%x: " + dtype + x + ", %w: " + dtype + weight + ", %r: " + type + ") {\n" +
         "  %n = constant{value=f64[](0.0)}()\n  %m = constant{value=f64[](6.0)}()\n" + "  %c = conv{" + attrs +
         "}(%x, %w) : " + type + "\n" + epilogue + "\n  return %z\n }}(%x, %w, %r) : " + type + "\n return %y\n}";
}

TEST(CpuConv, WithEpilogues) {
  std::string attrs = "stride=[1, 1], padding=[1, 1], dilation=[1, 1], groups=1, output_padding=[0, 0]";
  std::map<std::string, bool> epilogues{
      {"  %z = pointwise{fn=\"relu\"}(%c)", true},
      {"  %z = pointwise{fn=\"silu\"}(%c)", true},
      {"  %z = pointwise{fn=\"clamp\"}(%c, %n, %m)", true},
      {"  %z = pointwise{fn=\"gelu\"}(%c)", true},
      {"  %z = pointwise{fn=\"add\"}(%r, %c)", true},
      {"  %a = pointwise{fn=\"add\"}(%c, %r)\n  %z = pointwise{fn=\"relu\"}(%a)", true},
      {"  %a = pointwise{fn=\"add\"}(%c, %r)\n  %z = pointwise{fn=\"silu\"}(%a)", false},
      {"  %z = pointwise{fn=\"mul\"}(%c, %r)", false}};
  for (const auto& [epilogue, taken] : epilogues) {
    std::set<std::string> wanted{"split"};
    if (taken) wanted.insert("onednn_conv");
    expect_like_aten(
        conv_text("f32", "[2,4,6,5]{120,1,20,4}", "[8,4,3,3]", attrs, "[2,8,6,5]", "{240,1,40,8}", epilogue), wanted);
  }
}

TEST(CpuConv, Forms) {
  auto plain = [](const std::string& x, const std::string& w, const std::string& attrs) {
    expect_like_aten("graph(%x: f32" + x + ") {\n %w = constant{value=f32" + w + "}()\n %y = conv{" + attrs +
                         "}(%x, %w)\n return %y\n}",
                     {"onednn_conv"});
  };
  plain("[2,6,7,7]{294,1,42,6}", "[6,1,3,3]",
        "stride=[2, 2], padding=[1, 1], dilation=[1, 1], groups=6, output_padding=[0, 0]");
  plain("[2,6,9,9]", "[4,3,3,3]", "stride=[1, 1], padding=[2, 2], dilation=[2, 2], groups=2, output_padding=[0, 0]");
  plain("[1,2,4,4,4]", "[3,2,3,3,3]",
        "stride=[1, 1, 1], padding=[1, 1, 1], dilation=[1, 1, 1], groups=1, output_padding=[0, 0, 0]");
  plain("[2,4,5,5]", "[4,3,3,3]",
        "stride=[2, 2], padding=[1, 1], dilation=[1, 1], groups=2, transposed=true, output_padding=[1, 1]");
}

TEST(CpuLinear, WithEpilogues) {
  for (const char* end : {"  %z = pointwise{fn=\"gelu\"}(%c)", "  %z = pointwise{fn=\"add\"}(%c, %r)"}) {
    expect_like_aten(std::string("graph(%x: f32[2,5,16], %r: f32[2,5,8]) {\n %w = constant{value=f32[8,16]}()\n %b = "
                                 "constant{value=f32[8]}()\n") +
                         " %y = fused{body=graph(%x: f32[2,5,16], %w: f32[8,16], %b: f32[8], %r: f32[2,5,8]) {\n  %c = "
                         "linear(%x, %w, %b)\n" +
                         end + "\n  return %z\n }}(%x, %w, %b, %r)\n return %y\n}",
                     {"onednn_linear"});
  }
}

}  // namespace
}  // namespace torchweld
