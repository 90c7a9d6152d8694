#include "tests/ops/cases.h"

namespace torchweld::test {

const std::vector<Family>& families() {
  static const std::vector<Family> all{
      {"pointwise", pointwise_cases()}, {"conv", conv_cases()},           {"matmul", matmul_cases()},
      {"pool", pool_cases()},           {"reduce", reduce_cases()},       {"norm", norm_cases()},
      {"softmax", softmax_cases()},     {"shape", shape_cases()},         {"resize", resize_cases()},
      {"index", index_cases()},         {"attention", attention_cases()}, {"recurrent", recurrent_cases()},
      {"creation", creation_cases()},   {"generic", generic_cases()},
  };
  return all;
}

}  // namespace torchweld::test
