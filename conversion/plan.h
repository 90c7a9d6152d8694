// A plan: one engine's program for one signature, ready to run.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "conversion/traffic.h"
#include "core/graph.h"
#include "kernels/kernel.h"

namespace torchweld {

/// Where a value's memory comes from. Several values may share one storage: views do.
struct Storage {
  enum class Kind {
    kInput,     ///< The caller's tensor number `index`.
    kOutput,    ///< Allocated anew for each call, handed out as output.
    kConstant,  ///< `constants[index]`.
    kArena,     ///< `offset` bytes into the plan's arena.
    kKernel,    ///< Brought by the kernel at each run (see Kernel::allocates_outputs).
  };
  Kind kind = Kind::kArena;
  int index = 0;
  int64_t offset = 0;  ///< Bytes, in the arena.
  int64_t bytes = 0;
  TensorType type;     ///< Of the value that owns the storage.
  int last_step = -1;  ///< After this step nothing reads it; -1 when it must stay.
};

/// A value: a storage seen at some sizes and strides.
struct Slot {
  TensorType type;
  int storage = 0;
  int64_t element_offset = 0;
  bool is_view = false;  ///< Does not own its storage.
};

/// One launch: a kernel with its operands.
struct Step {
  std::shared_ptr<const Kernel> kernel;
  std::vector<int> inputs;  ///< Slots.
  std::vector<int> outputs;
  int64_t workspace_offset = 0;  ///< Bytes into the arena.
  size_t likeness = 0;           ///< Of its node, see conversion/precedents.h.
  int lane = 0;                  ///< The stream that it is recorded on; see conversion/lanes.h.
  std::vector<int> waits;        ///< Steps of other lanes, all earlier ones, that end before it starts.
  // For reports:
  std::string tactic;
  std::string origin;
  double microseconds = 0;
  double flops = 0;
  Traffic traffic{};
  Attrs attrs;  ///< What the step means.

  std::string op() const { return attrs.text(); }
};

/// A tensor of the module as it was when a plan was made from it.
class WeightMark {
 public:
  explicit WeightMark(at::Tensor weight);
  const at::Tensor& tensor() const { return weight_; }
  /// Names the tensor and its numbers as they were when this was made, see LazyTensor::origin: no other tensor, and no
  /// later state of this one, ever has the same. Empty where it is not current, and where writes are not counted.
  std::string origin() const;
  /// False once something has written to the tensor (load_state_dict) or given it other memory (`to`), or another part
  /// or order of the same (`parameter.data = ...`; of the order, the first stride is looked at).
  bool is_current() const { return is_unwritten() && is_in_place(); }
  /// The two halves of is_current.
  bool is_unwritten() const {
    return !counts_writes_ || weight_.unsafeGetTensorImpl()->version_counter().current_version() == version_;
  }
  bool is_in_place() const {
    const c10::TensorImpl& now = *weight_.unsafeGetTensorImpl();
    const c10::StorageImpl* storage = storage_._unsafe_get_target();
    return now.unsafe_storage().unsafeGetStorageImpl() == storage && (!storage || storage->data() == memory_) &&
           now.numel() == numel_ &&
           (!is_strided_ || (now.storage_offset() == offset_ && first_stride_of(now) == first_stride_));
  }

 private:
  static int64_t first_stride_of(const c10::TensorImpl& tensor) {
    return tensor.dim() > 0 ? tensor.strides().front() : 0;
  }

  at::Tensor weight_;
  c10::weak_intrusive_ptr<c10::StorageImpl> storage_;  // so that no other one comes to lie where it was
  const void* memory_ = nullptr;
  int64_t numel_ = 0;
  int64_t offset_ = 0;  // This and the stride only where it is strided.
  int64_t first_stride_ = 0;
  uint32_t version_ = 0;
  bool is_strided_ = false;
  bool counts_writes_ = false;  // Tensors made in inference mode count none.
  Dims shape_, strides_;        // As above.
};

/// Marks of a module's own tensors, by what stands for them in a view of the module.
using WeightMarks = std::unordered_map<const c10::TensorImpl*, WeightMark>;

struct Plan {
  std::vector<Slot> slots;
  std::vector<Storage> storages;
  std::vector<at::Tensor> constants;  ///< Undefined where all kernels that read one have packed it.
  std::vector<WeightMark> weights;    ///< What packed and folded constants were made from.
  std::vector<Step> steps;
  std::vector<int> inputs;   ///< Slot of each input.
  std::vector<int> outputs;  ///< Slot of each output.
  int64_t arena_bytes = 0;
  int lanes = 1;  ///< Streams that its steps are recorded on. The steps' order is right for one stream, too.
  c10::Device device = c10::kCPU;
  double flops = 0;

  /// True while the module's weights are those that the plan was made from.
  bool is_current() const;
};

}  // namespace torchweld
