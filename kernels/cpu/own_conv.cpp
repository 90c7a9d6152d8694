#include "kernels/cpu/own_conv.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>

#include "core/environment.h"
#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/matmul.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/tail.h"

namespace torchweld::cpu {
namespace {

constexpr int64_t kPixels = 96;                   ///< Output pixels whose operands are gathered together.
constexpr int64_t kWorkPerThread = 1 << 17;       ///< Products, below which another thread costs more than it brings.
constexpr int64_t kNearBytes = int64_t{1} << 19;  ///< What is read again and again without leaving the cache.

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Where the operands of each output pixel stand. A linear layer is a convolution of one row of pixels.
struct Geometry {
  int64_t batch = 1, height = 1, width = 1, channels = 1;  ///< Of x.
  int64_t out_height = 1, out_width = 1, out_channels = 1;
  int64_t kernel_height = 1, kernel_width = 1;
  int64_t stride_height = 1, stride_width = 1;
  int64_t pad_height = 0, pad_width = 0;
  int64_t dilation_height = 1, dilation_width = 1;
  int64_t groups = 1;
  int64_t x_batch = 0, x_row = 0, x_pixel = 0;  ///< Strides of x in elements; channels have stride 1.

  int64_t pixels() const { return batch * out_height * out_width; }
  int64_t taps() const { return kernel_height * kernel_width; }
  int64_t group_channels() const { return channels / groups; }
  int64_t group_columns() const { return out_channels / groups; }
};

Geometry geometry_of(const Conv& op, const TensorType& x, const TensorType& weight, const TensorType& out) {
  Geometry g;
  g.batch = x.shape[0];
  g.channels = x.shape[1];
  g.height = x.shape[2];
  g.width = x.shape[3];
  g.out_channels = out.shape[1];
  g.out_height = out.shape[2];
  g.out_width = out.shape[3];
  g.kernel_height = weight.shape[2];
  g.kernel_width = weight.shape[3];
  g.stride_height = op.stride[0];
  g.stride_width = op.stride[1];
  g.pad_height = op.padding[0];
  g.pad_width = op.padding[1];
  g.dilation_height = op.dilation[0];
  g.dilation_width = op.dilation[1];
  g.groups = op.groups;
  g.x_batch = x.strides[0];
  g.x_row = x.strides[2];
  g.x_pixel = x.strides[3];
  return g;
}

Geometry geometry_of_rows(int64_t rows, int64_t channels, int64_t out_channels) {
  Geometry g;
  g.width = g.out_width = rows;
  g.channels = channels;
  g.out_channels = out_channels;
  g.x_pixel = channels;
  return g;
}

/// The operands of a run of output pixels: for each tap and pixel a pointer into x, or to zeros where it is padded.
class Operands {
 public:
  /// `merge`: the taps of one kernel row, whose channels lie next to each other, count as one.
  Operands(const Geometry& g, int64_t element_size, bool merge)
      : g_(g),
        size_(element_size),
        merge_(merge),
        zeros_(g.channels * element_size),
        pointers_(taps() * kPixels),
        copies_(merge ? taps() * kPixels * depth() * element_size : 0) {}

  int64_t taps() const { return merge_ ? g_.kernel_height : g_.taps(); }
  int64_t depth() const { return g_.group_channels() * (merge_ ? g_.kernel_width : 1); }
  const void* const* pointers() const { return pointers_.data(); }

  /// Pixels begin..end, at most kPixels, from channel `channel` on.
  void gather(const char* x, int64_t channel, int64_t begin, int64_t end) {
    x += channel * size_;
    for (int64_t pixel = begin; pixel < end;) {
      int64_t w = pixel % g_.out_width;
      int64_t h = pixel / g_.out_width % g_.out_height;
      int64_t n = pixel / g_.out_width / g_.out_height;
      int64_t count = std::min(g_.out_width - w, end - pixel);
      for (int64_t i = 0; i < g_.kernel_height; ++i) {
        int64_t row = h * g_.stride_height - g_.pad_height + i * g_.dilation_height;
        bool inside = row >= 0 && row < g_.height;
        const char* line = x + (n * g_.x_batch + row * g_.x_row) * size_;
        if (merge_) {
          gather_merged(inside ? line : nullptr, i, w, count, pixel - begin);
        } else {
          for (int64_t j = 0; j < g_.kernel_width; ++j)
            gather_tap(inside ? line : nullptr, i * g_.kernel_width + j, j, w, count, pixel - begin);
        }
      }
      pixel += count;
    }
  }

