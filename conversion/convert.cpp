#include "conversion/convert.h"

#include "conversion/passes/passes.h"
#include "conversion/place.h"
#include "conversion/select.h"

namespace torchweld {

std::shared_ptr<Plan> convert(const torch::jit::Graph& segment, const std::vector<ImportArgument>& arguments,
                              c10::Device device, const Options& options, const std::string& name, bool tune,
                              TimingCache& cache, const std::function<void(size_t, size_t)>& progress) {
  std::vector<at::Tensor> weights;
  std::unique_ptr<Graph> graph = import_graph(segment, arguments, device, &weights);
  optimize(*graph, {.precisions = options.enabled_precisions, .name = name, .tensor_cores = has_tensor_cores(device)});
  Selection selection = select(*graph, options, tune, cache, progress);
  std::shared_ptr<Plan> plan = place(*graph, selection, device);
  for (const at::Tensor& weight : weights) plan->weights.emplace_back(weight);
  return plan;
}

}  // namespace torchweld
