#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include <algorithm>
#include <unordered_set>

#include "conversion/import.h"
#include "conversion/source_line.h"
#include "core/environment.h"
#include "core/error.h"
#include "core/ops/layout.h"
#include "core/plain_aten.h"
#include "lowering/lower.h"
#include "lowering/memory.h"
#include "partitioning/advice.h"
#include "partitioning/partition.h"
#include "partitioning/splice.h"
#include "runtime/background.h"
#include "runtime/engine.h"
#include "runtime/report.h"
#include "runtime/specification.h"
#include "runtime/torchweld.h"
#include "runtime/unit_lock.h"

namespace torchweld {

namespace jit = torch::jit;

namespace {

/// From this optimization_level on, a segment that LibTorch runs faster is left to it.
constexpr int64_t kNeverSlowerLevel = 3;
constexpr double kContestMilliseconds = 100;

/// A method with everything that is known about it before anything is built.
struct Analysis {
  std::shared_ptr<jit::Graph> graph;
  std::unordered_set<const jit::Value*> given;  // by the caller: arguments and what they hold
  std::vector<Probe> probes;                    // at the opt shapes, then (when they differ) at min and max
  Partition partition;
  Advice advice;
};

void add_given(const jit::Block* block, std::unordered_set<const jit::Value*>& given) {
  for (const jit::Node* node : block->nodes()) {
    for (const jit::Block* inner : node->blocks()) add_given(inner, given);
    switch (node->kind()) {
      case c10::prim::TupleUnpack:
      case c10::prim::TupleIndex:
      case c10::prim::ListUnpack:
      case c10::prim::unchecked_cast:
      case c10::prim::unchecked_unwrap_optional:
      case c10::aten::__getitem__:
        if (given.count(node->input(0))) given.insert(node->outputs().begin(), node->outputs().end());
        break;
      default:
        break;
    }
  }
}

Analysis analyse(const jit::Module& module, const std::string& method, const Specification& specification,
                 const Options& options) {
  Analysis result;
  WrittenAttributes written = written_attributes(module);
  result.graph = lower(module, method, written);
  result.given = {result.graph->inputs().begin(), result.graph->inputs().end()};
  add_given(result.graph->block(), result.given);
  add_written_attributes(result.graph->block(), written);
  const WrittenAttributes replaced = written;  // and lists and dicts
  Memory memory(*result.graph);
  written.merge(memory.written_attributes(module));
  auto is_among = [](const jit::Node* node, const WrittenAttributes& attributes) {
    auto type = node->input()->type()->cast<c10::ClassType>();
    return type && attributes.count({type.get(), node->s(c10::attr::name)}) > 0;
  };
  auto keeps_type = [&](const jit::Node* node) {
    auto classes = memory.classes_of(node->output());
    return node->output()->type()->isSubtypeOf(*c10::TensorType::get()) && !is_among(node, replaced) &&
           std::none_of(classes.begin(), classes.end(), [&](Memory::Class c) { return memory.is_reshaped(c); });
  };
  const Writes writes{[&](const jit::Node* node) { return is_among(node, written); }, keeps_type};
  auto probe_at = [&](const std::vector<c10::IValue>& arguments, const Options& chosen) {
    std::vector<c10::IValue> with_self{module._ivalue()};
    with_self.insert(with_self.end(), arguments.begin(), arguments.end());
    return probe(*result.graph, with_self, specification.device, chosen, writes);
  };
  for (const std::vector<c10::IValue>& arguments : specification.arguments) {
    result.probes.push_back(probe_at(arguments, options));
  }
  result.partition = partition(*result.graph, memory, result.probes.front(), options);
  result.advice = advise(result.partition, options, [&](const Options& other) {
    bool same_rules = other.torch_executed_ops == options.torch_executed_ops &&
                      other.torch_executed_modules == options.torch_executed_modules;
    if (same_rules) return partition(*result.graph, memory, result.probes.front(), other);
    return partition(*result.graph, memory, probe_at(specification.arguments.front(), other), other);
  });
  return result;
}

std::string segment_name(size_t number) { return "segment_" + std::to_string(number); }

/// Adds operations in engines to a report, or takes them away again. Until all are counted, `flops_in_engines` is no
/// share but FLOPs, as `flops` is.
void count_in_engines(Report& report, int64_t operations, double flops) {
  report.operations_in_engines += operations;
  report.flops_in_engines += flops;
}

void finish_counting(Report& report) { report.flops_in_engines /= report.flops > 0 ? report.flops : 1; }

/// Adds what is known of one method before its engines are built; its segments are numbered from `first`.
void report_analysis(const Analysis& analysis, size_t first, Report& report) {
  const Partition& parts = analysis.partition;
  auto place = static_cast<int64_t>(report.fallbacks.size());
  for (const Partition::Reason& fallback : parts.fallbacks)
    report.fallbacks.push_back({op_name(fallback.node), fallback.reason, source_line(fallback.node)});
  for (const jit::Node* node : parts.unreached)
    report.unreached.push_back({op_name(node), "the inputs given to compile do not reach it", source_line(node)});
  report.flops += analysis.probes.front().flops;
  report.operations += static_cast<int64_t>(parts.fallbacks.size());
  for (const Segment* segment : parts.segments()) {
    report.operations += segment->operations;
    count_in_engines(report, segment->operations, segment->flops);
  }
  size_t separations_before = report.separations.size();
  for (const Partition::Separation& pair : parts.separations) {
    Separation separation{segment_name(first + pair.first), segment_name(first + pair.second), {}, {}};
    for (size_t because : pair.because) separation.because.push_back(place + static_cast<int64_t>(because));
    report.separations.push_back(std::move(separation));
  }
  for (const Advice::Merge& merge : analysis.advice.merges) {
    Separation& separation = report.separations.at(separations_before + merge.separation);
    for (const ExclusionRule& rule : merge.rules) separation.settings.push_back(rule.text());
  }
  for (const auto& [min_block_size, operations, left] : analysis.advice.smaller_blocks) {
    report.smaller_blocks.push_back({min_block_size, operations, left});
  }
}

void warn_of_idle_rules(const jit::Module& module, const Options& options) {
  for (const std::string& rule : idle_rules(module, options)) TORCH_WARN("torchweld: ", rule);
}

void warn_of_no_engines(const Report& report) {
  if (report.operations_in_engines > 0 || report.fallbacks.empty()) return;
  const Fallback& first = report.fallbacks.front();
  TORCH_WARN("torchweld: no engine was made, and the module runs as before: ", first.op,
             first.source.empty() ? "" : " at ", first.source, ": ", first.reason,
             "; torchweld.explain(module) has all reasons.");
}

void require_no_fallback(const Report& report) {
  if (report.fallbacks.empty()) return;
  std::string list;
  for (const Fallback& fallback : report.fallbacks) {
    list += "\n  " + fallback.op + (fallback.source.empty() ? "" : " at " + fallback.source) + ": " + fallback.reason;
  }
  throw Error("require_full_compilation is set, but these operations stay in LibTorch:" + list +
              "\nChange the model there, or leave require_full_compilation off.");
}

/// Sizes that an argument of a segment has over the range that was asked for. They are known of what the caller gives:
/// what is computed may be larger in the midst of the range than at its ends.
Range range_of(const jit::Value* argument, const Analysis& analysis) {
  const Range unknown{false, {}, {}};
  if (!analysis.given.count(argument)) return unknown;
  Range range = unknown;
  for (const Probe& probe : analysis.probes) {
    auto type = probe.types.find(argument);
    if (type == probe.types.end()) return unknown;
    const Dims& shape = type->second.shape;
    if (!range.is_known) range = {true, shape, shape};
    if (range.min.size() != shape.size()) return unknown;
    for (size_t d = 0; d < shape.size(); ++d) {
      range.min[d] = std::min(range.min[d], shape[d]);
      range.max[d] = std::max(range.max[d], shape[d]);
    }
  }
  return range;
}

/// The signature of the call that the probe saw, as kernels read its tensors; nothing when it is known only at run
/// time.
std::optional<CallSignature> signature_of(const SegmentModule& segment, const Probe& probe) {
  CallSignature signature;
  for (const jit::Value* input : segment.inputs) {
    if (auto type = probe.types.find(input); type != probe.types.end()) {
      TensorType given = type->second;
      if (!is_dense(given)) given.strides = dense_strides_like(given.shape, given.strides);
      signature.add(given);
    } else if (auto value = probe.plain_values.find(input); value != probe.plain_values.end()) {
      signature.add(value->second);
    } else {
      return std::nullopt;
    }
  }
  return signature.tensors.empty() ? std::nullopt : std::optional(signature);
}

constexpr const char* kSlower = "slower than LibTorch: ";

/// Gives the segment an engine. Returns why LibTorch runs the segment all the same; empty when the engine does.
std::string attach_engine(SegmentModule& segment, const Analysis& analysis, const Options& options,
                          TimingCache& timings, const std::function<void(size_t, size_t)>& progress) {
  EngineState state;
  state.name = segment.name;
  state.options = options;
  for (const jit::Value* input : segment.inputs) state.ranges.push_back(range_of(input, analysis));
  auto engine = c10::make_intrusive<Engine>(state);
  engine->timings().merge(timings.text());
  const c10::IValue attribute(engine);
  if (segment.module.hasattr("engine")) {
    segment.module.setattr("engine", attribute);
  } else {
    segment.module.register_attribute("engine", c10::getCustomClassType<c10::intrusive_ptr<Engine>>(), attribute);
  }
  auto signature = signature_of(segment, analysis.probes.front());
  if (!signature) return "";
  try {
    engine->build(segment.module._ivalue(), *signature, progress);
    const bool races = options.optimization_level >= kNeverSlowerLevel && !is_disabled("leave_slow_segments");
    std::string reason = races ? engine->why_libtorch(segment.module._ivalue(), kContestMilliseconds) : "";
    timings.merge(engine->timings().text());
    if (reason.empty()) return "";
    engine->leave_to_torch();
    return kSlower + reason;
  } catch (const Unsupported& reason) {
    return reason.what();
  } catch (const InternalError& error) {
    TORCH_WARN("torchweld: ", segment.name,
               " is left to LibTorch: a defect of Torchweld, please report it: ", error.what());
    return std::string("internal error: ") + error.what();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
}

/// The same; where LibTorch is faster than an engine in reduced precision, as it may be on a CPU without instructions
/// for it, an engine in the module's own is tried.
std::string attach_fastest_engine(SegmentModule& segment, const Analysis& analysis, const Options& options,
                                  TimingCache& timings, const std::function<void(size_t, size_t)>& progress) {
  std::string reason = attach_engine(segment, analysis, options, timings, progress);
  Options own = options;
  own.enabled_precisions = {c10::kFloat};
  if (!reason.starts_with(kSlower) || own.enabled_precisions == options.enabled_precisions) return reason;
  return attach_engine(segment, analysis, own, timings, progress).empty() ? "" : reason;
}

/// The module is worth more than its timings: where these cannot be written now, that is a warning.
void keep_timings(const TimingCache& timings, const std::string& path) try {
  timings.save(path);
} catch (const Error& error) {
  TORCH_WARN("torchweld: ", error.what());
}

/// True for a graph that does nothing but call engines and take their results apart.
bool only_calls_engines(const jit::Graph& graph) {
  static const c10::Symbol run = c10::Symbol::fromQualString("torchweld::run");
  return std::all_of(graph.nodes().begin(), graph.nodes().end(), [](const jit::Node* node) {
    switch (node->kind()) {
      case c10::prim::Constant:
      case c10::prim::GetAttr:
      case c10::prim::TupleConstruct:
      case c10::prim::TupleUnpack:
      case c10::prim::ListConstruct:
      case c10::prim::ListUnpack:
      case c10::prim::DictConstruct:
        return true;
      default:
        return node->kind() == run;
    }
  });
}

void replace_method(jit::Module& module, const std::string& name, std::shared_ptr<jit::Graph> graph) {
  const bool has_nothing_to_optimise = only_calls_engines(*graph);
  c10::FunctionSchema schema = module.get_method(name).function().getSchema();
  auto type = module.type();
  c10::QualifiedName qualified(*type->name(), name);
  std::shared_ptr<void> lock = lock_units();
  auto unit = module._ivalue()->compilation_unit();
  type->unsafeRemoveMethod(name);
  unit->unsafeRemoveMethod(qualified);
  jit::Function* function = unit->create_function(qualified, std::move(graph));
  function->setSchema(std::move(schema));
  // LibTorch would optimise at the second call, and look at all attributes of the module again in each of its passes.
  // It does so for a module that was saved and loaded: the mode is not saved.
  if (has_nothing_to_optimise)
    toGraphFunction(*function)._set_initial_executor_execution_mode(jit::ExecutorExecutionMode::SIMPLE);
  type->addMethod(function);
}

}  // namespace

jit::Module compile(const jit::Module& module, const Signature& signature, const Options& options,
                    const Progress& progress) {
  NoAutocast no_autocast;
  double told = 0;
  auto tell = [&](const std::string& what, double share) {
    told = std::max(told, share);
    if (progress) progress(what, told);
  };
  check_options(options);
  tell("analysing", 0);
  jit::Module result = clone_for_inference(module);
  warn_of_idle_rules(result, options);
  TimingCache timings;
  if (!options.timing_cache.empty()) {
    TimingCache::require_writable(options.timing_cache);
    timings.load(options.timing_cache);
  }
  Report report;
  report.min_block_size = options.min_block_size;
  size_t segments_before = 0;
  for (const std::string& method : options.methods) {
    Specification specification = specify(result, method, signature, options);
    Analysis analysis = analyse(result, method, specification, options);
    report_analysis(analysis, segments_before, report);
    if (options.require_full_compilation) require_no_fallback(report);
    std::vector<const Segment*> parts = analysis.partition.segments();
    auto make_segments = [&] {
      std::shared_ptr<void> lock = lock_units();
      return splice(*analysis.graph, analysis.partition, result, segments_before);
    };
    std::vector<SegmentModule> segments = make_segments();
    for (size_t i = 0; i < segments.size(); ++i) {
      auto step = [&](size_t done, size_t total) {
        double share = (static_cast<double>(i) + static_cast<double>(done) / static_cast<double>(total)) /
                       static_cast<double>(segments.size());
        tell("building " + segments[i].name + ", step " + std::to_string(done + 1) + " of " + std::to_string(total),
             share);
      };
      std::string left = attach_fastest_engine(segments[i], analysis, options, timings, step);
      if (!left.empty()) {
        report.fallbacks.push_back({segments[i].name, left, ""});
        count_in_engines(report, -parts[i]->operations, -parts[i]->flops);
      }
      result.register_module(segments[i].name, segments[i].module);
    }
    if (options.require_full_compilation) require_no_fallback(report);
    segments_before += segments.size();
    analysis.graph->inputs()[0]->setType(result.type());
    jit::EliminateDeadCode(analysis.graph);
    replace_method(result, method, analysis.graph);
  }
  if (!options.timing_cache.empty()) keep_timings(timings, options.timing_cache);
  finish_counting(report);
  warn_of_no_engines(report);
  store_report(result, report);
  tell("done", 1);
  return result;
}

Report dry_run(const jit::Module& module, const Signature& signature, const Options& options) {
  NoAutocast no_autocast;
  check_options(options);
  jit::Module copy = clone_for_inference(module);
  warn_of_idle_rules(copy, options);
  Report report;
  report.min_block_size = options.min_block_size;
  for (const std::string& method : options.methods) {
    Specification specification = specify(copy, method, signature, options);
    Analysis analysis = analyse(copy, method, specification, options);
    size_t first = report.engines.size();
    report_analysis(analysis, first, report);
    for (const Segment* segment : analysis.partition.segments()) {
      EngineReport engine;
      engine.name = segment_name(first + segment->number);
      engine.flops = segment->flops;
      for (const jit::Node* node : segment->nodes) {
        if (node->maybeOperator()) engine.steps.push_back({op_name(node), "", source_line(node), 0});
      }
      report.engines.push_back(std::move(engine));
    }
  }
  finish_counting(report);
  return report;
}

Report explain(const jit::Module& compiled) {
  Report report = stored_report(compiled);
  for (const auto& child : compiled.named_children()) {
    if (child.name.rfind("segment_", 0) != 0 || !child.value.hasattr("engine")) continue;
    auto engine = engine_of(child.value._ivalue());
    if (engine->state().left_to_torch) continue;  // One of the fallbacks.
    engine->build_remembered(child.value._ivalue());
    report.engines.push_back(engine->report());
  }
  return report;
}

bool has_cuda() {
#ifdef TORCHWELD_WITH_CUDA
  return true;
#else
  return false;
#endif
}

void warm_up(jit::Module& compiled, std::vector<c10::IValue> arguments) {
  require_compiled_part(compiled);
  c10::NoGradGuard no_grad;
  // At a new shape the first call begins a plan (where sizes depend on data, the second). Two calls that begin none are
  // run by plans: the second of them records the CUDA graph. The limit is for other threads that plan all the time.
  constexpr int kMostCalls = 64;
  auto same = [](const at::Tensor& tensor) { return tensor; };
  int64_t plans = Background::get().finish();
  for (int calls = 0, quiet = 0; calls < kMostCalls && (calls < 4 || quiet < 2); ++calls) {
    std::vector<c10::IValue> given;  // with lists of their own, which the module may change
    for (const c10::IValue& argument : arguments) given.push_back(with_tensors(argument, same));
    compiled.forward(std::move(given));
    int64_t now = Background::get().finish();
    quiet = now == plans ? quiet + 1 : 0;
    plans = now;
  }
}

}  // namespace torchweld