 private:
  void gather_tap(const char* line, int64_t tap, int64_t j, int64_t w, int64_t count, int64_t at) {
    const void** to = pointers_.data() + tap * kPixels + at;
    int64_t column = w * g_.stride_width - g_.pad_width + j * g_.dilation_width;
    for (int64_t i = 0; i < count; ++i, column += g_.stride_width)
      to[i] = line && column >= 0 && column < g_.width ? line + column * g_.x_pixel * size_ : zeros_.data();
  }

  /// A kernel row that leaves x is copied with its padding.
  void gather_merged(const char* line, int64_t tap, int64_t w, int64_t count, int64_t at) {
    int64_t column = w * g_.stride_width - g_.pad_width;
    int64_t pixel_bytes = g_.channels * size_;
    for (int64_t i = 0; i < count; ++i, column += g_.stride_width) {
      const void*& to = pointers_[tap * kPixels + at + i];
      if (line && column >= 0 && column + g_.kernel_width <= g_.width) {
        to = line + column * pixel_bytes;
        continue;
      }
      char* copy = copies_.data() + (tap * kPixels + at + i) * depth() * size_;
      std::memset(copy, 0, depth() * size_);
      int64_t first = std::clamp<int64_t>(-column, 0, g_.kernel_width);
      int64_t last = std::clamp<int64_t>(g_.width - column, first, g_.kernel_width);
      if (line && last > first)
        std::memcpy(copy + first * pixel_bytes, line + (column + first) * pixel_bytes, (last - first) * pixel_bytes);
      to = copy;
    }
  }

  Geometry g_;
  int64_t size_;
  bool merge_;
  std::vector<char> zeros_;
  std::vector<const void*> pointers_;
  std::vector<char> copies_;
};

/// What both forms share: bias, tail, data.
class OwnConv : public Kernel {
 public:
  OwnConv(const Node& node, Tail tail, const Geometry& g)
      : tail_(std::move(tail)), g_(g), dtype_(node.output()->type.dtype) {
    add_packed(tail_.inputs[1]);
    bias_ = at::zeros({ceil_div(g.out_channels, lanes()) * lanes() + 2 * lanes()});
    if (tail_.inputs.size() < 3) return;
    bias_.narrow(0, 0, g.out_channels).copy_(*constant_of(node.input(tail_.inputs[2])));
    add_packed(tail_.inputs[2]);
  }
  std::vector<size_t> packed_inputs() const override { return packed_; }

 private:
  /// The tail may read the bias once more.
  void add_packed(size_t input) {
    const auto& rest = tail_.rest_inputs;
    bool is_read = tail_.added == input || std::find(rest.begin(), rest.end(), input) != rest.end();
    if (!is_read) packed_.push_back(input);
  }

 protected:
  /// The data of one run.
  struct Data {
    const char* x;
    const char* added;
    char* out;
    std::vector<const void*> rest_in;
    std::vector<void*> rest_out;
  };

  static int64_t lanes() { return isa_table().conv.lanes; }

  Data data_of(const StepArgs& args) const {
    Data data{};
    data.x = static_cast<const char*>(args.in[tail_.inputs[0]]->const_data_ptr());
    if (tail_.added) data.added = static_cast<const char*>(args.in[*tail_.added]->const_data_ptr());
    data.out = static_cast<char*>(args.out[0]->mutable_data_ptr());
    data.rest_in.push_back(data.out);
    for (size_t i : tail_.rest_inputs) data.rest_in.push_back(args.in[i]->const_data_ptr());
    data.rest_out.push_back(data.out);
    return data;
  }

  /// A tile of results from `pixel` and `column` on.
  Tile tile_at(const Data& data, int64_t pixel, int64_t column) const {
    int64_t offset = (pixel * g_.out_channels + column) * static_cast<int64_t>(c10::elementSize(dtype_));
    Tile tile;
    tile.pitch = kPixels;
    tile.bias = bias_.const_data_ptr<float>() + column;
    tile.added = data.added ? data.added + offset : nullptr;
    tile.low = tail_.low;
    tile.high = tail_.high;
    tile.out = data.out + offset;
    tile.out_stride = g_.out_channels;
    return tile;
  }

  /// The rest of the tail for whole pixels.
  void finish(const Data& data, int64_t begin, int64_t end) const {
    if (tail_.rest) tail_.rest->run(data.rest_in, data.rest_out, begin * g_.out_channels, end * g_.out_channels);
  }

