// The saved form of an engine.
#include <set>

#include "core/error.h"
#include "runtime/engine.h"

#ifdef TORCHWELD_WITH_CUDA
#include "kernels/cuda/jit.h"
#include "kernels/cuda/launch.h"
#endif

namespace torchweld {
namespace {

constexpr int64_t kFormatVersion = 2;

#ifdef TORCHWELD_WITH_CUDA
void append_cubins(const Plan& plan, std::set<std::string>& keys) {
  for (const Step& step : plan.steps) {
    for (const cuda::Launch* launch : step.kernel->launches()) keys.insert(launch->cubin);
  }
}
#endif

}  // namespace

void EngineState::fields(auto&& f) {
  f("name", name);
  f("options", options);
  f("ranges", ranges);
  f("signatures", signatures);
  f("timings", timings);
  f("left_to_torch", left_to_torch);
}

static void print_field(std::string& out, const Options& options) { out += print_fields(options); }
static void parse_field(TextReader& in, Options& options) { options = parse_fields<Options>(in); }

Engine::Saved Engine::save() const {
  EngineState state = state_;
  state.timings = timings_.text();
  std::vector<std::string> names;
  std::vector<at::Tensor> blobs;
#ifdef TORCHWELD_WITH_CUDA
  std::set<std::string> keys;
  std::shared_ptr<const Table> table = table_.load();
  for (const auto& entry : *table) {
    if (entry->executor) append_cubins(entry->executor->plan(), keys);
  }
  for (auto& [key, code] : cuda::export_cubins({keys.begin(), keys.end()})) {
    names.push_back(key);
    at::Tensor blob = empty_tensor(contiguous_type(c10::kByte, {static_cast<int64_t>(code.size())}, c10::kCPU));
    std::copy(code.begin(), code.end(), blob.mutable_data_ptr<uint8_t>());
    blobs.push_back(blob);
  }
#endif
  return {kFormatVersion, print_fields(state), names, blobs};
}

c10::intrusive_ptr<Engine> Engine::load(Saved saved) {
  auto& [version, text, names, blobs] = saved;
  if (version > kFormatVersion || version < 1) {
    throw Error("the module was saved by a newer Torchweld (engine format " + std::to_string(version) +
                ", this one reads up to " + std::to_string(kFormatVersion) + "); update torchweld");
  }
  try {
    TextReader in(text);
    auto state = parse_fields<EngineState>(in);
    check_options(state.options);
    // Of format 1, ranges are those of tensors alone; where there were others, it has no signatures.
    if (version == 1 && state.signatures.empty()) state.ranges.clear();
    auto engine = c10::make_intrusive<Engine>(std::move(state));
#ifdef TORCHWELD_WITH_CUDA
    std::vector<std::pair<std::string, std::string>> cubins;
    for (size_t i = 0; i < std::min(names.size(), blobs.size()); ++i) {
      at::Tensor blob = blobs[i].to(c10::kCPU).contiguous();
      if (blob.scalar_type() != c10::kByte) throw Error("machine code is no uint8 tensor");
      cubins.emplace_back(names[i], std::string(reinterpret_cast<const char*>(blob.data_ptr<uint8_t>()), blob.numel()));
    }
    cuda::import_cubins(cubins);
#endif
    return engine;
  } catch (const std::exception& error) {
    throw Error(std::string("the engine in this file is damaged (") + error.what() + "); save the module again");
  }
}

}  // namespace torchweld
