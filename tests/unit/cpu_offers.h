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

inline double rounding_unit_of(c10::ScalarType dtype) {
  return dtype == c10::kHalf ? 0x1p-11 : dtype == c10::kBFloat16 ? 0x1p-8 : dtype == c10::kFloat ? 0x1p-24 : 0x1p-53;
}

/// The tolerance rule for one offer's result, with room for ATen's luck in tensors of few numbers: at most three times
/// as far from the run in f64 as ATen, plus two rounding units of the largest number. NaN, infinities, integers and
/// bools are ATen's.
inline void expect_within_rule(const at::Tensor& result, const at::Tensor& eager, const at::Tensor& reference,
                               double largest, const std::string& what) {
  at::Tensor r = result.to(c10::kDouble).contiguous();
  at::Tensor e = eager.to(c10::kDouble).contiguous();
  at::Tensor exact = reference.to(c10::kDouble).contiguous();
  double eager_error = 0;
  double error = 0;
  for (int64_t i = 0; i < r.numel(); ++i) {
    double ours = r.const_data_ptr<double>()[i];
    double atens = e.const_data_ptr<double>()[i];
    double wanted = exact.const_data_ptr<double>()[i];
    bool same = ours == atens || (std::isnan(ours) && std::isnan(atens));
    if (!eager.is_floating_point() || !std::isfinite(atens)) {
      ASSERT_TRUE(same) << what << " element " << i << ": " << ours << ", ATen " << atens;
      continue;
    }
    ASSERT_TRUE(std::isfinite(ours)) << what << " element " << i << ": " << ours << ", ATen " << atens;
    largest = std::max(largest, std::abs(wanted));
    eager_error = std::max(eager_error, std::abs(atens - wanted));
    error = std::max(error, std::abs(ours - wanted));
  }
  if (eager.scalar_type() == c10::kDouble)
    eager_error = std::max(eager_error, rounding_unit_of(c10::kDouble) * 64 * largest);
  EXPECT_LE(error, 3 * eager_error + 2 * rounding_unit_of(eager.scalar_type()) * largest)
      << what << ", ATen " << eager_error;
}

/// What tactic `wanted` offers for the last node of `text`, whose dtypes stand as "T[...]", keeps the tolerance rule on
/// `inputs`; it does offer.
inline void expect_exact(const std::string& text, const std::string& dtype, const std::vector<at::Tensor>& inputs,
                         const std::string& wanted) {
  auto graph = Graph::parse(with_dtype_name(text, dtype));
  auto wide = Graph::parse(with_dtype_name(text, "f64"));
  std::vector<at::Tensor> exact_inputs;
  double largest = 0;
  for (const at::Tensor& x : inputs) {
    exact_inputs.push_back(x.is_floating_point() ? x.to(c10::kDouble) : x);
    at::Tensor flat = x.to(c10::kDouble).contiguous();
    for (int64_t i = 0; i < flat.numel(); ++i) {
      double number = std::abs(flat.const_data_ptr<double>()[i]);
      if (std::isfinite(number)) largest = std::max(largest, number);
    }
  }
  // The weights of both graphs are the first one's.
  for (auto a = graph->nodes().begin(), b = wide->nodes().begin(); a != graph->nodes().end(); ++a, ++b) {
    if ((*a)->as<Constant>())
      wide->set_attrs(b->get(), Constant{.value = (*a)->as<Constant>()->value.to(c10::kDouble), .name = {}});
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
      expect_within_rule(results[i], eager[i], reference[i], largest,
                         offer.tactic + " " + offer.config + " " + dtype + " " + text);
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