  Tail tail_;
  Geometry g_;
  c10::ScalarType dtype_;
  at::Tensor bias_;
  std::vector<size_t> packed_;
};

/// Every output channel reads every input channel of its group. Output channels are cut into panels of one or two
/// vectors, pixels into runs of kPixels. Either all panels are computed for a run, so that x is read once, or all runs
/// for a panel, so that the weights are.
class DenseConv : public OwnConv {
 public:
  DenseConv(const Node& node, Tail tail, const Geometry& g) : OwnConv(node, std::move(tail), g) {
    merge_ = g.groups == 1 && g.channels * g.kernel_width <= 64 && g.kernel_width > 1 && g.channels < lanes() &&
             g.x_pixel == g.channels && g.dilation_width == 1;
    pack(constant_of(node.input(tail_.inputs[1]))->to(c10::kFloat).contiguous());
    int64_t weight_bytes = weights_.numel() * 4;
    int64_t x_bytes = g.batch * g.height * g.width * g.channels * 4;
    runs_ = ceil_div(g.pixels(), kPixels);
    // The runs of a panel in turn, or the panels of a run.
    auto panels = static_cast<int64_t>(panels_.size());
    double by_run = weight_bytes <= kNearBytes ? weight_bytes : static_cast<double>(runs_) * weight_bytes;
    double by_panel = x_bytes <= kNearBytes ? x_bytes : static_cast<double>(panels) * x_bytes;
    by_panel_ = by_panel + weight_bytes < by_run + x_bytes || runs_ == 1;
    run_pixels_ = ceil_div(g.pixels(), runs_);
  }

  void run(const StepArgs& args) const override {
    Data data = data_of(args);
    auto panels = static_cast<int64_t>(panels_.size());
    int64_t items = runs_ * (by_panel_ ? panels : 1);
    int64_t products = g_.pixels() * g_.out_channels * g_.group_channels() * g_.taps();
    int64_t grain = std::max<int64_t>(1, kWorkPerThread * items / std::max<int64_t>(1, products));
    at::parallel_for(0, items, grain, [&](int64_t begin, int64_t end) {
      Operands operands(g_, 4, merge_);
      for (int64_t i = begin; i < end; ++i) {
        if (by_panel_) {
          run_panels(data, operands, i % runs_, i / runs_, i / runs_ + 1);
        } else {
          run_panels(data, operands, i, 0, panels);
          finish(data, i * run_pixels_, std::min(g_.pixels(), (i + 1) * run_pixels_));
        }
      }
    });
    if (!by_panel_ || !tail_.rest) return;
    int64_t pixels = std::max<int64_t>(1, 16384 / g_.out_channels);
    at::parallel_for(0, g_.pixels(), pixels, [&](int64_t begin, int64_t end) { finish(data, begin, end); });
  }

 private:
  struct Panel {
    int64_t group;
    int64_t column;  ///< Of all output channels.
    int64_t columns;
    int64_t vectors;
    int64_t weights;  ///< Offset.
  };

  /// Vectors of columns of each panel of a group, as even as can be: many vectors read x less often, but their weights
  /// must stay near.
  std::vector<int64_t> panel_vectors() const {
    int64_t vector_bytes = g_.taps() * g_.group_channels() * lanes() * 4;
    int64_t most = 2;
    while (most < kMaxVectors && isa_table().conv.max_rows(most + 1) > 0 && (most + 1) * vector_bytes <= kNearBytes)
      ++most;
    int64_t total = ceil_div(g_.group_columns(), lanes());
    int64_t panels = ceil_div(total, most);
    std::vector<int64_t> result;
    for (int64_t i = 0; i < panels; ++i) result.push_back((i + 1) * total / panels - i * total / panels);
    return result;
  }

