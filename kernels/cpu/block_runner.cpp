#include "kernels/cpu/block_runner.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

namespace torchweld::cpu {
namespace {

/// Moves `count` elements from position `start` of the loops between the strided operand and a dense block.
template <class T, bool to_block>
void move_strided(T* block, T* operand, const Dims& sizes, const Dims& strides, int64_t start, int64_t count) {
  size_t rank = sizes.size();
  int64_t inner = sizes[rank - 1];
  int64_t stride = strides[rank - 1];
  auto move = [](T& in_block, T& in_operand) {
    if constexpr (to_block) {
      in_block = in_operand;
    } else {
      in_operand = in_block;
    }
  };
  while (count > 0) {
    int64_t rest = start;
    int64_t column = rest % inner;
    rest /= inner;
    int64_t offset = column * stride;
    int64_t rows_left = rank > 1 ? sizes[rank - 2] - rest % sizes[rank - 2] : 1;
    for (size_t d = rank - 1; d-- > 0;) {
      offset += rest % sizes[d] * strides[d];
      rest /= sizes[d];
    }
    T* from = operand + offset;
    int64_t rows = std::min(count / inner, rows_left);
    if (column == 0 && rows > 1 && (stride != 1 || inner < 8)) {
      // Column by column: neighbours of the operand may lie along the rows.
      int64_t row_stride = strides[rank - 2];
      for (int64_t c = 0; c < inner; ++c) {
        for (int64_t r = 0; r < rows; ++r) move(block[r * inner + c], from[c * stride + r * row_stride]);
      }
      block += rows * inner;
      start += rows * inner;
      count -= rows * inner;
      continue;
    }
    int64_t length = std::min(inner - column, count);
    if (stride == 1) {
      std::memcpy(to_block ? block : from, to_block ? from : block, length * sizeof(T));
    } else {
      for (int64_t i = 0; i < length; ++i) move(block[i], from[i * stride]);
    }
    block += length;
    start += length;
    count -= length;
  }
}

template <bool to_block>
void move_operand(char* block, char* operand, const BlockOperand& info, const Dims& sizes, int64_t start,
                  int64_t count) {
  auto move = [&](auto* typed) {
    using T = std::remove_pointer_t<decltype(typed)>;
    move_strided<T, to_block>(reinterpret_cast<T*>(block), reinterpret_cast<T*>(operand), sizes, info.strides, start,
                              count);
  };
  switch (c10::elementSize(info.dtype)) {
    case 1:
      return move(static_cast<uint8_t*>(nullptr));
    case 2:
      return move(static_cast<uint16_t*>(nullptr));
    case 4:
      return move(static_cast<uint32_t*>(nullptr));
    default:
      return move(static_cast<uint64_t*>(nullptr));
  }
}

template <class T>
void fill_block(char* block, T value, int64_t count) {
  std::fill_n(reinterpret_cast<T*>(block), count, value);
}

void fill_number(char* block, const BlockProgram::Number& number, int64_t count) {
  switch (number.dtype) {
    case c10::kFloat:
      return fill_block(block, static_cast<float>(number.real), count);
    case c10::kDouble:
      return fill_block(block, number.real, count);
    case c10::kLong:
      return fill_block(block, number.integer, count);
    case c10::kInt:
      return fill_block(block, static_cast<int32_t>(number.integer), count);
    case c10::kShort:
      return fill_block(block, static_cast<int16_t>(number.integer), count);
    case c10::kBool:
      return fill_block(block, static_cast<uint8_t>(number.real != 0), count);
    default:
      return fill_block(block, static_cast<uint8_t>(number.integer), count);
  }
}

}  // namespace

void BlockRunner::run(std::span<const void* const> in, std::span<void* const> out, int64_t begin, int64_t end) const {
  constexpr auto kLine = std::align_val_t{64};
  struct Free {
    void operator()(char* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
  };
  std::unique_ptr<char, Free> memory(
      static_cast<char*>(::operator new[](std::max(1, program_.buffer_count) * kBlockBytes, kLine)));
  std::vector<char*> at(program_.buffers.size());
  for (size_t r = 0; r < at.size(); ++r) at[r] = memory.get() + std::max(0, program_.buffers[r]) * kBlockBytes;
  // Operands are only read; moving takes both ways.
  auto input = [&](const BlockOperand& operand) {
    return const_cast<char*>(static_cast<const char*>(in[operand.index]));
  };
  auto run_step = [&](const BlockProgram::Step& step, int64_t count) {
    step.function(at[step.in[0]], at[step.in[1]], at[step.in[2]], at[step.out], count);
  };

  int64_t block = std::min(program_.block, end - begin);
  for (const auto& number : program_.numbers) fill_number(at[number.reg], number, block);
  for (const BlockOperand& operand : program_.inputs) {
    if (operand.single) move_operand<true>(at[operand.reg], input(operand), operand, {block}, 0, block);
  }
  for (const auto& step : program_.once) run_step(step, block);
  for (int64_t start = begin; start < end; start += block) {
    int64_t count = std::min(block, end - start);
    for (const BlockOperand& operand : program_.inputs) {
      if (operand.flat) {
        at[operand.reg] = input(operand) + start * static_cast<int64_t>(c10::elementSize(operand.dtype));
      } else if (!operand.single) {
        move_operand<true>(at[operand.reg], input(operand), operand, program_.sizes, start, count);
      }
    }
    for (const BlockOperand& operand : program_.outputs) {
      auto* data = static_cast<char*>(out[operand.index]);
      if (operand.flat) at[operand.reg] = data + start * static_cast<int64_t>(c10::elementSize(operand.dtype));
    }
    for (const auto& step : program_.steps) run_step(step, count);
    for (const BlockOperand& operand : program_.outputs) {
      auto* data = static_cast<char*>(out[operand.index]);
      if (!operand.flat) move_operand<false>(at[operand.reg], data, operand, program_.sizes, start, count);
    }
  }
}

}  // namespace torchweld::cpu
