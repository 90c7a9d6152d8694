// Reductions, rows and pooling of the CPU against f64, within the tolerance rule.
#include "tests/unit/cpu_offers.h"

namespace torchweld {
namespace {

using test::expect_exact;

const std::vector<std::string> kFloats{"f32", "f64", "f16", "bf16"};

std::string graph_of(const std::string& x, const std::string& op) {
  return "graph(%x: T" + x + ") {\n %y = " + op + "(%x)\n return %y\n}";
}

std::string reduce_op(const std::string& kind, const std::string& axes, bool keepdim, double parameter = 1) {
  return "reduce{kind=\"" + kind + "\", axes=" + axes + ", keepdim=" + (keepdim ? "true" : "false") +
         ", parameter=" + std::to_string(parameter) + "}";
}

/// A tensor in which every seventh number is NaN or infinite.
at::Tensor special_tensor(const TensorType& type) {
  at::Tensor plain = at::rand({type.numel()}) * 3 - 1;
  static const float special[] = {NAN, INFINITY, -INFINITY, INFINITY, 0.0f, -0.0f};
  for (int64_t i = 0; i < type.numel(); i += 7) plain.mutable_data_ptr<float>()[i] = special[i / 7 % 6];
  at::Tensor tensor = empty_tensor(type);
  return tensor.copy_(plain.reshape(type.shape));
}

void expect_exact_on_special(const std::string& text, const std::string& dtype, const std::string& wanted) {
  auto graph = Graph::parse(test::with_dtype_name(text, dtype));
  expect_exact(text, dtype, {special_tensor(graph->inputs()[0]->type)}, wanted);
}

TEST(CpuReduce, EveryKindAndDtype) {
  for (const std::string& dtype : kFloats) {
    for (const char* kind :
         {"sum", "mean", "prod", "amax", "amin", "var", "std", "logsumexp", "norm", "argmax", "argmin"}) {
      expect_exact(graph_of("[3,37]", reduce_op(kind, "[1]", false)), dtype, "cpu_reduce");
      expect_exact(graph_of("[19,5,70]", reduce_op(kind, "[0]", true)), dtype, "cpu_reduce");
      expect_exact(graph_of("[5,1]", reduce_op(kind, "[1]", true, 1)), dtype, "cpu_reduce");
      expect_exact_on_special(graph_of("[30,9]", reduce_op(kind, "[1]", false)), dtype, "cpu_reduce");
      expect_exact_on_special(graph_of("[30,9]", reduce_op(kind, "[0]", false)), dtype, "cpu_reduce");
    }
    expect_exact(graph_of("[4,50]", reduce_op("norm", "[1]", false, 2)), dtype, "cpu_reduce");
  }
}

TEST(CpuReduce, SizesAndStrides) {
  for (const char* kind : {"sum", "amax", "var", "logsumexp"}) {
    for (const char* x :
         {"[2,40,7,9]", "[2,40,7,9]{2520,1,360,40}", "[2,3,17,300]", "[2,3,1,1]", "[1,1300,7,7]{63700,1,9100,1300}"}) {
      expect_exact(graph_of(x, reduce_op(kind, "[2, 3]", false)), "f32", "cpu_reduce");
      expect_exact(graph_of(x, reduce_op(kind, "[0, 2, 3]", true)), "f32", "cpu_reduce");
      expect_exact(graph_of(x, reduce_op(kind, "[0, 1, 2, 3]", false)), "f32", "cpu_reduce");
      expect_exact(graph_of(x, reduce_op(kind, "[1]", false)), "f32", "cpu_reduce");
    }
    expect_exact(graph_of("[40,60]{1,40}", reduce_op(kind, "[1]", false)), "f32", "cpu_reduce");
    expect_exact(graph_of("[40,60]{1,40}", reduce_op(kind, "[0]", false)), "f32", "cpu_reduce");
    expect_exact(graph_of("[7,60]{100,1}", reduce_op(kind, "[1]", false)), "f32", "cpu_reduce");
    expect_exact(graph_of("[]", reduce_op(kind, "[]", false, 0)), "f32", "cpu_reduce");
  }
  expect_exact(graph_of("[3,200000]", reduce_op("sum", "[1]", false)), "f32", "cpu_reduce");
  expect_exact(graph_of("[300000]", reduce_op("argmax", "[0]", false)), "f32", "cpu_reduce");
  expect_exact(graph_of("[300000]", reduce_op("var", "[0]", false)), "bf16", "cpu_reduce");
}

TEST(CpuReduce, OverNothing) {
  for (const char* kind : {"sum", "mean", "prod", "var", "logsumexp", "norm"}) {
    expect_exact(graph_of("[3,0]", reduce_op(kind, "[1]", false)), "f32", "cpu_reduce");
    expect_exact(graph_of("[0,5]", reduce_op(kind, "[0]", true)), "f32", "cpu_reduce");
  }
}

TEST(CpuReduce, LargeMeanSmallSpread) {
  auto graph = Graph::parse("graph(%x: f32[8,500]) {\n return %x\n}");
  at::Tensor x = test::random_tensor(graph->inputs()[0]->type) * 1e-2 + 1000;
  expect_exact(graph_of("[8,500]", reduce_op("var", "[1]", false)), "f32", {x}, "cpu_reduce");
  expect_exact(graph_of("[8,500]", reduce_op("std", "[0]", false)), "f32", {x}, "cpu_reduce");
}

TEST(CpuReduce, Bools) {
  for (const char* kind : {"any", "all"}) {
    for (const char* axes : {"[0]", "[1]", "[0, 1]"}) {
      for (int64_t ones : {0, 1, 2, 3}) {
        at::Tensor x = ones == 3 ? at::rand({5, 40}) > 0.1 : at::rand({5, 40}) < ones * 0.5 - 1e-9;
        expect_exact("graph(%x: b8[5,40]) {\n %y = " + reduce_op(kind, axes, false) + "(%x)\n return %y\n}", "f32", {x},
                     "cpu_reduce");
      }
    }
  }
}

TEST(CpuRows, Softmax) {
  for (const std::string& dtype : kFloats) {
    for (const char* log : {"true", "false"}) {
      for (const char* x : {"[3,16]", "[2,3,1000]", "[40,17]", "[1,33]", "[300,128]"}) {
        std::string axis = std::string(x) == "[2,3,1000]" ? "2" : "1";
        std::string op = "softmax{axis=" + axis + ", log=" + log + "}";
        expect_exact(graph_of(x, op), dtype, "cpu_rows");
        expect_exact_on_special(graph_of(x, op), dtype, "cpu_rows");
      }
      expect_exact("graph(%x: T[2,40,3,5]{600,1,200,40}) {\n %y = softmax{axis=1, log=" + std::string(log) +
                       "}(%x) : T[2,40,3,5]{600,1,200,40}\n return %y\n}",
                   dtype, "cpu_rows");
    }
  }
}

TEST(CpuRows, LayerNorm) {
  for (const std::string& dtype : kFloats) {
    for (int operands : {1, 2, 3}) {
      std::string weights = " %w = constant{value=T[60]}()\n %b = constant{value=T[60]}()\n";
      std::string arguments = operands == 1 ? "(%x)" : operands == 2 ? "(%x, %w)" : "(%x, %w, %b)";
      expect_exact("graph(%x: T[7,3,60]) {\n" + weights + " %y = layer_norm{rank=1, eps=0.00001}" + arguments +
                       "\n return %y\n}",
                   dtype, "cpu_rows");
    }
    expect_exact(graph_of("[5,7,33]", "layer_norm{rank=2, eps=0.001}"), dtype, "cpu_rows");
    expect_exact_on_special(graph_of("[50,33]", "layer_norm{rank=1, eps=0.001}"), dtype, "cpu_rows");
  }
}

TEST(CpuRows, RmsNorm) {
  for (const std::string& dtype : kFloats) {
    expect_exact(
        "graph(%x: T[7,3,60]) {\n %w = constant{value=T[60]}()\n %y = rms_norm{rank=1, eps=0.00001}(%x, %w)\n"
        " return %y\n}",
        dtype, "cpu_rows");
    expect_exact(graph_of("[5,7,33]", "rms_norm{rank=2, eps=none}"), dtype, "cpu_rows");
    expect_exact_on_special(graph_of("[50,33]", "rms_norm{rank=1, eps=0.001}"), dtype, "cpu_rows");
  }
}

TEST(CpuPool, WindowsAndLayouts) {
  const std::vector<std::string> layouts{"[2,37,11,9]", "[2,37,11,9]{3663,1,333,37}", "[1,3,14,31]",
                                         "[2,80,7,7]{3920,1,560,80}"};
  const std::vector<std::string> ops{
      "max_pool{kernel=[3, 3], stride=[2, 2], padding=[1, 1], dilation=[1, 1], ceil_mode=false}",
      "max_pool{kernel=[2, 3], stride=[2, 1], padding=[0, 1], dilation=[2, 1], ceil_mode=true}",
      "avg_pool{kernel=[3, 3], stride=[2, 2], padding=[1, 1], ceil_mode=false, count_include_pad=true}",
      "avg_pool{kernel=[3, 2], stride=[2, 2], padding=[1, 0], ceil_mode=true, count_include_pad=true}",
      "avg_pool{kernel=[3, 3], stride=[2, 2], padding=[1, 1], ceil_mode=true, count_include_pad=false}",
      "avg_pool{kernel=[2, 2], stride=[1, 2], padding=[0, 0], ceil_mode=false, count_include_pad=true, "
      "divisor_override=3}",
      "adaptive_pool{kind=\"avg\", output=[1, 1]}",
      "adaptive_pool{kind=\"avg\", output=[5, 3]}",
      "adaptive_pool{kind=\"avg\", output=[13, 1]}"};
  for (const std::string& dtype : kFloats) {
    for (const std::string& x : layouts) {
      for (const std::string& op : ops) {
        expect_exact(graph_of(x, op), dtype, "cpu_pool");
        if (dtype == "f32") expect_exact_on_special(graph_of(x, op), dtype, "cpu_pool");
      }
    }
  }
}

TEST(CpuPool, OneAndThreeDimensions) {
  expect_exact(graph_of("[2,5,19]", "max_pool{kernel=[3], stride=[2], padding=[1], dilation=[1], ceil_mode=false}"),
               "f32", "cpu_pool");
  expect_exact(graph_of("[2,5,19]", "adaptive_pool{kind=\"avg\", output=[4]}"), "f32", "cpu_pool");
  for (const char* x : {"[1,5,7,6,9]", "[1,5,7,6,9]{1890,1,270,45,5}"}) {
    expect_exact(graph_of(x,
                          "max_pool{kernel=[3, 2, 2], stride=[2, 2, 1], padding=[1, 0, 1], dilation=[1, 1, 1], "
                          "ceil_mode=false}"),
                 "f32", "cpu_pool");
  }
  expect_exact(graph_of("[1,5,7,6,9]",
                        "avg_pool{kernel=[3, 2, 2], stride=[2, 2, 1], padding=[1, 0, 1], "
                        "ceil_mode=true, count_include_pad=false}"),
               "f32", "cpu_pool");
}

}  // namespace
}  // namespace torchweld