  /// weight [K, C/groups, kh, kw] as [panel][tap][channel][column], zeros behind the last column.
  void pack(const at::Tensor& weight) {
    int64_t depth = g_.group_channels();
    int64_t size = 0;
    for (int64_t group = 0; group < g_.groups; ++group) {
      int64_t column = 0;
      for (int64_t vectors : panel_vectors()) {
        int64_t columns = std::min(vectors * lanes(), g_.group_columns() - column);
        panels_.push_back({group, group * g_.group_columns() + column, columns, vectors, size});
        size += g_.taps() * depth * vectors * lanes();
        column += columns;
      }
    }
    weights_ = at::empty({size});
    const float* from = weight.const_data_ptr<float>();
    for (const Panel& panel : panels_) {
      float* to = weights_.mutable_data_ptr<float>() + panel.weights;
      for (int64_t tap = 0; tap < g_.taps(); ++tap) {
        for (int64_t c = 0; c < depth; ++c, to += panel.vectors * lanes()) {
          for (int64_t j = 0; j < panel.columns; ++j) to[j] = from[((panel.column + j) * depth + c) * g_.taps() + tap];
          std::fill(to + panel.columns, to + panel.vectors * lanes(), 0.0F);
        }
      }
    }
  }

  void run_panels(const Data& data, Operands& operands, int64_t run, int64_t first, int64_t last) const {
    int64_t begin = run * run_pixels_;
    int64_t count = std::min(run_pixels_, g_.pixels() - begin);
    int64_t group = -1;
    for (int64_t i = first; i < last; ++i) {
      const Panel& panel = panels_[i];
      if (panel.group != group) {
        group = panel.group;
        operands.gather(data.x, group * g_.group_channels(), begin, begin + count);
      }
      int64_t blocks = ceil_div(count, isa_table().conv.max_rows(panel.vectors));
      for (int64_t block = 0; block < blocks; ++block) {
        int64_t from = block * count / blocks;
        int64_t rows = (block + 1) * count / blocks - from;
        Tile tile = tile_at(data, begin + from, panel.column);
        tile.operands = operands.pointers() + from;
        tile.taps = operands.taps();
        tile.depth = operands.depth();
        tile.weights = weights_.const_data_ptr<float>() + panel.weights;
        tile.columns = panel.columns;
        isa_table().conv.dense(rows, panel.vectors)(tile);
      }
    }
  }

  std::vector<Panel> panels_;
  at::Tensor weights_;
  bool merge_ = false;
  bool by_panel_ = false;
  int64_t runs_ = 1;
  int64_t run_pixels_ = 1;
};

/// Every output channel reads the input channel of its own number. A unit of work is a line of output pixels.
class DepthwiseConv : public OwnConv {
 public:
  DepthwiseConv(const Node& node, Tail tail, const Geometry& g) : OwnConv(node, std::move(tail), g) {
    int64_t padded = ceil_div(g.channels, lanes()) * lanes();
    at::Tensor weight = constant_of(node.input(tail_.inputs[1]))->to(c10::kFloat).reshape({g.channels, g.taps()});
    weights_ = at::zeros({g.taps(), padded});
    weights_.narrow(1, 0, g.channels).copy_(weight.t());
    tiles_.resize(kDepthwiseRows + 1);
    for (int64_t rows = 1; rows <= kDepthwiseRows; ++rows)
      tiles_[rows] = isa_table().conv.depthwise(rows, g.kernel_width, g.stride_width, g.dilation_width, dtype_);
  }

  void run(const StepArgs& args) const override {
    Data data = data_of(args);
    int64_t lines = g_.batch * g_.out_height;
    int64_t grain = std::max<int64_t>(1, kWorkPerThread / 2 / (g_.out_width * g_.channels * g_.taps()));
    at::parallel_for(0, lines, grain, [&](int64_t first, int64_t last) {
      std::vector<char> zeros(g_.channels * c10::elementSize(dtype_));
      std::vector<const void*> operands(g_.kernel_height * pitch());
      for (int64_t line = first; line < last; ++line) {
        gather(data.x, line, zeros.data(), operands);
        run_line(data, line * g_.out_width, operands);
        finish(data, line * g_.out_width, (line + 1) * g_.out_width);
      }
    });
  }

 private:
  /// Pixels of x that a line of output pixels reads, padding included.
  int64_t pitch() const { return (g_.out_width - 1) * g_.stride_width + (g_.kernel_width - 1) * g_.dilation_width + 1; }

  void gather(const char* x, int64_t line, const char* zeros, std::vector<const void*>& operands) const {
    auto size = static_cast<int64_t>(c10::elementSize(dtype_));
    int64_t n = line / g_.out_height;
    int64_t h = line % g_.out_height;
    for (int64_t i = 0; i < g_.kernel_height; ++i) {
      int64_t row = h * g_.stride_height - g_.pad_height + i * g_.dilation_height;
      bool inside = row >= 0 && row < g_.height;
      const char* from = x + (n * g_.x_batch + row * g_.x_row) * size;
      for (int64_t j = 0; j < pitch(); ++j) {
        int64_t column = j - g_.pad_width;
        operands[i * pitch() + j] =
            inside && column >= 0 && column < g_.width ? from + column * g_.x_pixel * size : zeros;
      }
    }
  }

