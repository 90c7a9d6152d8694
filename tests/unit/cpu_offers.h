// Runs what kernels of the CPU offer for a node.
#pragma once

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "core/ops/constant.h"
#include "core/ops/fused.h"
#include "kernels/kernel.h"
#include "tests/tolerance.h"

namespace torchweld::test {

/// Floats in [-1, 2), small integers, bools.
inline at::Tensor random_tensor(const TensorType& type) {
  at::Tensor tensor = empty_tensor(type);
  tensor.copy_(type.is_floating() ? at::rand(type.shape) * 3 - 1
                                  : at::randint(0, type.dtype == c10::kBool ? 2 : 5, type.shape));
  return tensor;
}

/// Runs one offer of the graph's last node; constants come from the graph, all else is `inputs`.
inline std::vector<at::Tensor> run_offer(const Graph& graph, const Offers::Offer& offer,
                                         const std::vector<at::Tensor>& inputs) {
  const Node& node = *graph.nodes().back();
  auto kernel = offer.build();
  std::vector<at::Tensor> in;
  for (const Value* v : node.inputs()) in.push_back(constant_of(v) ? *constant_of(v) : inputs.at(v->index()));
  for (size_t i : kernel->packed_inputs()) in.at(i) = at::Tensor();
  std::vector<at::Tensor> out;
  for (const auto& v : node.outputs()) {
    out.push_back(kernel->allocates_outputs() ? at::Tensor() : empty_tensor(v->type));
    if (out.back().defined() && v->type.is_floating()) out.back().fill_(NAN);
  }
  std::vector<const at::Tensor*> in_pointers;
  std::vector<at::Tensor*> out_pointers;
  for (const at::Tensor& t : in) in_pointers.push_back(&t);
  for (at::Tensor& t : out) out_pointers.push_back(&t);
  at::Tensor workspace = at::empty({kernel->workspace_bytes() + 256}, at::kByte);
  auto address = (reinterpret_cast<uintptr_t>(workspace.data_ptr()) + 255) / 256 * 256;
  kernel->run({in_pointers, out_pointers, reinterpret_cast<void*>(address), nullptr});
  return out;
}

/// `text` with every "T[" as the dtype's name.
inline std::string with_dtype_name(std::string text, const std::string& dtype) {
  for (size_t at = text.find("T["); at != std::string::npos; at = text.find("T[", at + dtype.size()))
    text.replace(at, 1, dtype);
  return text;
}

/// What tactic `wanted` offers for the last node of `text`, whose dtypes stand as "T[...]", keeps the tolerance rule on
/// `inputs`; it does offer.
inline void expect_exact(const std::string& text, const std::string& dtype, const std::vector<at::Tensor>& inputs,
                         const std::string& wanted) {
  auto graph = Graph::parse(with_dtype_name(text, dtype));
  auto wide = Graph::parse(with_dtype_name(text, "f64"));
  std::vector<at::Tensor> exact_inputs;
  for (const at::Tensor& x : inputs) exact_inputs.push_back(x.is_floating_point() ? x.to(c10::kDouble) : x);
  // The weights of both graphs are the first one's.
  for (auto a = graph->nodes().begin(), b = wide->nodes().begin(); a != graph->nodes().end(); ++a, ++b) {
    if ((*a)->as<Constant>())
      wide->set_attrs(b->get(), Constant{.value = (*a)->as<Constant>()->value.tensor().to(c10::kDouble), .name = {}});
  }
  std::vector<at::Tensor> eager = run_aten(*graph, inputs);
  std::vector<at::Tensor> reference = run_aten(*wide, exact_inputs);
  Offers offers = offers_for(*graph->nodes().back(), {});
  bool seen = false;
  for (const Offers::Offer& offer : offers.offers()) {
    if (offer.tactic != wanted) continue;
    seen = true;
    std::vector<at::Tensor> results = run_offer(*graph, offer, inputs);
    for (size_t i = 0; i < eager.size(); ++i) {
      ASSERT_TRUE(
          same_layout(graph->outputs()[i]->type.shape, results[i].strides().vec(), graph->outputs()[i]->type.strides));
      EXPECT_EQ(compare(results[i], eager[i], reference[i], largest_number(inputs)), "")
          << offer.tactic << " " << offer.config << " " << dtype << " " << text;
    }
  }
  std::string why;
  for (const auto& [tactic, reason] : offers.refusals()) why += tactic + ": " + reason + "\n";
  EXPECT_TRUE(seen) << wanted << " makes no offer for " << dtype << " " << text << "\n" << why;
}

/// The same on random numbers, the same ones at each call.
inline void expect_exact(const std::string& text, const std::string& dtype, const std::string& wanted) {
  at::manual_seed(0);
  auto graph = Graph::parse(with_dtype_name(text, dtype));
  std::vector<at::Tensor> inputs;
  for (const auto& input : graph->inputs()) inputs.push_back(random_tensor(input->type));
  expect_exact(text, dtype, inputs, wanted);
}

}  // namespace torchweld::test
