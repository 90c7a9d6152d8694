// How one step of a plan runs, and how ways to run a node are offered.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/graph.h"

namespace torchweld {

namespace cuda {
struct Launch;
}

/// What a kernel gets at run time. Input and output tensors have exactly the types of the node's values. Nothing is
/// zeroed beforehand.
struct StepArgs {
  std::span<const at::Tensor* const> in;
  /// Preallocated outputs. A kernel that brings its own memory (an ATen call) assigns its tensor instead.
  std::span<at::Tensor* const> out;
  void* workspace = nullptr;  ///< workspace_bytes() bytes, 256-byte aligned.
  void* stream = nullptr;     ///< The cudaStream_t to enqueue on; null on the CPU.
  /// False where more than the launch ahead on `stream` has to end first: the first launch of our own device code then
  /// does without programmatic dependent launch.
  bool early_start = true;
};

/// One node made ready to run: immutable after construction, so that many threads may run it at once. A kernel reads
/// only `in`, and constants it packed for itself at construction.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual void run(const StepArgs& args) const = 0;
  virtual int64_t workspace_bytes() const { return 0; }
  /// False when the kernel needs the host between launches and so cannot be recorded in a CUDA graph.
  virtual bool capturable() const { return true; }
  /// True when outputs are the kernel's own tensors (assigned to `out`), so that no arena memory is laid out for them.
  virtual bool allocates_outputs() const { return false; }
  /// True when run() does nothing but enqueue on `stream`, and touches no memory but operands and workspace: other
  /// kernels may then run at the same time on other streams.
  virtual bool may_overlap() const { return launch() != nullptr; }
  /// The kernel is one launch of our own device code whose first parameters are the data pointers of inputs (without
  /// the constants it packed) and outputs; the executor may rewrite these in a CUDA graph. Null for everything else.
  virtual const cuda::Launch* launch() const { return nullptr; }
  /// All launches of our own device code that run() makes; a saved module carries their machine code.
  virtual std::vector<const cuda::Launch*> launches() const {
    return launch() ? std::vector{launch()} : std::vector<const cuda::Launch*>{};
  }
  /// Which inputs of the node the kernel has packed away at construction (weights); the plan does not keep these alive.
  virtual std::vector<size_t> packed_inputs() const { return {}; }
  /// What the kernel has packed and reads at each run; undefined tensors may be among it.
  virtual std::vector<at::Tensor> constants() const { return {}; }
};

/// Collects the ways in which a tactic can run a node, or the reason why it cannot.
class Offers {
 public:
  struct Offer {
    std::string tactic;
    std::string config;  ///< Text that names the configuration; stays valid between versions where it can.
    std::function<std::unique_ptr<Kernel>()> build;  ///< May throw; the offer is then dropped with the reason.
    double expected = 0;  ///< Microseconds that the tactic's model gives on an H100; 0 where it has none.
  };

  void add(std::string config, std::function<std::unique_ptr<Kernel>()> build, double expected = 0) {
    offers_.push_back({tactic_, std::move(config), std::move(build), expected});
  }
  void refuse(std::string reason) { refusals_.push_back({tactic_, std::move(reason)}); }

  /// Takes a tactic's offers away.
  void drop(const std::string& tactic) {
    std::erase_if(offers_, [&](const Offer& offer) { return offer.tactic == tactic; });
  }

  /// The shortest of the expected times; infinite when there is none.
  double least_expected() const {
    double least = std::numeric_limits<double>::infinity();
    for (const Offer& offer : offers_) {
      if (offer.expected > 0) least = std::min(least, offer.expected);
    }
    return least;
  }

  void set_tactic(std::string name) { tactic_ = std::move(name); }
  const std::vector<Offer>& offers() const { return offers_; }
  const std::vector<std::pair<std::string, std::string>>& refusals() const { return refusals_; }

 private:
  std::string tactic_;
  std::vector<Offer> offers_;
  std::vector<std::pair<std::string, std::string>> refusals_;
};

/// What tactics may know beside the node.
struct KernelContext {
  bool allow_tf32 = true;
  int64_t workspace_limit = int64_t{1} << 28;  ///< Bytes; offers that need more are not made.
  bool tune = true;                            ///< False: offer only the configuration that the heuristic puts first.
  /// The names of the configurations to offer by tactics that have many, however slow these are expected to be; null:
  /// the best ones.
  const std::set<std::string>* wanted = nullptr;
};

/// Why a tactic makes no offer where other configurations are wanted.
inline constexpr const char* kNoneWanted = "none of the configurations that are wanted fits";

/// One row of the tactic table.
struct Tactic {
  const char* name;
  c10::DeviceType device;
  void (*propose)(const Node& node, const KernelContext& context, Offers& offers);
  /// The tactic is not asked where a kernel ahead of it in the table is expected to take less microseconds than this.
  double pays_from = 0;
};

/// Kernels of cuDNN and cuBLASLt take long to build and were the fastest only where they took 5 us or more (an H100,
/// f16: all layers of eight CNNs and transformers at batch 1 and 32).
constexpr double kLibrariesPayFrom = 4;

/// Every tactic, best first; the generic ATen tactic is last.
const std::vector<Tactic>& tactics();
/// True for the tactics that run a node, or what is left of one, by LibTorch.
bool is_in_torch(std::string_view tactic);
/// All offers for a node on its device, in the order of the table; tactics named in TORCHWELD_DISABLE are left out.
/// `only`: the one tactic to ask; all when empty.
Offers offers_for(const Node& node, const KernelContext& context, std::string_view only = {});

}  // namespace torchweld
