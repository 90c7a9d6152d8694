#include "conversion/select.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>

#include <c10/core/DeviceGuard.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

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

/// Calls `work(i)` for 0..count-1 on all cores. The first exception is thrown again when all have ended.
void for_each_in_parallel(size_t count, c10::Device device, const std::function<void(size_t)>& work) {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::exception_ptr first_error;
  auto loop = [&] {
    c10::NoGradGuard no_grad;
    c10::OptionalDeviceGuard on_device;
    if (!device.is_cpu()) on_device.reset_device(device);
    for (size_t i = next++; i < count; i = next++) {
      try {
        work(i);
      } catch (...) {
        std::lock_guard lock(mutex);
        if (!first_error) first_error = std::current_exception();
      }
    }
  };
  size_t workers = std::min<size_t>(count, std::clamp(std::thread::hardware_concurrency(), 1u, 32u));
  std::vector<std::thread> threads;
  for (size_t i = 1; i < workers; ++i) threads.emplace_back(loop);
  loop();
  for (std::thread& thread : threads) thread.join();
  // Weights are packed on the default stream, and kernels run on the caller's.
  if (!device.is_cpu()) c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
  if (first_error) std::rethrow_exception(first_error);
}

/// What is on offer for a node, built as far as asked for.
struct Candidates {
  Offers offers;
  std::vector<std::shared_ptr<const Kernel>> kernels;  ///< Null where an offer was not built or failed.
  std::string failures;

  std::string reasons() const {
    std::string text;
    for (const auto& [tactic, reason] : offers.refusals()) text += "; " + tactic + ": " + reason;
    return text + failures;
  }
};

std::string describe(const Offers::Offer& offer) {
  return offer.tactic + (offer.config.empty() ? "" : " " + offer.config);
}

/// Decides in two rounds: unknown kinds of node are timed, each kind once, then every node gets the kernel that the
/// cache says. What can run side by side, building kernels, does.
class Selector {
 public:
  Selector(const Options& options, bool tune, TimingCache& cache, c10::Device device)
      : options_(options), tune_(tune), cache_(cache), device_(device) {
    context_.allow_tf32 = !options.disable_tf32;
    if (options.workspace_size > 0) context_.workspace_limit = options.workspace_size;
  }

  Selection run(const std::vector<const Node*>& nodes, const std::function<void(size_t, size_t)>& progress) {
    if (tune_) time_unknown(nodes, progress);
    std::vector<Choice> choices(nodes.size());
    for_each_in_parallel(nodes.size(), device_, [&](size_t i) { choices[i] = choose(*nodes[i]); });
    Selection selection;
    for (size_t i = 0; i < nodes.size(); ++i) selection.emplace(nodes[i], std::move(choices[i]));
    return selection;
  }

 private:
  void time_unknown(const std::vector<const Node*>& nodes, const std::function<void(size_t, size_t)>& progress) {
    std::map<std::string, const Node*> unknown;
    for (const Node* node : nodes) {
      std::string key = timing_key(*node, device_);
      auto known = cache_.find(key);
      if (!known || known->microseconds == 0) unknown.emplace(std::move(key), node);
    }
    std::vector<std::pair<std::string, const Node*>> kinds(unknown.begin(), unknown.end());
    std::vector<Candidates> candidates(kinds.size());
    if (progress) progress(0, kinds.size());
    for_each_in_parallel(kinds.size(), device_, [&](size_t i) {
      const Node& node = *kinds[i].second;
      candidates[i] = candidates_for(node, /*all=*/true);
      if (candidates[i].kernels.size() < 2) return;  // nothing to decide
      for (size_t k = 0; k < candidates[i].kernels.size(); ++k) build(node, candidates[i], k);
    });
    for (size_t i = 0; i < kinds.size(); ++i) {
      if (progress) progress(i, kinds.size());
      time_candidates(kinds[i].first, *kinds[i].second, candidates[i]);
      candidates[i] = {};  // kernels hold packed weights
    }
  }

  /// Nothing is built yet. `all`: every configuration, not only the one that heuristics put first.
  Candidates candidates_for(const Node& node, bool all) {
    KernelContext context = context_;
    context.tune = all;
    Candidates result{.offers = offers_for(node, context), .kernels = {}, .failures = {}};
    for (const auto& [tactic, reason] : result.offers.refusals()) log(4, node.op() + ": " + tactic + ": " + reason);
    result.kernels.resize(result.offers.offers().size());
    return result;
  }

  bool build(const Node& node, Candidates& candidates, size_t i) {
    const Offers::Offer& offer = candidates.offers.offers()[i];
    try {
      candidates.kernels[i] = offer.build();
      return true;
    } catch (const std::exception& error) {
      log(2, "dropped for " + node.op() + ": " + describe(offer) + ": " + error.what());
      candidates.failures += "; " + describe(offer) + ": " + error.what();
      return false;
    }
  }

  void time_candidates(const std::string& key, const Node& node, const Candidates& candidates) {
    if (candidates.kernels.size() < 2) return;
    Workbench bench(node);
    TimingCache::Entry best;
    for (size_t i = 0; i < candidates.kernels.size(); ++i) {
      if (!candidates.kernels[i]) continue;
      const Offers::Offer& offer = candidates.offers.offers()[i];
      try {
        double microseconds = measure(*candidates.kernels[i], bench, device_, budget_ms());
        log(4, node.op() + ": " + describe(offer) + " " + std::to_string(microseconds) + " us");
        if (best.tactic.empty() || microseconds < best.microseconds) best = {offer.tactic, offer.config, microseconds};
      } catch (const std::exception& error) {
        log(2, "dropped for " + node.op() + ": " + describe(offer) + ": " + error.what());
      }
    }
    if (!best.tactic.empty()) cache_.set(key, best);
  }

  Choice choose(const Node& node) {
    std::string key = timing_key(node, device_);
    auto known = cache_.find(key);
    // A remembered choice may be any of the tuned offers, so all must be on the table to find it again.
    Candidates candidates = candidates_for(node, known.has_value());
    const auto& offers = candidates.offers.offers();
    for (size_t i = 0; known && i < offers.size(); ++i) {
      if (offers[i].tactic != known->tactic || offers[i].config != known->config) continue;
      if (build(node, candidates, i)) {
        return {candidates.kernels[i], offers[i].tactic, offers[i].config, known->microseconds};
      }
    }
    for (size_t i = 0; i < offers.size(); ++i) {
      if (!build(node, candidates, i)) continue;
      log(3, node.op() + " -> " + describe(offers[i]) + " untimed");
      cache_.set(key, {offers[i].tactic, offers[i].config, 0});
      return {candidates.kernels[i], offers[i].tactic, offers[i].config, 0};
    }
    throw Unsupported("nothing runs " + node.attrs.text() + candidates.reasons());
  }

  double budget_ms() const {
    double per_level[] = {1, 1, 2, 3, 10, 30};
    return per_level[options_.optimization_level];
  }

  const Options& options_;
  bool tune_;
  TimingCache& cache_;
  c10::Device device_;
  KernelContext context_;
};

}  // namespace

std::string device_name(c10::Device device) {
#ifdef TORCHWELD_WITH_CUDA
  if (device.is_cuda()) {
    const cudaDeviceProp* properties = at::cuda::getDeviceProperties(device.index());
    return std::string(properties->name) + ", sm_" + std::to_string(properties->major) +
           std::to_string(properties->minor);
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
  return Selector(options, tune, cache, nodes.front()->output()->type.device).run(nodes, progress);
}

}  // namespace torchweld
