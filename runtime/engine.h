// The engine: what makes a segment fast. Hangs at the segment's module as its attribute "engine".
#pragma once

#include <torch/custom_class.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "conversion/measure.h"
#include "conversion/precedents.h"
#include "conversion/timing_cache.h"
#include "core/options.h"
#include "runtime/call_signature.h"
#include "runtime/executor.h"
#include "runtime/torchweld.h"
#include "runtime/weights_view.h"

namespace torchweld {

/// Everything of an engine that is saved, beside machine code. Plans are made again from it, without tuning: the timing
/// cache holds what tuning found.
struct EngineState {
  std::string name;
  Options options;
  std::vector<Range> ranges;              ///< One per argument.
  std::vector<CallSignature> signatures;  ///< Planned at compile, the tuned one first.
  std::string timings;                    ///< TimingCache::text: this engine's nodes, and what other plans may want.
  bool left_to_torch = false;             ///< LibTorch was found to be faster and runs every call.
  void fields(auto&& f);
};

class Engine : public torch::CustomClassHolder {
 public:
  explicit Engine(EngineState state);

  /// Runs `segment` (the module that this engine hangs at) on its arguments: by the plan for their signature, which is
  /// made now when it is new and allowed, else by the segment's own TorchScript, with the reason logged once. A plan
  /// for a GPU takes a compiler and is made in the background; until then calls of a new signature run by a plan from
  /// machine code that is there, or, where that is not enough, in TorchScript. An engine whose inputs were not known at
  /// compile plans for a signature when it comes for the second time, and so does every engine for new values of plain
  /// arguments: sizes that depend on data, or a time that passes, may never come again.
  /// Returns the segment's outputs. Throws Error for a call outside the range when the options say so.
  std::vector<at::Tensor> run(const c10::IValue& segment, c10::ArrayRef<c10::IValue> arguments);

  /// Plans for `signature` with tuning, and remembers it as one to plan after loading. Throws Unsupported.
  void build(const c10::IValue& segment, const CallSignature& signature,
             const std::function<void(size_t, size_t)>& progress);
  /// Times the engine beside LibTorch's run of `segment`, on random data of the first signature and for about
  /// `budget_ms`, unless timings() has both; adds them there. The reason to leave_to_torch() where LibTorch is clearly
  /// faster, else empty.
  std::string why_libtorch(const c10::IValue& segment, double budget_ms);
  /// Gives all calls to LibTorch for good, and up what is known and held for them.
  void leave_to_torch();
  /// Makes the plans of all remembered signatures that are still missing.
  void build_remembered(const c10::IValue& segment);
  /// Adds what is known about the timing of kernels.
  TimingCache& timings() { return timings_; }

  /// Of the plan for the opt shapes; where sizes depend on data, of the newest plan, and empty before there is one.
  EngineReport report() const;
  const EngineState& state() const { return state_; }
  std::shared_ptr<Executor> executor_for(const CallSignature& signature) const;

  /// The saved form: format version, text of the state, machine code as uint8 tensors.
  using Saved = std::tuple<int64_t, std::string, std::vector<std::string>, std::vector<at::Tensor>>;
  Saved save() const;
  /// Throws Error when the data is damaged or of a newer format.
  static c10::intrusive_ptr<Engine> load(Saved saved);

 private:
  struct Entry {
    CallSignature signature;
    std::shared_ptr<Executor> executor;           // null: LibTorch runs it
    bool is_being_planned = false;                // in the background, to replace the executor if there is one
    mutable std::atomic<bool> is_refused{false};  // by the background, for now
    mutable std::atomic<int64_t> last_use{0};
  };
  using Table = std::vector<std::shared_ptr<const Entry>>;

