// Products of small matrices by tensor cores. Sums are f32.
//
// A fragment is held by the 32 lanes of a warp together. With g = lane / 4 and t = lane % 4, "word" meaning 4 bytes
// (two f16 or bf16, one f32) and a step meaning 8 words along k (16 elements of 2 bytes, 8 of f32):
//   a[0..3]  rows g, g + 8, g, g + 8 of 16; words t, t, t + 4, t + 4 of the step
//   b[0..1]  column g of 8; words t, t + 4 of the step
//   c[0..3]  rows g, g, g + 8, g + 8; columns 2t, 2t + 1, 2t, 2t + 1
// So both operands lie in memory with k innermost, and all element types load alike.
#pragma once

#include "types.cuh"

namespace tw {

// Four blocks of 8 rows x 16 bytes of shared memory: lane l gives the (32-bit, 16-byte aligned) address of row l % 8 of
// block l / 8 and gets in r[i] word l % 4 of row l / 4 of block i.
__device__ __forceinline__ void load_matrix(unsigned (&r)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
// The same with two blocks; the addresses of lanes 0 to 15 count.
__device__ __forceinline__ void load_matrix(unsigned (&r)[2], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(address));
}
// Elements of 2 bytes, each block transposed on the way: r[i] holds the elements of rows 2 (l % 4) and 2 (l % 4) + 1 in
// column l / 4 of block i.
__device__ __forceinline__ void load_matrix_transposed(unsigned (&r)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

// c += a b over one step of elements S: f16 (any architecture), bf16 or f32 taken as TF32 (from sm_80 on). f32 words
// must be rounded by round_to_tf32 before, or they are cut off.
template <class S>
__device__ __forceinline__ void multiply_add(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  if constexpr (same<S, f16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else if constexpr (same<S, bf16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    static_assert(same<S, float>, "an element type that tensor cores multiply");
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
  if constexpr (same<S, f16>) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
    }
  } else {
    __trap();
  }
#endif
}

// The word of an f32 number with the mantissa of TF32, rounded to nearest, ties away from zero.
__device__ __forceinline__ unsigned round_to_tf32(unsigned word) {
#if __CUDA_ARCH__ >= 800
  unsigned rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(word)));
  return rounded;
#else
  __trap();
  return word;
#endif
}
// Makes words of elements S ready for multiply_add: nothing to do but for f32.
template <class S, int count>
__device__ __forceinline__ void prepare_words(unsigned (&words)[count]) {
  if constexpr (same<S, float>) {
#pragma unroll
    for (int i = 0; i < count; ++i) words[i] = round_to_tf32(words[i]);
  }
}

// Two numbers as one word of elements S of 2 bytes, the first in the lower half.
template <class S>
__device__ __forceinline__ unsigned pair_of(float low, float high) {
#if __CUDA_ARCH__ >= 800
  unsigned pair;
  if constexpr (same<S, f16>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
#else
  return narrow<S>(low).bits | static_cast<unsigned>(narrow<S>(high).bits) << 16;
#endif
}

}  // namespace tw
