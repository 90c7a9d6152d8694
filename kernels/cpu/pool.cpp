#include "kernels/cpu/pool.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/ops/pool.h"
#include "kernels/cpu/isa.h"

namespace torchweld::cpu {
namespace {

constexpr int64_t kElementsPerThread = 16384;  ///< Elements read, below which another thread costs too much.

/// Where the windows along one dimension begin and end, and for how many elements each counts in a mean.
struct Windows {
  std::vector<int64_t> begin;
  std::vector<int64_t> end;
  std::vector<int64_t> counts;
  int64_t step = 1;

  int64_t size() const { return static_cast<int64_t>(begin.size()); }
};

Windows single_window() { return {{0}, {1}, {1}, 1}; }

Windows strided_windows(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
                        bool count_padding) {
  Windows windows;
  windows.step = dilation;
  for (int64_t o = 0; o < out; ++o) {
    int64_t begin = o * stride - padding;
    int64_t end = begin + (kernel - 1) * dilation + 1;
    int64_t padded = std::min(end, in + padding) - begin;
    while (begin < 0) begin += dilation;
    end = std::min(end, in);
    windows.begin.push_back(begin);
    windows.end.push_back(end);
    windows.counts.push_back(count_padding ? padded : std::max<int64_t>(1, end - begin));
  }
  return windows;
}

Windows adaptive_windows(int64_t in, int64_t out) {
  Windows windows;
  for (int64_t o = 0; o < out; ++o) {
    windows.begin.push_back(o * in / out);
    windows.end.push_back(((o + 1) * in + out - 1) / out);
    windows.counts.push_back(windows.end.back() - windows.begin.back());
  }
  return windows;
}

/// Any pooling op on depth, height and width.
struct Pool {
  bool largest = false;
  std::array<Windows, 3> windows{single_window(), single_window(), single_window()};
  int64_t divisor = 0;  ///< 0: the windows' counts.
};

Pool pool_of(const Node& node) {
  const Dims& in = node.input(0)->type.shape;
  const Dims& out = node.output()->type.shape;
  size_t dims = in.size() - 2;
  Pool pool;
  for (size_t d = 0; d < dims; ++d) {
    Windows& windows = pool.windows[3 - dims + d];
    int64_t from = in[d + 2];
    int64_t to = out[d + 2];
    if (auto* op = node.as<MaxPool>()) {
      pool.largest = true;
      windows = strided_windows(from, to, op->kernel[d], op->stride[d], op->padding[d], op->dilation[d], true);
    } else if (auto* op = node.as<AvgPool>()) {
      pool.divisor = op->divisor_override;
      windows = strided_windows(from, to, op->kernel[d], op->stride[d], op->padding[d], 1, op->count_include_pad);
    } else {
      pool.largest = node.as<AdaptivePool>()->kind == "max";
      windows = adaptive_windows(from, to);
    }
  }
  return pool;
}

/// Strides of batch, channel, depth, height and width.
using Strides = std::array<int64_t, 5>;

Strides strides_of(const TensorType& type) {
  Strides strides{};
  strides[0] = type.strides[0];
  strides[1] = type.strides[1];
  for (int64_t d = 2; d < type.rank(); ++d) strides[5 - type.rank() + d] = type.strides[d];
  return strides;
}

/// Base of the two forms: a unit of work is one line of results in depth and height.
class PoolKernel : public Kernel {
 public:
  explicit PoolKernel(const Node& node)
      : pool_(pool_of(node)),
        in_(strides_of(node.input(0)->type)),
        out_(strides_of(node.output()->type)),
        shape_(node.input(0)->type.shape),
        dtype_(node.input(0)->type.dtype),
        size_(static_cast<int64_t>(c10::elementSize(dtype_))) {}

 protected:
  const Windows& depth() const { return pool_.windows[0]; }
  const Windows& height() const { return pool_.windows[1]; }
  const Windows& width() const { return pool_.windows[2]; }

  /// Rows of x that windows (d, h) read, from `base`.
  std::vector<const char*> rows(const char* base, int64_t d, int64_t h) const {
    std::vector<const char*> result;
    for (int64_t i = depth().begin[d]; i < depth().end[d]; i += depth().step) {
      for (int64_t j = height().begin[h]; j < height().end[h]; j += height().step)
        result.push_back(base + (i * in_[2] + j * in_[3]) * size_);
    }
    return result;
  }

  double divisor(int64_t d, int64_t h) const {
    return pool_.divisor != 0 ? static_cast<double>(pool_.divisor)
                              : static_cast<double>(depth().counts[d] * height().counts[h]);
  }

