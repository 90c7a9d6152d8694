// The end of an inverted residual with squeeze-excitation inside: each pixel is scaled channel by channel (C::scales,
// and a function scale(acc, gate) instead of the first two of inverted_residual.cuh) and projected.
#pragma once

#include "inverted_residual.cuh"

namespace tw {

template <class S>
__device__ __forceinline__ void copy_chunk(unsigned to, const S* from, bool aligned, bool valid) {
  if (aligned || !valid) {
    copy_async16(to, from, valid);
  } else {
    copy_one_by_one(to, from);
  }
}

// Copies the tile of the tensor that is added, behind load_region.
template <class C, class Params>
__device__ __forceinline__ void load_added(const typename C::S* added, unsigned base, const TilePlace<C>& place,
                                           const Params& p) {
  if constexpr (C::adds_input) {
    constexpr int chunks = C::out / 8;
    const bool aligned = is_aligned<8>(added);
    const typename C::S* image = added + static_cast<long long>(place.sample) * p.added[0];
    for (int i = threadIdx.x; i < TilePlace<C>::tile * chunks; i += C::warps * 32) {
      const int result = i / chunks, chunk = i % chunks;
      const int h = place.row + result / C::tile_w, w = place.column + result % C::tile_w;
      const bool valid = h < p.out_height && w < p.out_width;
      copy_chunk(base + C::added_at + (result * C::out_step + chunk * 8) * 2,
                 valid ? image + (h * p.added[1] + w * p.added[2] + chunk * 8) : image, aligned, valid);
    }
  }
}

// Copies the gates of this split's channels, behind load_region.
template <class C, class Params>
__device__ __forceinline__ void load_gates(const typename C::S* gates, unsigned base, const TilePlace<C>& place,
                                           const Params& p) {
  const typename C::S* own = gates + static_cast<long long>(place.sample) * p.gates + place.split * C::hidden;
  const bool aligned = is_aligned<8>(gates);
  for (int i = threadIdx.x; i < C::hidden / 8; i += C::warps * 32)
    copy_chunk(base + C::gates_at + i * 16, own + i * 8, aligned, true);
}

// Scales the pixels by the gates, channel by channel, and fills up the channels with zeros.
template <class C>
__device__ __forceinline__ void scale_pixels(unsigned char* memory) {
  using S = typename C::S;
  constexpr int chunks = round_up(C::hidden, 16) / 8;
  S* pixels = reinterpret_cast<S*>(memory + C::hidden_at);
  for (int i = threadIdx.x; i < TilePlace<C>::tile * chunks; i += C::warps * 32) {
    S* at = pixels + i / chunks * C::hidden_step + i % chunks * 8;
    float v[8] = {}, gate[8];
    if (i % chunks * 8 < C::hidden) {
      read<8>(at, true, v);
      read<8>(reinterpret_cast<const S*>(memory + C::gates_at) + i % chunks * 8, true, gate);
      C::scale(v, gate);
    }
    write<8>(at, true, v);
  }
}

template <class C, class Params>
__device__ __forceinline__ void scaled_projection(const typename C::S* x, const typename C::S* gates,
                                                  const typename C::S* added, typename C::S* y, const Params& p) {
  using S = typename C::S;
  extern __shared__ __align__(128) unsigned char memory[];
  const unsigned base = shared_address(memory);
  const TilePlace<C> place(static_cast<int>(blockIdx.y), p);
  fetch_weights<C>(static_cast<const unsigned char*>(p.weights), base, place.split);
  load_region<C, C::hidden, C::hidden, C::hidden_step>(x + place.split * C::hidden, base + C::hidden_at, place, p);
  load_gates<C>(gates, base, place, p);
  load_added<C>(added, base, place, p);
  commit_copies();
  wait_for_copies<0>();
  wait_for_weights(base);
  __syncthreads();
  scale_pixels<C>(memory);
  __syncthreads();
  project<C>(memory, base, y, place, p);
}

}  // namespace tw
