// What blocks that begin with a mean over all positions consist of, and how their small products are laid out.
#pragma once

#include <optional>
#include <vector>

#include "kernels/cuda/block_parts.h"
#include "kernels/cuda/packed_bytes.h"

namespace torchweld::cuda {

/// A block taken apart: what is pooled, the products after it, and what applies the gate.
struct PooledParts {
  TensorType x;
  size_t x_index = 0;
  std::vector<BlockPart> products;
  std::optional<Body> gate;  ///< Inputs are those of the pointwise node.
  size_t gate_input = 0;     ///< Which of them is the gate.
  std::vector<size_t> packed;
  int64_t channels() const { return x.shape[1]; }
  int64_t pixels() const { return x.shape[2] * x.shape[3]; }
};

/// True for a block that begins with a reduction.
bool is_pooled_block(const Node& node);

/// Takes a fused node apart that begins with a mean over both spatial dimensions. Throws Unsupported for others.
PooledParts take_pooled_apart(const Node& node);

/// Lanes that work on one row of a small product (dot_rows in small_products.cuh): as many as keep all threads busy,
/// but not more than there is work for.
int64_t lanes_per_row(int64_t rows, int64_t depth, int64_t threads);

/// Elements from row to row of its weights, an odd multiple of 16 bytes, so that rows begin in different banks.
int64_t row_step(int64_t depth);

/// Rows `first` ... of a matrix [rows, columns] from column `from` on, as many as there are, `at` bytes from the
/// beginning.
void put_rows(PackedBytes& bytes, int64_t at, int64_t step, const at::Tensor& matrix, int64_t first, int64_t rows,
              int64_t from, int64_t columns);

/// `count` numbers of a bias from `first` on, in f32; nothing where it is undefined.
void put_bias(PackedBytes& bytes, int64_t at, const at::Tensor& bias, int64_t first, int64_t count);

}  // namespace torchweld::cuda
