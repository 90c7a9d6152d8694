// Element types as they lie in memory, the types they are computed in, and access to several elements at once.
#pragma once

namespace tw {

template <class A, class B>
inline constexpr bool same = false;
template <class A>
inline constexpr bool same<A, A> = true;

struct f16 {
  unsigned short bits;
};
struct bf16 {
  unsigned short bits;
};

// The type in which elements of type S are computed.
template <class S>
struct ComputeOf {
  using type = S;
};
template <>
struct ComputeOf<f16> {
  using type = float;
};
template <>
struct ComputeOf<bf16> {
  using type = float;
};
template <class S>
using Compute = typename ComputeOf<S>::type;

template <class S>
__device__ __forceinline__ S widen(S v) {
  return v;
}
__device__ __forceinline__ float widen(f16 v) {
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v.bits));
  return r;
}
__device__ __forceinline__ float widen(bf16 v) { return __uint_as_float(static_cast<unsigned>(v.bits) << 16); }

// Rounds to nearest even.
template <class S>
__device__ __forceinline__ S narrow(Compute<S> v) {
  if constexpr (same<S, f16>) {
    f16 r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
    return r;
  } else if constexpr (same<S, bf16>) {
    bf16 r;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
#else
    unsigned u = __float_as_uint(v);
    r.bits = v != v ? 0x7fff : static_cast<unsigned short>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
#endif
    return r;
  } else {
    return v;
  }
}

// Conversion between compute types as Tensor.to does it: towards zero, integers wrap, anything but 0 is true.
template <class To, class From>
__device__ __forceinline__ To convert(From v) {
  if constexpr (same<To, bool>) {
    return v != From(0);
  } else if constexpr ((same<From, float> || same<From, double>) && sizeof(To) < 4) {
    return static_cast<To>(static_cast<long long>(v));
  } else {
    return static_cast<To>(v);
  }
}

// The widest machine word that cuts `bytes` bytes evenly.
template <int bytes>
struct WordOf {
  using type = unsigned char;
};
template <>
struct WordOf<2> {
  using type = unsigned short;
};
template <>
struct WordOf<4> {
  using type = unsigned;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};
template <int bytes>
using Word = typename WordOf<(bytes % 16 == 0  ? 16
                              : bytes % 8 == 0 ? 8
                              : bytes % 4 == 0 ? 4
                              : bytes % 2 == 0 ? 2
                                               : 1)>::type;

// True when V elements at p can be moved as the widest words.
template <int V, class S>
__device__ __forceinline__ bool is_aligned(const S* p) {
  return reinterpret_cast<unsigned long long>(p) % sizeof(Word<sizeof(S) * V>) == 0;
}

// Reads V neighbouring elements. `aligned`: is_aligned<V>(p).
template <int V, class S>
__device__ __forceinline__ void read(const S* p, bool aligned, Compute<S> (&v)[V]) {
  using W = Word<sizeof(S) * V>;
  union {
    W words[sizeof(S) * V / sizeof(W)];
    S elements[V];
  } raw;
  if (aligned) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(raw) / sizeof(W)); ++i) raw.words[i] = reinterpret_cast<const W*>(p)[i];
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) raw.elements[i] = p[i];
  }
#pragma unroll
  for (int i = 0; i < V; ++i) v[i] = widen(raw.elements[i]);
}

// Writes V neighbouring elements, rounded. `aligned`: is_aligned<V>(p).
template <int V, class S>
__device__ __forceinline__ void write(S* p, bool aligned, const Compute<S> (&v)[V]) {
  using W = Word<sizeof(S) * V>;
  union {
    W words[sizeof(S) * V / sizeof(W)];
    S elements[V];
  } raw;
#pragma unroll
  for (int i = 0; i < V; ++i) raw.elements[i] = narrow<S>(v[i]);
  if (aligned) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(raw) / sizeof(W)); ++i) reinterpret_cast<W*>(p)[i] = raw.words[i];
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) p[i] = raw.elements[i];
  }
}

// V elements `step` apart; step 0 repeats one element.
template <int V, class S, class I>
__device__ __forceinline__ void gather(const S* p, I step, Compute<S> (&v)[V]) {
#pragma unroll
  for (int i = 0; i < V; ++i) v[i] = widen(p[i * step]);
}
template <int V, class S>
__device__ __forceinline__ void repeat(const S* p, Compute<S> (&v)[V]) {
  Compute<S> one = widen(*p);
#pragma unroll
  for (int i = 0; i < V; ++i) v[i] = one;
}
template <int V, class S, class I>
__device__ __forceinline__ void scatter(S* p, I step, const Compute<S> (&v)[V]) {
#pragma unroll
  for (int i = 0; i < V; ++i) p[i * step] = narrow<S>(v[i]);
}

// Everything that reads what another kernel wrote, or writes at all, comes after this: under programmatic dependent
// launch a kernel starts before the one ahead of it has ended. The kernel after this one may then start.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n\tgriddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace tw
