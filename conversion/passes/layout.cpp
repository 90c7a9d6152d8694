#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "conversion/passes/passes.h"
#include "conversion/passes/restride.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/pointwise.h"
#include "core/ops/pool.h"
#include "core/ops/resize.h"
#include "core/ops/shape.h"

namespace torchweld {
namespace {

bool has_space(const TensorType& type) { return type.rank() == 4 || type.rank() == 5; }

/// Channels lie next to each other, be it with gaps, as in a slice of the channels.
bool channels_innermost(const TensorType& type) {
  if (!has_space(type)) return false;
  if (is_channels_last(type)) return true;
  return type.shape[1] > 1 && type.strides[1] == 1 && type.strides.back() >= type.shape[1];
}

/// Row-major only, so that a copy would be needed; shapes like [N,C,1,1] are both.
bool only_row_major(const TensorType& type) { return has_space(type) && !channels_innermost(type); }

class ChannelsLast {
 public:
  ChannelsLast(Graph& graph, const PassContext& context) : graph_(graph), context_(context) {}

  void run() {
    OutputStrides outputs(graph_);
    for (Node* node : graph_.node_list()) {
      Graph::InsertBefore here(graph_, node);
      graph_.origin = node->origin;
      std::vector<Dims> before;
      for (const auto& v : node->outputs()) before.push_back(v->type.strides);
      lay_out(node);
      for (size_t i = 0; i < before.size(); ++i) {
        if (node->output(i)->type.strides != before[i]) changed_.insert(node->output(i));
      }
    }
    outputs.restore(graph_);
  }

 private:
  void lay_out(Node* node) {
    if (node->as<Copy>()) return lay_out_copy(node);
    if (node->as<Conv>() && has_space(node->output()->type)) {
      if (!reads_any_layout(*node)) graph_.set_input(node, 0, channels_last(node->input(0)));
      graph_.infer_again(node);
      return set_channels_last(node->output());
    }
    if (node->as<Concat>() && only_row_major(node->output()->type)) prepare_concat(node);
    if (node->as<Reshape>()) prepare_reshape(node);
    infer_strides(node);
    bool keeps_layout = node->as<Pointwise>() || node->as<Cast>() || node->as<MaxPool>() || node->as<AvgPool>() ||
                        node->as<AdaptivePool>() || node->as<Resize>() || node->as<Concat>() || node->as<Pad>();
    if (!keeps_layout || !has_space(node->output()->type)) return;
    bool wanted = std::any_of(node->inputs().begin(), node->inputs().end(), [&](const Value* v) {
      return v->type.numel() > 1 && channels_innermost(v->type) && !is_contiguous(v->type);
    });
    if (wanted) set_channels_last(node->output());
  }

  /// True where kernels take pixels from any layout, if need be whole lines of them in shared memory: they spare the
  /// copy of a picture, which takes 3 to 4 % of a MobileNetV2.
  bool reads_any_layout(const Node& node) const {
    constexpr int64_t kMostWindow = 11, kMostPixels = 1 << 14;
    const TensorType& x = node.input(0)->type;
    const TensorType& weight = node.input(1)->type;
    bool reduced = x.dtype == c10::kHalf || x.dtype == c10::kBFloat16;
    if (!context_.tensor_cores || !reduced || !node.input(1)->from<Constant>()) return false;
    return is_stem(*node.as<Conv>(), weight) && weight.shape[2] <= kMostWindow && weight.shape[3] <= kMostWindow &&
           weight.shape[2] * x.shape[3] <= kMostPixels;
  }

  /// A copy that the program asked for keeps its strides, unless only the layout of an inner value hangs on it.
  void lay_out_copy(Node* node) {
    auto* copy = node->as<Copy>();
    node->output()->type.strides = copy->strides;
    if (graph_.is_output(node->output()) || !channels_innermost(node->input(0)->type)) return;
    bool dense = is_contiguous(node->output()->type) || is_channels_last(node->output()->type);
    if (!dense || !is_channels_last(node->input(0)->type)) return;
    graph_.replace_uses(node->output(), node->input(0));
    changed_.insert(node->input(0));
  }

  void infer_strides(Node* node) {
    bool changed = std::any_of(node->inputs().begin(), node->inputs().end(),
                               [&](const Value* v) { return changed_.count(v) > 0; });
    if (changed) graph_.infer_again(node);
  }

  void set_channels_last(Value* value) { value->type.strides = channels_last_strides(value->type.shape); }

  /// `value`, or a copy of it, laid out channels-last without gaps.
  Value* channels_last(Value* value) {
    if (is_channels_last(value->type)) return value;
    Value*& copy = copies_[value];
    if (!copy) copy = graph_.add(Copy{channels_last_strides(value->type.shape)}, {value});
    return copy;
  }

  /// When one part is channels-last the others follow it.
  void prepare_concat(Node* node) {
    bool wanted = std::any_of(node->inputs().begin(), node->inputs().end(),
                              [](const Value* v) { return channels_innermost(v->type) && !is_contiguous(v->type); });
    if (!wanted) return;
    for (size_t i = 0; i < node->inputs().size(); ++i) {
      Value* v = node->input(i);
      if (only_row_major(v->type)) graph_.set_input(node, i, channels_last(v));
    }
  }

  /// A reshape that has to move elements becomes a copy and a view; at the end of a channel shuffle the copy is laid
  /// out so that the view is channels-last.
  void prepare_reshape(Node* node) {
    const Value* x = node->input(0);
    const TensorType& result = node->output()->type;
    if (view_strides(x->type, result.shape)) return;
    Dims strides = contiguous_strides(x->type.shape);
    if (changed_.count(x) && has_space(result)) {
      TensorType wanted = with_strides(result, channels_last_strides(result.shape));
      strides = view_strides(wanted, x->type.shape).value_or(strides);
    }
    graph_.set_input(node, 0, graph_.add(Copy{strides}, {node->input(0)}));
    changed_.insert(node->input(0));
  }

  Graph& graph_;
  const PassContext& context_;
  std::unordered_set<const Value*> changed_;  ///< Values whose strides this pass has set.
  std::unordered_map<const Value*, Value*> copies_;
};

}  // namespace

void layout(Graph& graph, const PassContext& context) { ChannelsLast(graph, context).run(); }

}  // namespace torchweld