  Pool pool_;
  Strides in_;
  Strides out_;
  Dims shape_;
  c10::ScalarType dtype_;
  int64_t size_;
};

/// Vectors along the channels.
class ChannelsPool : public PoolKernel {
 public:
  explicit ChannelsPool(const Node& node)
      : PoolKernel(node), function_(isa_table().pool.taps(pool_.largest, /*wide=*/false, dtype_)) {}

  void run(const StepArgs& args) const override {
    auto* x = static_cast<const char*>(args.in[0]->const_data_ptr());
    auto* y = static_cast<char*>(args.out[0]->mutable_data_ptr());
    int64_t lines = depth().size() * height().size();
    int64_t grain = std::max<int64_t>(1, kElementsPerThread / (width().size() * shape_[1]));
    at::parallel_for(0, shape_[0] * lines, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        int64_t n = i / lines;
        int64_t d = i % lines / height().size();
        int64_t h = i % height().size();
        run_line(x + n * in_[0] * size_, y + (n * out_[0] + d * out_[2] + h * out_[3]) * size_, d, h);
      }
    });
  }

 private:
  void run_line(const char* x, char* y, int64_t d, int64_t h) const {
    std::vector<const char*> lines = rows(x, d, h);
    std::vector<const void*> taps;
    for (int64_t w = 0; w < width().size(); ++w) {
      taps.clear();
      for (const char* line : lines) {
        for (int64_t k = width().begin[w]; k < width().end[w]; k += width().step)
          taps.push_back(line + k * in_[4] * size_);
      }
      double count = divisor(d, h) * static_cast<double>(pool_.divisor != 0 ? 1 : width().counts[w]);
      function_(taps.data(), static_cast<int64_t>(taps.size()), shape_[1], count, y + w * out_[4] * size_);
    }
  }

  PoolTaps function_;
};

/// Vectors along the width: first the rows of a window into one line, then along that line.
class WidthPool : public PoolKernel {
 public:
  explicit WidthPool(const Node& node)
      : PoolKernel(node),
        taps_(isa_table().pool.taps(pool_.largest, /*wide=*/true, dtype_)),
        line_(isa_table().pool.line(pool_.largest, dtype_)),
        counts_(pool_.divisor != 0 ? std::vector<int64_t>(width().size(), 1) : width().counts) {}

  void run(const StepArgs& args) const override {
    auto* x = static_cast<const char*>(args.in[0]->const_data_ptr());
    auto* y = static_cast<char*>(args.out[0]->mutable_data_ptr());
    int64_t lines = depth().size() * height().size();
    int64_t grain = std::max<int64_t>(1, kElementsPerThread / shape_.back());
    at::parallel_for(0, shape_[0] * shape_[1] * lines, grain, [&](int64_t begin, int64_t end) {
      std::vector<double> line(shape_.back());
      for (int64_t i = begin; i < end; ++i) {
        int64_t n = i / lines / shape_[1];
        int64_t c = i / lines % shape_[1];
        int64_t d = i % lines / height().size();
        int64_t h = i % height().size();
        std::vector<const char*> from = rows(x + (n * in_[0] + c * in_[1]) * size_, d, h);
        taps_(reinterpret_cast<const void* const*>(from.data()), static_cast<int64_t>(from.size()), shape_.back(), 1,
              line.data());
        line_(line.data(), width().begin.data(), width().end.data(), width().step, counts_.data(), divisor(d, h),
              width().size(), y + (n * out_[0] + c * out_[1] + d * out_[2] + h * out_[3]) * size_);
      }
    });
  }

 private:
  PoolTaps taps_;
  PoolLine line_;
  std::vector<int64_t> counts_;
};

}  // namespace

void propose_pool(const Node& node, const KernelContext&, Offers& offers) {
  expect(node.as<MaxPool>() || node.as<AvgPool>() || node.as<AdaptivePool>(), "not a pooling op");
  expect(node.outputs().size() == 1, "indices are wanted too");
  const TensorType& x = node.input(0)->type;
  const TensorType& out = node.output()->type;
  expect(isa_table().pool.line(true, x.dtype) != nullptr, "pooling of " + dtype_name(x.dtype));
  expect(x.numel() > 0 && out.numel() > 0, "empty tensors");
  auto innermost = [&](int64_t d) {
    return (x.shape[d] == 1 || x.strides[d] == 1) && (out.shape[d] == 1 || out.strides[d] == 1);
  };
  if (innermost(1) && x.shape[1] > 1) {
    offers.add("channels", [&node] { return std::make_unique<ChannelsPool>(node); });
  } else {
    expect(innermost(x.rank() - 1), "neither channels nor the last dimension are innermost");
    offers.add("width", [&node] { return std::make_unique<WidthPool>(node); });
  }
}

}  // namespace torchweld::cpu
