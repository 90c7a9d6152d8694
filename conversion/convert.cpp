#include "conversion/convert.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "conversion/device.h"
#include "conversion/passes/passes.h"
#include "conversion/place.h"
#include "conversion/select.h"
#include "core/environment.h"
#include "kernels/without_compiler.h"

namespace torchweld {
namespace {

/// How long kernels are tried in the whole plan, by optimization_level.
double seconds_to_try(const Options& options) {
  constexpr std::array kSeconds{0.0, 0.5, 1.0, 2.0, 6.0, 20.0};
  return kSeconds.at(options.optimization_level);
}

/// Says what the stages of a conversion take.
class StageTimes {
 public:
  explicit StageTimes(const std::string& name) : name_(name) {}
  void end(const char* stage) {
    auto now = std::chrono::steady_clock::now();
    std::chrono::duration<double, std::milli> time = now - begin_;
    log(3, name_ + ": " + stage + " took " + std::to_string(time.count()) + " ms");
    begin_ = now;
  }

 private:
  const std::string& name_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

std::unique_ptr<Graph> optimized_graph(const torch::jit::Graph& segment, const std::vector<ImportArgument>& arguments,
                                       c10::Device device, const Options& options, const std::string& name,
                                       const WeightMarks& own, std::vector<WeightMark>& marks, StageTimes& times,
                                       bool a_call_waits) {
  auto note = [&](const at::Tensor& weight) {
    // Ahead of all that reads it: what is written meanwhile makes the plan an old one.
    auto found = own.find(weight.unsafeGetTensorImpl());
    marks.push_back(found == own.end() ? WeightMark(weight) : found->second);
    return marks.back().origin();
  };
  std::unique_ptr<Graph> graph = import_graph(segment, arguments, device, note, /*for_reports=*/!a_call_waits);
  times.end("import");
  optimize(*graph, {.precisions = options.enabled_precisions,
                    .name = name,
                    .tensor_cores = has_tensor_cores(device),
                    .verify_each = !a_call_waits});
  times.end("optimize");
  return graph;
}

}  // namespace

std::shared_ptr<Plan> tried_in_place(std::shared_ptr<Plan> plan, const Graph& graph, std::vector<TimedKind> timed,
                                     Selection& selection, const Options& options, TimingCache& cache,
                                     const std::function<void(size_t, size_t)>& progress, const IsFaster& is_faster) {
  using Clock = std::chrono::steady_clock;
  auto end = Clock::now() + std::chrono::duration<double>(seconds_to_try(options));
  auto fastest = [&](const TimedKind& kind) {
    return cache.find(kind.key).value_or(TimingCache::Entry{}).microseconds;
  };
  auto share = [&](const TimedKind& kind) { return fastest(kind) * static_cast<double>(kind.nodes.size()); };
  std::stable_sort(timed.begin(), timed.end(),
                   [&](const TimedKind& a, const TimedKind& b) { return share(a) > share(b); });
  for (const TimedKind& kind : timed) {
    for (const TimingCache::Entry& by : kind.runners_up) {
      if (Clock::now() > end) return plan;
      if (progress) progress(timed.size() - 1, timed.size());
      Selection other = selection;
      if (!replace_choices(kind, by, options, other)) continue;
      std::shared_ptr<Plan> trial = place(graph, other, plan->device);
      if (!is_faster(plan, trial)) continue;
      log(3, kind.nodes.front()->op() + ": " + by.tactic + " " + by.config + " makes the whole plan faster");
      cache.set(kind.key, {by.tactic, by.config, fastest(kind)});
      selection = std::move(other);
      plan = std::move(trial);
    }
  }
  return plan;
}

std::shared_ptr<Plan> convert(const torch::jit::Graph& segment, const std::vector<ImportArgument>& arguments,
                              c10::Device device, const Options& options, const std::string& name, bool tune,
                              TimingCache& cache, const std::function<void(size_t, size_t)>& progress,
                              const IsFaster& is_faster, const WeightMarks& own) {
  StageTimes times(name);
  std::vector<WeightMark> marks;
  std::unique_ptr<Graph> graph =
      optimized_graph(segment, arguments, device, options, name, own, marks, times, /*a_call_waits=*/false);
  std::vector<TimedKind> timed;
  Selection selection = select(*graph, options, tune, cache, progress, &timed);
  times.end("select");
  std::shared_ptr<Plan> plan = place(*graph, selection, device);
  times.end("place");
  if (is_faster) plan = tried_in_place(plan, *graph, std::move(timed), selection, options, cache, progress, is_faster);
  plan->weights = std::move(marks);
  return plan;
}

std::shared_ptr<Plan> convert_at_once(const torch::jit::Graph& segment, const std::vector<ImportArgument>& arguments,
                                      c10::Device device, const Options& options, const std::string& name,
                                      const TimingCache& cache, const Precedents& precedents) {
  WithoutCompiler a_call_waits;
  StageTimes times(name);
  std::vector<WeightMark> marks;
  std::unique_ptr<Graph> graph =
      optimized_graph(segment, arguments, device, options, name, {}, marks, times, /*a_call_waits=*/true);
  Selection selection = select_compiled(*graph, options, cache, precedents);
  times.end("select_compiled");
  std::shared_ptr<Plan> plan = place(*graph, selection, device);
  times.end("place");
  plan->weights = std::move(marks);
  return plan;
}

}  // namespace torchweld
