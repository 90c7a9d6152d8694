#include "conversion/select.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>

#include <algorithm>

#include "conversion/measure.h"
#include "conversion/place.h"
#include "core/environment.h"
#include "core/error.h"
#include "core/ops/constant.h"

#ifdef TORCHWELD_WITH_CUDA
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#endif

namespace torchweld {
namespace {

/// Equal nodes (DenseNet has dozens) are decided once, and offers that are known to lose are not built again.
class Selector {
 public:
  Selector(const Options& options, bool tune, TimingCache& cache, c10::Device device)
      : options_(options), tune_(tune), cache_(cache), device_(device) {
    context_.allow_tf32 = !options.disable_tf32;
    if (options.workspace_size > 0) context_.workspace_limit = options.workspace_size;
    context_.tune = tune;
  }

  Choice choose(const Node& node) {
    std::string key = timing_key(node, device_);
    auto known = cache_.find(key);
    // A remembered choice may be any of the tuned offers, so all must be on the table to find it again.
    context_.tune = tune_ || known.has_value();
    Offers offers = offers_for(node, context_);
    for (const auto& [tactic, reason] : offers.refusals()) log(4, node.op() + ": " + tactic + " refuses: " + reason);
    if (known) {
      for (const Offers::Offer& offer : offers.offers()) {
        if (offer.tactic != known->tactic || offer.config != known->config) continue;
        if (auto kernel = build(node, offer)) return {kernel, offer.tactic, offer.config, known->microseconds};
      }
    }
    Choice best = tune_ && offers.offers().size() > 1 ? fastest(node, offers) : first(node, offers);
    expect(best.kernel != nullptr, "nothing runs " + node.attrs.text() + reasons(offers));
    cache_.set(key, {best.tactic, best.config, best.microseconds});
    log(3, node.op() + " -> " + best.tactic + " " + best.config + " " + std::to_string(best.microseconds) + " us");
    return best;
  }

 private:
  std::shared_ptr<const Kernel> build(const Node& node, const Offers::Offer& offer) {
    try {
      return offer.build();
    } catch (const std::exception& error) {
      drop(node, offer, error);
      return nullptr;
    }
  }

  void drop(const Node& node, const Offers::Offer& offer, const std::exception& error) {
    log(2, "dropped for " + node.op() + ": " + offer.tactic + " " + offer.config + ": " + error.what());
    dropped_ += "; " + offer.tactic + " " + offer.config + ": " + error.what();
  }

  Choice first(const Node& node, const Offers& offers) {
    for (const Offers::Offer& offer : offers.offers()) {
      if (auto kernel = build(node, offer)) return {kernel, offer.tactic, offer.config, 0};
    }
    return {};
  }

  Choice fastest(const Node& node, const Offers& offers) {
    Workbench bench(node);
    Choice best;
    for (const Offers::Offer& offer : offers.offers()) {
      auto kernel = build(node, offer);
      if (!kernel) continue;
      try {
        double microseconds = measure(*kernel, bench, device_, budget_ms());
        log(4, node.op() + ": " + offer.tactic + " " + offer.config + " " + std::to_string(microseconds) + " us");
        if (!best.kernel || microseconds < best.microseconds) best = {kernel, offer.tactic, offer.config, microseconds};
      } catch (const std::exception& error) {
        drop(node, offer, error);
      }
    }
    return best;
  }

  double budget_ms() const {
    double per_level[] = {1, 1, 2, 3, 10, 30};
    return per_level[options_.optimization_level];
  }

  std::string reasons(const Offers& offers) const {
    std::string text;
    for (const auto& [tactic, reason] : offers.refusals()) text += "; " + tactic + ": " + reason;
    return text + dropped_;
  }

  const Options& options_;
  bool tune_;
  TimingCache& cache_;
  c10::Device device_;
  KernelContext context_;
  std::string dropped_;
};

}  // namespace

std::string device_name(c10::Device device) {
#ifdef TORCHWELD_WITH_CUDA
  if (device.is_cuda()) {
    const cudaDeviceProp* properties = at::cuda::getDeviceProperties(device.index());
    return std::string(properties->name) + ", sm_" + std::to_string(properties->major) + std::to_string(properties->minor);
  }
#endif
  (void)device;
  return "cpu, " + at::get_cpu_capability() + ", " + std::to_string(at::get_num_threads()) + " threads";
}

std::string timing_key(const Node& node, c10::Device device) {
  std::string key = device_name(device) + " | " + node.attrs.text() + "(";
  for (size_t i = 0; i < node.inputs().size(); ++i) {
    const Value* input = node.input(i);
    key += (i ? ", " : "") + std::string(constant_of(input) ? "const " : "") + to_string(input->type);
  }
  key += ") -> ";
  for (const auto& output : node.outputs()) key += to_string(output->type) + " ";
  // One line, no tabs: the cache is a text file of lines.
  std::replace(key.begin(), key.end(), '\n', ' ');
  std::replace(key.begin(), key.end(), '\t', ' ');
  return key;
}

Selection select(const Graph& graph, const Options& options, bool tune, TimingCache& cache,
                 const std::function<void(size_t, size_t)>& progress) {
  Selection selection;
  std::vector<const Node*> nodes;
  for (const auto& node : graph.nodes()) {
    int64_t offset = 0;
    if (!node->as<Constant>() && !is_free_view(*node, &offset)) nodes.push_back(node.get());
  }
  if (nodes.empty()) return selection;
  Selector selector(options, tune, cache, nodes.front()->output()->type.device);
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (progress) progress(i, nodes.size());
    selection.emplace(nodes[i], selector.choose(*nodes[i]));
  }
  return selection;
}

}  // namespace torchweld
