// Index arithmetic with sizes that are known only at run time.
#pragma once

namespace tw {

// Division by a number that the host has prepared: exact for 0 <= n < 2^31 (see kernels/cuda/codegen.h).
struct Divider {
  unsigned size;
  unsigned multiplier;
  unsigned shift;
};

__device__ __forceinline__ void divide(int n, Divider d, int& quotient, int& remainder) {
  unsigned high = __umulhi(static_cast<unsigned>(n), d.multiplier);
  quotient = static_cast<int>((high + static_cast<unsigned>(n)) >> d.shift);
  remainder = n - quotient * static_cast<int>(d.size);
}
__device__ __forceinline__ void divide(long long n, long long d, long long& quotient, long long& remainder) {
  quotient = n / d;
  remainder = n - quotient * d;
}

// 0 <= i < size, by one comparison.
__device__ __forceinline__ bool is_within(int i, int size) {
  return static_cast<unsigned>(i) < static_cast<unsigned>(size);
}

// How sizes come as arguments when indexes are of type I.
template <class I>
struct SizeOf {
  using type = Divider;
};
template <>
struct SizeOf<long long> {
  using type = long long;
};
template <class I>
using Size = typename SizeOf<I>::type;

// The row of a table of `rows` rows that a number picks; -1 is the last one where numbers wrap. A number that picks
// none ends the kernel by a device-side assertion, as in LibTorch's own kernels, and nothing is read.
template <bool wraps, class N, class I>
__device__ __forceinline__ I picked_row(N number, I rows) {
  long long row = number;
  if (wraps && row < 0) row += rows;
  if (row < 0 || row >= rows) __assertfail("take: index out of range", "torchweld", 0, "tw::picked_row", 1);
  return static_cast<I>(row);
}

}  // namespace tw
