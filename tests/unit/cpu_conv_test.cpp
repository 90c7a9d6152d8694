// Own convolutions and linear layers of the CPU against f64, within the tolerance rule.
#include "kernels/cpu/isa.h"
#include "tests/unit/cpu_offers.h"

namespace torchweld {
namespace {

using test::expect_exact;

class CpuOwnConv : public testing::Test {
 protected:
  void SetUp() override {
    if (cpu::isa_table().conv.max_rows(1) == 0) GTEST_SKIP() << "neither AVX2 nor AVX-512";
  }
};
using CpuOwnLinear = CpuOwnConv;

struct ConvCase {
  int64_t batch, channels, height, width, out_channels;
  int64_t kernel_height, kernel_width;
  int64_t stride = 1, padding = 0, dilation = 1, groups = 1;
};

std::string list(std::initializer_list<int64_t> numbers) {
  std::string text;
  for (int64_t number : numbers) text += (text.empty() ? "[" : ", ") + std::to_string(number);
  return text + "]";
}

std::string channels_last(int64_t n, int64_t c, int64_t h, int64_t w) {
  return "T" + list({n, c, h, w}) + "{" + list({c * h * w, 1, w * c, c}).substr(1);
}

/// A conv with a bias and the pointwise nodes of `tail`, from %c (and %r, laid out as the result, and %p, one number
/// per channel) to %z.
std::string conv_text(const ConvCase& c, const std::string& tail) {
  int64_t height = (c.height + 2 * c.padding - c.dilation * (c.kernel_height - 1) - 1) / c.stride + 1;
  int64_t width = (c.width + 2 * c.padding - c.dilation * (c.kernel_width - 1) - 1) / c.stride + 1;
  std::string x = channels_last(c.batch, c.channels, c.height, c.width);
  std::string out = channels_last(c.batch, c.out_channels, height, width);
  x.back() = '}';
  out.back() = '}';
  std::string weight = "T" + list({c.out_channels, c.channels / c.groups, c.kernel_height, c.kernel_width});
  std::string per_channel = "T" + list({1, c.out_channels, 1, 1});
  std::string bias = "T" + list({c.out_channels});
  auto twice = [](int64_t number) { return list({number, number}); };
  std::string attrs = "stride=" + twice(c.stride) + ", padding=" + twice(c.padding) +
                      ", dilation=" + twice(c.dilation) + ", groups=" + std::to_string(c.groups) +
                      ", output_padding=[0, 0]";
  std::string constants = " %w = constant{value=" + weight + "}()\n %b = constant{value=" + bias + "}()\n";
  if (tail.empty()) {
    return "graph(%x: " + x + ") {\n" + constants + " %y = conv{" + attrs + "}(%x, %w, %b) : " + out +
           "\n return %y\n}";
  }
  return "graph(%x: " + x + ", %r: " + out + ", %p: " + per_channel + ") {\n" + constants +
         " %y = fused{body=graph(%x: " + x + ", %w: " + weight + ", %b: " + bias + ", %r: " + out +
         ", %p: " + per_channel +
         ") {\n  %n = constant{value=f64[](0.25)}()\n  %m = constant{value=f64[](2.0)}()\n  %c = conv{" + attrs +
         "}(%x, %w, %b) : " + out + "\n" + tail + "\n  return %z\n }}(%x, %w, %b, %r, %p) : " + out + "\n return %y\n}";
}

const std::vector<std::string> kTails{"",
                                      "  %z = pointwise{fn=\"relu\"}(%c)",
                                      "  %z = pointwise{fn=\"clamp\"}(%c, %n, %m)",
                                      "  %z = pointwise{fn=\"silu\"}(%c)",
                                      "  %z = pointwise{fn=\"add\"}(%r, %c)",
                                      "  %a = pointwise{fn=\"add\"}(%c, %r)\n  %z = pointwise{fn=\"relu\"}(%a)",
                                      "  %a = pointwise{fn=\"relu\"}(%c)\n  %z = pointwise{fn=\"add\"}(%a, %r)",
                                      "  %a = pointwise{fn=\"sigmoid\"}(%c)\n  %z = pointwise{fn=\"mul\"}(%a, %c)",
                                      "  %a = pointwise{fn=\"mul\"}(%c, %p)\n  %e = pointwise{fn=\"add\"}(%a, %r)\n  "
                                      "%z = pointwise{fn=\"hardswish\"}(%e)",
                                      "  %z = pointwise{fn=\"add\"}(%c, %c)"};

TEST_F(CpuOwnConv, DenseSizes) {
  for (const ConvCase& c : std::vector<ConvCase>{{2, 7, 9, 11, 5, 1, 1},
                                                 {1, 3, 23, 19, 33, 3, 3, 2, 1},
                                                 {1, 3, 40, 41, 16, 7, 7, 2, 3},
                                                 {2, 20, 13, 6, 100, 3, 3, 1, 1},
                                                 {1, 40, 7, 7, 150, 3, 3, 1, 2, 2},
                                                 {1, 33, 17, 15, 64, 5, 3, 3, 2},
                                                 {3, 12, 1, 1, 40, 1, 1},
                                                 {1, 64, 12, 12, 96, 3, 3, 1, 1, 1, 2},
                                                 {1, 600, 3, 5, 70, 3, 3, 1, 1},
                                                 {1, 1, 30, 30, 17, 3, 3, 1, 1}}) {
    expect_exact(conv_text(c, ""), "f32", "cpu_conv");
    expect_exact(conv_text(c, kTails[3]), "f32", "cpu_conv");
  }
}

TEST_F(CpuOwnConv, Tails) {
  for (const std::string& tail : kTails) {
    expect_exact(conv_text({2, 24, 15, 14, 50, 1, 1}, tail), "f32", "cpu_conv");
    expect_exact(conv_text({1, 300, 5, 4, 520, 3, 3, 1, 1}, tail), "f32", "cpu_conv");
    for (const char* dtype : {"f32", "f16", "bf16"})
      expect_exact(conv_text({2, 37, 15, 14, 37, 3, 3, 1, 1, 1, 37}, tail), dtype, "cpu_conv");
  }
}

TEST_F(CpuOwnConv, DepthwiseSizes) {
  for (int64_t kernel : {2, 3, 5, 7}) {
    for (int64_t stride : {1, 2, 3}) {
      for (int64_t width : {1, 7, 8, 17, 30}) {
        ConvCase c{2, 19, 9, width, 19, kernel, kernel, stride, kernel / 2, 1, 19};
        expect_exact(conv_text(c, ""), "f32", "cpu_conv");
        c.channels = c.out_channels = c.groups = 48;
        expect_exact(conv_text(c, kTails[1]), "f32", "cpu_conv");
      }
    }
  }
  expect_exact(conv_text({1, 32, 20, 20, 32, 3, 3, 1, 2, 2, 32}, ""), "f32", "cpu_conv");
  expect_exact(conv_text({1, 32, 20, 20, 32, 3, 1, 2, 0, 1, 32}, ""), "bf16", "cpu_conv");
}

/// x is a slice of the channels of a wider tensor, and lines have gaps.
TEST_F(CpuOwnConv, InputWithGaps) {
  std::string attrs = "stride=[1, 1], padding=[1, 1], dilation=[1, 1], groups=";
  for (const char* groups : {"1", "20"}) {
    std::string weight = std::string(groups) == "1" ? "T[20,20,3,3]" : "T[20,1,3,3]";
    expect_exact("graph(%x: T[2,20,6,5]{4000,1,400,50}) {\n %w = constant{value=" + weight + "}()\n %y = conv{" +
                     attrs + groups + ", output_padding=[0, 0]}(%x, %w) : T[2,20,6,5]{600,1,100,20}\n return %y\n}",
                 "f32", "cpu_conv");
  }
}

TEST_F(CpuOwnConv, KeepsNanAndInfinity) {
  for (const ConvCase& c : {ConvCase{1, 40, 9, 9, 40, 1, 1}, ConvCase{1, 40, 9, 9, 40, 3, 3, 1, 1, 1, 40}}) {
    for (const std::string& tail : {kTails[1], kTails[2], kTails[3], kTails[5]}) {
      auto graph = Graph::parse(test::with_dtype_name(conv_text(c, tail), "f32"));
      std::vector<at::Tensor> inputs;
      for (const auto& input : graph->inputs()) inputs.push_back(test::random_tensor(input->type));
      inputs[0].select(2, 3).fill_(NAN);
      inputs[0].select(2, 6).fill_(INFINITY);
      expect_exact(conv_text(c, tail), "f32", inputs, "cpu_conv");
    }
  }
}

TEST_F(CpuOwnLinear, SizesAndTails) {
  for (const std::string rows : {"[1,300]", "[7,5,300]", "[200,300]", "[3,1]"}) {
    std::string depth = rows == "[3,1]" ? "1" : "300";
    for (const char* columns : {"19", "40", "1000"}) {
      std::string weight = std::string("T[") + columns + "," + depth + "]";
      std::string bias = std::string("T[") + columns + "]";
      for (const char* fn : {"", "relu", "gelu"}) {
        std::string constants = " %w = constant{value=" + weight + "}()\n %b = constant{value=" + bias + "}()\n";
        std::string text = *fn == '\0'
                               ? "graph(%x: T" + rows + ") {\n" + constants + " %y = linear(%x, %w, %b)\n return %y\n}"
                               : "graph(%x: T" + rows + ") {\n" + constants + " %y = fused{body=graph(%x: T" + rows +
                                     ", %w: " + weight + ", %b: " + bias +
                                     ") {\n  %c = linear(%x, %w, %b)\n  %z = pointwise{fn=\"" + fn +
                                     "\"}(%c)\n  return %z\n }}(%x, %w, %b)\n return %y\n}";
        expect_exact(text, "f32", "cpu_linear");
      }
    }
  }
}

}  // namespace
}  // namespace torchweld