  /// run() where nothing is known about the signature. `operands`: the arguments, laid out as kernels read them.
  std::vector<at::Tensor> run_first(const c10::IValue& segment, c10::ArrayRef<c10::IValue> arguments,
                                    c10::ArrayRef<c10::IValue> operands);
  /// run() where there is an entry.
  std::vector<at::Tensor> run_by(const std::shared_ptr<const Entry>& entry, const c10::IValue& segment,
                                 c10::ArrayRef<c10::IValue> arguments, c10::ArrayRef<c10::IValue> operands);
  /// In LibTorch, with a warning: somebody captures a CUDA graph before there is a plan.
  std::vector<at::Tensor> run_in_capture(const c10::IValue& segment, c10::ArrayRef<c10::IValue> arguments);
  std::shared_ptr<const Entry> find(c10::ArrayRef<c10::IValue> arguments) const;
  std::shared_ptr<const Entry> find(const CallSignature& signature) const;
  /// `marks`: where `segment` is a view of the module's weights, what marks these.
  std::shared_ptr<const Entry> plan(const c10::IValue& segment, const CallSignature& signature, bool tune,
                                    const std::function<void(size_t, size_t)>& progress, const WeightMarks& marks = {});
  /// The executor of a plan, with branches in parallel where the timing cache says that they pay, or (tune) where that
  /// is measured now: on random data, and only when the run gets clearly shorter.
  std::shared_ptr<Executor> faster_executor(std::shared_ptr<const Plan> plan, bool tune);
  bool is_remembered(const CallSignature& signature) const;
  std::shared_ptr<const Entry> plan_at_call(const c10::IValue& segment, const CallSignature& signature,
                                            const WeightMarks& marks = {});
  /// What is chosen in the plans for the signatures that are nearest in size.
  Precedents precedents_for(const CallSignature& signature) const;
  /// A plan from machine code that is there, without waiting for a compiler; null where that is not enough.
  std::shared_ptr<Executor> plan_at_once(const c10::IValue& segment, const CallSignature& signature) const;
  /// Plans in the background, from the weights as they are now, unless the signature has an entry; where too much is
  /// waiting, a later call does. Until then `until_then` runs its calls, LibTorch where that is null.
  void plan_later(const c10::IValue& segment, const CallSignature& signature, std::shared_ptr<Executor> until_then);
  /// The first half of plan_later: the entry until there is a plan; null where the signature has one.
  std::shared_ptr<const Entry> announce(const CallSignature& signature, std::shared_ptr<Executor> until_then);
  /// The second half.
  void post_plan(const c10::IValue& segment, const std::shared_ptr<const Entry>& entry);
  void add(std::shared_ptr<const Entry> entry);
  void put(Table& table, std::shared_ptr<const Entry> entry);
  void remove(const std::shared_ptr<const Entry>& entry);
  std::string outside_range(const CallSignature& signature) const;
  /// Whether results may follow from how the caller's tensors lie in memory, beside their numbers.
  bool needs_strides(const c10::IValue& segment);
  /// False for a signature that comes for the first time and may never come again, see run().
  bool is_worth_a_plan(const CallSignature& signature);
  /// Times calls of the engine beside LibTorch's run of `segment`, for about `budget_ms`. Throws what they throw.
  Contest race_libtorch(const c10::IValue& segment, Executor& executor, double budget_ms);
  void warn_once(const std::string& reason);
  static std::vector<at::Tensor> run_in_torch(const c10::IValue& segment, c10::ArrayRef<c10::IValue> arguments);
  /// The same for sizes that run so only a few times: without LibTorch's own optimisation, whose compiler takes
  /// seconds.
  static std::vector<at::Tensor> run_plainly(const c10::IValue& segment, c10::ArrayRef<c10::IValue> arguments);

  EngineState state_;
  TimingCache timings_;
  std::mutex plan_mutex_;     // one plan is made at a time
  std::mutex at_once_mutex_;  // and one at once; meanwhile LibTorch runs the calls of other threads
  std::mutex table_mutex_;    // of who exchanges the table
  std::atomic<std::shared_ptr<const Table>> table_;
  mutable std::atomic<int64_t> clock_{0};
  std::mutex seen_mutex_;
  std::deque<CallSignature> seen_;  // once so far, of those that are planned at the second time
  std::once_flag looked_for_strides_;
  bool needs_strides_ = false;
  std::mutex warn_mutex_;
  std::vector<std::string> warned_;
};

/// What torchweld::run says to other arguments than its own.
inline constexpr const char* kWrongArguments =
    "torchweld::run takes a segment of a compiled module and a tuple of its inputs; torch.jit.freeze and "
    "torch.jit.optimize_for_inference belong before torchweld.compile, not behind it";
/// The engine of a segment module. Throws Error when there is none.
c10::intrusive_ptr<Engine> engine_of(const c10::IValue& segment);

}  // namespace torchweld
