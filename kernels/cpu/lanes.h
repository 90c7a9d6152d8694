// Vectors of the instruction set at hand, for files named *_isa.cpp only. Numbers are computed in f32, or in f64 when
// they are f64; f16 and bf16 are how they may lie in memory.
#pragma once

#ifndef TORCHWELD_ISA
#error "only for files that are compiled once per instruction set"
#endif

// LibTorch's vector headers are told by their own macros which one it is.
#if defined(__AVX512F__)
#define CPU_CAPABILITY AVX512
#define CPU_CAPABILITY_AVX512
#elif defined(__AVX2__)
#define CPU_CAPABILITY AVX2
#define CPU_CAPABILITY_AVX2
#else
#define CPU_CAPABILITY DEFAULT
#define CPU_CAPABILITY_DEFAULT
#endif

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <type_traits>

namespace torchweld::cpu::TORCHWELD_ISA {
namespace {

template <class T>
using Vec = at::vec::Vectorized<T>;

/// What numbers stored as S are computed in.
template <class S>
using Computed = std::conditional_t<std::is_same_v<S, double>, double, float>;

template <class S>
constexpr int64_t kLanes = Vec<Computed<S>>::size();

/// kLanes<S> numbers from p.
template <class S>
inline Vec<Computed<S>> load_lanes(const S* p) {
  if constexpr (std::is_same_v<S, Computed<S>>) {
    return Vec<S>::loadu(p);
  } else {
    Vec<float> result;
    at::vec::load_to_float<S>(p, result);
    return result;
  }
}

/// The first `count` of kLanes<S> numbers from p; the others are 0.
template <class S>
inline Vec<Computed<S>> load_lanes(const S* p, int64_t count) {
  if (count >= kLanes<S>) return load_lanes(p);
  if constexpr (std::is_same_v<S, Computed<S>>) {
    return Vec<S>::loadu(p, count);
  } else {
    S whole[kLanes<S>] = {};
    for (int64_t i = 0; i < count; ++i) whole[i] = p[i];
    return load_lanes(whole);
  }
}

template <class S>
inline void store_lanes(Vec<Computed<S>> v, S* p, int64_t count = kLanes<S>) {
  if constexpr (std::is_same_v<S, Computed<S>>) {
    v.store(p, count);
  } else {
    at::vec::convert_from_float<S>(v, v).store(p, static_cast<int>(count));
  }
}

/// Calls f(S()) for the type S in which numbers of this dtype are stored; null for dtypes that have none.
template <class F>
auto with_storage(c10::ScalarType dtype, F f) -> decltype(f(float())) {
  switch (dtype) {
    case c10::kFloat:
      return f(float());
    case c10::kDouble:
      return f(double());
    case c10::kHalf:
      return f(c10::Half());
    case c10::kBFloat16:
      return f(c10::BFloat16());
    default:
      return nullptr;
  }
}

}  // namespace
}  // namespace torchweld::cpu::TORCHWELD_ISA
