// An inverted residual with squeeze-excitation inside as two kernels. pooled_depthwise (expansion and depthwise
// convolution) writes each channel's sum over each of its tiles beside the results; excited_projection adds these up,
// computes the gates from the means by two small products, scales and projects. Every cluster of blocks computes the
// gates anew: that takes less than a kernel between the two.
//
// Constants beside those of inverted_residual.cuh:
//   pool_shares                          how many threads, or groups of them, add up parts of one channel's sum
//   squeezed                             numbers between the two products
//   squeeze_*, excite_*                  the products' weights: *_at behind weights_at, *_step elements between rows,
//                                        *_lanes that share a row
//   pool_at, means_at, partial_at, exchanged_at, squeezed_at        places of f32 numbers in shared memory
// and functions after_squeeze(acc), after_excite(acc). Sums are f32 [samples][tiles][channels].
#pragma once

#include "scaled_projection.cuh"
#include "small_products.cuh"

namespace tw {

// Writes the tile's results, which lie in shared memory, and their sums to `total`, the sums of this tile and split.
template <class C, class Params>
__device__ __forceinline__ void write_and_pool(unsigned char* memory, typename C::S* y, float* total,
                                               const TilePlace<C>& place, const Params& p) {
  using S = typename C::S;
  constexpr int tile = TilePlace<C>::tile, chunks = C::hidden / 8, units = (chunks + 3) / 4;
  constexpr int shares = C::pool_shares;
  static_assert(shares * units <= C::warps || shares == 1, "a warp for every unit, or one after the other");
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const S* results = reinterpret_cast<const S*>(memory + C::result_at);
  float* sums = reinterpret_cast<float*>(memory + C::pool_at);
  S* out = y + static_cast<long long>(place.sample) * p.y[0] + place.split * C::hidden;
  const bool aligned = is_aligned<8>(y);
  // A warp has 4 chunks of 8 channels and 8 results at a time.
  for (int unit = warp; unit < units * shares; unit += C::warps) {
    const int chunk = unit % units * 4 + lane % 4, share = unit / units;
    float sum[8] = {};
    if (chunk < chunks) {
#pragma unroll 2
      for (int result = share * 8 + lane / 4; result < tile; result += shares * 8) {
        const int h = place.row + result / C::tile_w, w = place.column + result % C::tile_w;
        if (h >= p.out_height || w >= p.out_width) continue;
        float v[8];
        read<8>(results + result * C::hidden_step + chunk * 8, true, v);
        write<8>(out + h * p.y[1] + w * p.y[2] + chunk * 8, aligned, v);
#pragma unroll
        for (int e = 0; e < 8; ++e) sum[e] += v[e];
      }
    }
#pragma unroll
    for (int mask = 4; mask < 32; mask *= 2) {
#pragma unroll
      for (int e = 0; e < 8; ++e) sum[e] += __shfl_xor_sync(~0u, sum[e], mask);
    }
    if (lane < 4 && chunk < chunks) write<8>((shares == 1 ? total : sums + share * C::hidden) + chunk * 8, true, sum);
  }
  if constexpr (shares > 1) {
    __syncthreads();
    for (int c = threadIdx.x; c < C::hidden; c += C::warps * 32) {
      float all = 0.f;
#pragma unroll
      for (int s = 0; s < shares; ++s) all += sums[s * C::hidden + c];
      total[c] = all;
    }
  }
}

template <class C, class Params>
__device__ __forceinline__ void pooled_depthwise(const typename C::S* x, typename C::S* y, float* sums,
                                                 const Params& p) {
  using S = typename C::S;
  extern __shared__ __align__(128) unsigned char memory[];
  const unsigned base = shared_address(memory);
  const TilePlace<C> place(static_cast<int>(blockIdx.y), p);
  fetch_weights<C>(static_cast<const unsigned char*>(p.weights), base, place.split);
  bring_input<C>(x, memory, base, place, p);
  prepare_depthwise<C>(memory, base);
  depthwise_results<C>(memory);
  // Tiles in the order of the grid: along a row of the image, rows, samples.
  const int tile = static_cast<int>(blockIdx.y * (gridDim.x / C::splits) + blockIdx.x / C::splits);
  write_and_pool<C>(memory, y, sums + (tile * C::splits + place.split) * C::hidden, place, p);
}

// The means of this split's channels, rounded, into `means`.
template <class C, class Params>
__device__ __forceinline__ void add_up_sums(const float* sums, unsigned char* memory, float* means,
                                            const TilePlace<C>& place, const Params& p) {
  constexpr int columns = C::hidden / 4, shares = C::pool_shares, threads = C::warps * 32;
  const float4* own =
      reinterpret_cast<const float4*>(sums) + (place.sample * p.tiles * C::splits + place.split) * columns;
  float4* parts = reinterpret_cast<float4*>(memory + C::pool_at);
  for (int i = threadIdx.x; i < columns * shares; i += threads) {
    const int column = i % columns;
    float4 all = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 4
    for (int tile = i / columns; tile < p.tiles; tile += shares) {
      const float4 v = own[tile * C::splits * columns + column];
      all.x += v.x, all.y += v.y, all.z += v.z, all.w += v.w;
    }
    parts[i] = all;
  }
  __syncthreads();
  const float pixels = static_cast<float>(p.height * p.width);
  for (int c = threadIdx.x; c < C::hidden; c += threads) {
    float all = 0.f;
#pragma unroll
    for (int s = 0; s < shares; ++s) all += reinterpret_cast<const float*>(parts)[s * C::hidden + c];
    means[c] = rounded<typename C::S>(all / pixels);
  }
  __syncthreads();
}

// gates = after_excite(W2 after_squeeze(W1 means + b1) + b2) of this split's channels, at C::gates_at. Every block of a
// cluster adds its channels' part of W1 means, and the cluster exchanges these.
template <class C>
__device__ __forceinline__ void compute_gates(const float* means, unsigned char* memory, unsigned base,
                                              const TilePlace<C>& place) {
  using S = typename C::S;
  constexpr int threads = C::warps * 32, squeezed4 = round_up(C::squeezed, 4), squeezed8 = round_up(C::squeezed, 8);
  const unsigned char* weights = memory + C::weights_at;
  auto floats = [&](int at) { return reinterpret_cast<float*>(memory + at); };
  float* partial = floats(C::partial_at);
  dot_rows<S, threads, C::squeeze_lanes, squeezed4, C::hidden, C::squeeze_step>(
      reinterpret_cast<const S*>(weights + C::squeeze_at), means, [&](int row, float dot) { partial[row] = dot; });
  __syncthreads();
  if constexpr (C::splits > 1) {
    send_to_all<C::splits, threads, squeezed4>(partial, base + C::exchanged_at + place.split * squeezed4 * 4,
                                               base + exchange_barrier);
  }
  float* squeezed = floats(C::squeezed_at);
  const float* all = floats(C::splits > 1 ? C::exchanged_at : C::partial_at);
  for (int q = threadIdx.x; q < squeezed8; q += threads) {
    float v[1] = {0.f};
    if (q < C::squeezed) {
      v[0] = reinterpret_cast<const float*>(weights + C::squeeze_bias_at)[q];
#pragma unroll
      for (int s = 0; s < C::splits; ++s) v[0] += all[s * squeezed4 + q];
      C::after_squeeze(v);
    }
    squeezed[q] = rounded<S>(v[0]);
  }
  __syncthreads();
  S* gates = reinterpret_cast<S*>(memory + C::gates_at);
  dot_rows<S, threads, C::excite_lanes, C::hidden, squeezed8, C::excite_step>(
      reinterpret_cast<const S*>(weights + C::excite_at), squeezed, [&](int row, float dot) {
        float v[1] = {dot + reinterpret_cast<const float*>(weights + C::excite_bias_at)[row]};
        C::after_excite(v);
        gates[row] = narrow<S>(v[0]);
      });
}

template <class C, class Params>
__device__ __forceinline__ void excited_projection(const typename C::S* x, const float* sums,
                                                   const typename C::S* added, typename C::S* y, const Params& p) {
  extern __shared__ __align__(128) unsigned char memory[];
  const unsigned base = shared_address(memory);
  const TilePlace<C> place(static_cast<int>(blockIdx.y), p);
  fetch_weights<C>(static_cast<const unsigned char*>(p.weights), base, place.split);
  load_region<C, C::hidden, C::hidden, C::hidden_step>(x + place.split * C::hidden, base + C::hidden_at, place, p);
  load_added<C>(added, base, place, p);
  commit_copies();
  float* means = reinterpret_cast<float*>(memory + C::means_at);
  add_up_sums<C>(sums, memory, means, place, p);
  wait_for_weights(base);
  if constexpr (!has_bulk_copies) __syncthreads();
  compute_gates<C>(means, memory, base, place);
  wait_for_copies<0>();
  __syncthreads();
  scale_pixels<C>(memory);
  __syncthreads();
  project<C>(memory, base, y, place, p);
}

}  // namespace tw
