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

}  // namespace tw
