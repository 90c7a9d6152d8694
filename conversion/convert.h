// From a segment's TorchScript and a signature to a plan.
#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include "conversion/import.h"
#include "conversion/plan.h"
#include "conversion/select.h"
#include "conversion/timing_cache.h"
#include "core/options.h"

namespace torchweld {

/// Whether the second of two plans for the same graph is faster than the first.
using IsFaster = std::function<bool(const std::shared_ptr<const Plan>& plan, const std::shared_ptr<const Plan>& other)>;

/// Imports, optimises, selects and places. With `is_faster`, kernels that were timed nearly as fast as the chosen ones
/// are tried in the whole plan, those of the kinds that take most of the time first, and stay where it gets faster: a
/// kernel's neighbours are not those that it was timed among. The cache then names them with the time of the fastest.
/// `arguments` are the segment's: its module object, then concrete scalars and a TensorType for each tensor. `name`
/// heads the names of dumped files. Where the module is a view, `own` marks its own tensors. Throws Unsupported with
/// the reason when the segment cannot be planned for these.
std::shared_ptr<Plan> convert(const torch::jit::Graph& segment, const std::vector<ImportArgument>& arguments,
                              c10::Device device, const Options& options, const std::string& name, bool tune,
                              TimingCache& cache, const std::function<void(size_t, size_t)>& progress = {},
                              const IsFaster& is_faster = {}, const WeightMarks& own = {});

/// What convert() does with `is_faster`: `plan`, or what is faster with runners-up of `timed` in the place of choices
/// in `selection`, which then has them, as the cache does.
std::shared_ptr<Plan> tried_in_place(std::shared_ptr<Plan> plan, const Graph& graph, std::vector<TimedKind> timed,
                                     Selection& selection, const Options& options, TimingCache& cache,
                                     const std::function<void(size_t, size_t)>& progress, const IsFaster& is_faster);

/// The same as convert() from machine code that is there, for a call that waits: no compiler, no timing; see
/// select_compiled. Throws Unsupported where that is not possible.
std::shared_ptr<Plan> convert_at_once(const torch::jit::Graph& segment, const std::vector<ImportArgument>& arguments,
                                      c10::Device device, const Options& options, const std::string& name,
                                      const TimingCache& cache, const Precedents& precedents = {});

}  // namespace torchweld