  void run_line(const Data& data, int64_t pixel, const std::vector<const void*>& operands) const {
    int64_t blocks = ceil_div(g_.out_width, kDepthwiseRows);
    for (int64_t block = 0; block < blocks; ++block) {
      int64_t from = block * g_.out_width / blocks;
      int64_t rows = (block + 1) * g_.out_width / blocks - from;
      Tile tile = tile_at(data, pixel + from, 0);
      tile.operands = operands.data() + from * g_.stride_width;
      tile.pitch = pitch();
      tile.taps = g_.kernel_height;
      tile.weights = weights_.const_data_ptr<float>();
      tile.columns = g_.channels;
      tile.kernel = g_.kernel_width;
      tile.stride = g_.stride_width;
      tile.dilation = g_.dilation_width;
      tiles_[rows](tile);
    }
  }

  at::Tensor weights_;
  std::vector<TileFunction> tiles_;  ///< By rows.
};

/// What both ops need.
void check_operands(const Node& node, const Tail& tail) {
  const TensorType& x = node.input(tail.inputs[0])->type;
  expect(x.numel() > 0 && node.output()->type.numel() > 0, "empty tensors");
  for (size_t i = 1; i < tail.inputs.size(); ++i) {
    expect(node.input(tail.inputs[i])->from<Constant>() != nullptr, "weight or bias is not constant");
    expect(node.input(tail.inputs[i])->type.dtype == x.dtype, "operands of several dtypes");
  }
  expect(isa_table().conv.max_rows(1) > 0, "this processor has no vectors for it");
}

template <class K>
void offer(const Node& node, const Tail& tail, const Geometry& g, Offers& offers) {
  offers.add("", [&node, tail, g] { return std::make_unique<K>(node, tail, g); });
}

}  // namespace

void propose_own_conv(const Node& node, const KernelContext&, Offers& offers) {
  Tail tail = tail_of<Conv>(node);
  const Conv& op = *tail.anchor->as<Conv>();
  const TensorType& x = node.input(tail.inputs[0])->type;
  const TensorType& weight = node.input(tail.inputs[1])->type;
  const TensorType& out = node.output()->type;
  expect(x.rank() == 4 && !op.transposed, "only plain 2-D convolutions");
  check_operands(node, tail);
  expect((x.shape[1] == 1 || x.strides[1] == 1) && is_channels_last(out), "not channels-last");
  expect(same_layout(out.shape, tail.anchor->output()->type.strides, out.strides), "the result is laid out anew");
  Geometry g = geometry_of(op, x, weight, out);
  bool depthwise = g.groups == g.channels && g.out_channels == g.channels && g.groups > 1;
  if (depthwise) {
    expect(isa_table().conv.depthwise(1, 3, 1, 1, x.dtype) != nullptr, "depthwise of " + dtype_name(x.dtype));
    return offer<DepthwiseConv>(node, tail, g, offers);
  }
  expect(x.dtype == c10::kFloat, "only f32");
  expect(g.groups == 1 || g.group_columns() >= isa_table().conv.lanes, "groups of less than a vector of channels");
  offer<DenseConv>(node, tail, g, offers);
}

bool own_conv_takes(const Node& node) {
  if (is_disabled("cpu_conv")) return false;
  try {
    Offers offers;
    propose_own_conv(node, {}, offers);
    return true;
  } catch (const Unsupported&) {
    return false;
  }
}

void propose_own_linear(const Node& node, const KernelContext&, Offers& offers) {
  Tail tail = tail_of<Linear>(node);
  const TensorType& x = node.input(tail.inputs[0])->type;
  const TensorType& weight = node.input(tail.inputs[1])->type;
  const TensorType& out = node.output()->type;
  check_operands(node, tail);
  expect(x.dtype == c10::kFloat, "only f32");
  expect(weight.rank() == 2 && is_contiguous(x) && is_contiguous(out), "not row-major");
  expect(weight.shape[0] >= isa_table().conv.lanes, "less than a vector of columns");
  Geometry g = geometry_of_rows(x.numel() / weight.shape[1], weight.shape[1], weight.shape[0]);
  offer<DenseConv>(node, tail, g, offers);
}

}  // namespace torchweld::cpu
