// Blocks that begin with a mean over all positions: squeeze-excitation (mean, two small products, gating), and a mean
// with a linear after it. A cluster of blocks of threads shares the channels of a sample: each takes the mean of its
// own (or its part of the sum, where several share the pixels) and sends what the others need of it.
//
// The host gives a struct C of constants (see kernels/cuda/pooled_blocks.cpp): S, the storage type; `total` channels,
// `channels` of one block of threads, `width` of one thread, `channel_shares` times `pixel_shares` is `blocks` of a
// cluster, `threads` of a block; *_at, where things lie in shared memory in bytes, those of weights from weights_at;
// *_step, elements from row to row of weights; *_lanes, how many lanes share a row; keeps, whether the input stays in
// shared memory. Rows of weights are packed with zeros where there are none.
#pragma once

#include "small_products.cuh"

namespace tw {

// The channels of one block of threads: some neighbouring ones for each thread, pixels shared among threads.
template <class C>
struct PooledShare {
  static constexpr int chunks = C::channels / C::width, groups = C::threads / chunks;
  int rank, sample, first, chunk, group;
  int begin, end;  // Pixels.
  bool active;

  __device__ __forceinline__ PooledShare(int sample_, int pixels) : sample(sample_) {
    rank = static_cast<int>(blockIdx.x % C::blocks);
    first = rank % C::channel_shares * C::channels;
    chunk = static_cast<int>(threadIdx.x) % chunks;
    group = static_cast<int>(threadIdx.x) / chunks;
    active = group < groups && first + chunk * C::width < C::total;
    const int each = (pixels + C::pixel_shares - 1) / C::pixel_shares;
    begin = rank / C::channel_shares * each;
    end = begin + each < pixels ? begin + each : pixels;
  }
};

// Starts the copy of packed weights and makes the barrier at base + 8 wait for `bytes` from the cluster.
template <class C>
__device__ __forceinline__ void begin_cluster(const void* weights, unsigned base, int index, int bytes) {
  if (threadIdx.x == 0) {
    init_barrier(base, 1);
    init_barrier(base + 8, 1);
    barriers_ready();
    expect_bytes(base, C::weights_bytes);
    copy_bulk(base + C::weights_at,
              static_cast<const unsigned char*>(weights) + static_cast<long long>(index) * C::weights_bytes,
              C::weights_bytes, base);
    expect_bytes(base + 8, bytes);
  }
  __syncthreads();
  cluster_arrive();
}

// The mean of each of this block's channels, rounded, into `means`; where several blocks share the pixels, the part of
// it that this block's pixels make, not rounded. Channels that are none get 0. Keeps the input at C::x_at when asked
// to.
template <class C, class Params>
__device__ __forceinline__ void pool_share(const typename C::S* x, unsigned char* memory, unsigned base, float* means,
                                           const PooledShare<C>& share, const Params& p) {
  using S = typename C::S;
  using Share = PooledShare<C>;
  constexpr int V = C::width;
  const S* own = x + static_cast<long long>(share.sample) * p.x[0] + share.first + share.chunk * V;
  const bool aligned = is_aligned<V>(x);
  const int step = p.x[1], first = share.begin + share.group, end = share.active ? share.end : 0;
  float sum[V] = {};
  wait_for_previous();
  if constexpr (C::keeps) {
    static_assert(V == 8);
    const unsigned at = base + C::x_at + share.chunk * 16;
    if (aligned) {
#pragma unroll 4
      for (int pixel = first; pixel < end; pixel += Share::groups)
        copy_async16(at + (pixel - share.begin) * Share::chunks * 16, own + pixel * step, true);
    } else {
#pragma unroll 1
      for (int pixel = first; pixel < end; pixel += Share::groups)
        copy_one_by_one(at + (pixel - share.begin) * Share::chunks * 16, own + pixel * step);
    }
    commit_copies();
    wait_for_copies<0>();
  }
  const S* kept = reinterpret_cast<const S*>(memory + C::x_at) + share.chunk * V;
#pragma unroll 8
  for (int pixel = first; pixel < end; pixel += Share::groups) {
    float v[V];
    if constexpr (C::keeps) {
      read<V>(kept + (pixel - share.begin) * C::channels, true, v);
    } else {
      read<V>(own + pixel * step, aligned, v);
    }
#pragma unroll
    for (int e = 0; e < V; ++e) sum[e] += v[e];
  }
  float* sums = reinterpret_cast<float*>(memory + C::pool_at);
  if (share.group < Share::groups) write<V>(sums + share.group * C::channels + share.chunk * V, true, sum);
  __syncthreads();
  // Many sums are added up in two rounds.
  constexpr int most = 16;
  constexpr int parts = Share::groups <= most             ? Share::groups
                        : C::threads / C::channels < most ? C::threads / C::channels
                                                          : most;
  if constexpr (Share::groups > most) {
    const int channel = static_cast<int>(threadIdx.x) % C::channels, part = static_cast<int>(threadIdx.x) / C::channels;
    float total = 0.f;
    if (part < parts) {
#pragma unroll 4
      for (int g = part; g < Share::groups; g += parts) total += sums[g * C::channels + channel];
    }
    __syncthreads();
    if (part < parts) sums[part * C::channels + channel] = total;
    __syncthreads();
  }
  if (static_cast<int>(threadIdx.x) < C::channels) {
    float total = 0.f;
#pragma unroll
    for (int i = 0; i < parts; ++i) total += sums[i * C::channels + threadIdx.x];
    total /= static_cast<float>(p.pixels);
    means[threadIdx.x] = C::pixel_shares == 1 ? rounded<S>(total) : total;
  }
  __syncthreads();
}

// y = after_gate(x, gate) or the gate alone; gate = after_excite(W2 after_squeeze(W1 mean(x) + b1) + b2). Every block
// adds its channels' part of W1 mean(x), and the cluster exchanges these.
template <class C, class Params>
__device__ __forceinline__ void squeeze_excite(const typename C::S* x, typename C::S* y, const Params& p) {
  using S = typename C::S;
  using Share = PooledShare<C>;
  extern __shared__ __align__(128) unsigned char memory[];
  const unsigned base = shared_address(memory);
  const Share share(static_cast<int>(blockIdx.x / C::blocks), p.pixels);
  constexpr int squeezed4 = round_up(C::squeezed, 4), squeezed8 = round_up(C::squeezed, 8);
  begin_cluster<C>(p.weights, base, share.rank % C::channel_shares, C::blocks * squeezed4 * 4);
  auto floats = [&](int at) { return reinterpret_cast<float*>(memory + at); };
  const unsigned char* weights = memory + C::weights_at;
  float* means = floats(C::means_at);
  pool_share<C>(x, memory, base, means, share, p);
  wait_for_phase(base, 0);
  float* partial = floats(C::partial_at);
  dot_rows<S, C::threads, C::squeeze_lanes, squeezed4, C::channels, C::squeeze_step>(
      reinterpret_cast<const S*>(weights + C::squeeze_at), means, [&](int row, float dot) { partial[row] = dot; });
  __syncthreads();
  send_to_all<C::blocks, C::threads, squeezed4>(partial, base + C::sums_at + share.rank * squeezed4 * 4, base + 8);
  float* squeezed = floats(C::squeezed_at);
  for (int q = threadIdx.x; q < squeezed8; q += C::threads) {
    float v[1] = {0.f};
    if (q < C::squeezed) {
      v[0] = reinterpret_cast<const float*>(weights + C::squeeze_bias_at)[q];
#pragma unroll
      for (int r = 0; r < C::blocks; ++r) v[0] += floats(C::sums_at)[r * squeezed4 + q];
      C::after_squeeze(v);
    }
    squeezed[q] = rounded<S>(v[0]);
  }
  __syncthreads();
  float* gates = floats(C::gates_at);
  dot_rows<S, C::threads, C::excite_lanes, C::channels, squeezed8, C::excite_step>(
      reinterpret_cast<const S*>(weights + C::excite_at), squeezed, [&](int row, float dot) {
        float v[1] = {dot + reinterpret_cast<const float*>(weights + C::excite_bias_at)[row]};
        C::after_excite(v);
        gates[row] = rounded<S>(v[0]);
      });
  __syncthreads();
  S* out = y + static_cast<long long>(share.sample) * p.y[0] + share.first;
  if constexpr (C::gates) {
    constexpr int V = C::width;
    const bool x_aligned = is_aligned<V>(x), aligned = is_aligned<V>(y);
    const S* own = x + static_cast<long long>(share.sample) * p.x[0] + share.first + share.chunk * V;
    const S* kept = reinterpret_cast<const S*>(memory + C::x_at) + share.chunk * V;
    const int end = share.active ? share.end : 0;
    float gate[V];
    read<V>(gates + share.chunk * V, true, gate);
#pragma unroll 2
    for (int pixel = share.begin + share.group; pixel < end; pixel += Share::groups) {
      float v[V];
      if constexpr (C::keeps) {
        read<V>(kept + (pixel - share.begin) * C::channels, true, v);
      } else {
        read<V>(own + pixel * p.x[1], x_aligned, v);
      }
      C::after_gate(v, gate);
      write<V>(out + pixel * p.y[1] + share.chunk * V, aligned, v);
    }
  } else {
    if (share.begin > 0) return;
    for (int c = threadIdx.x; c < C::channels && share.first + c < C::total; c += C::threads)
      out[c] = narrow<S>(gates[c]);
  }
}

// y[n] = after_linear(W mean(x[n]) + b), `rows` of y for each block of threads; every cluster takes the means anew. Y
// is S, or float for the rounded results.
template <class C, class Y, class Params>
__device__ __forceinline__ void pooled_linear(const typename C::S* x, Y* y, const Params& p) {
  using S = typename C::S;
  extern __shared__ __align__(128) unsigned char memory[];
  const unsigned base = shared_address(memory);
  const PooledShare<C> share(static_cast<int>(blockIdx.y), p.pixels);
  constexpr int depth = C::blocks * C::channels;
  begin_cluster<C>(p.weights, base, static_cast<int>(blockIdx.x), depth * 4);
  float* own = reinterpret_cast<float*>(memory + C::means_at);
  float* means = reinterpret_cast<float*>(memory + C::sums_at);
  pool_share<C>(x, memory, base, own, share, p);
  send_to_all<C::blocks, C::threads, C::channels>(own, base + C::sums_at + share.rank * C::channels * 4, base + 8);
  wait_for_phase(base, 0);
  const unsigned char* weights = memory + C::weights_at;
  Y* out = y + static_cast<long long>(share.sample) * p.y[0];
  const int first = static_cast<int>(blockIdx.x) * C::rows;
  dot_rows<S, C::threads, C::lanes, C::rows, depth, C::step>(
      reinterpret_cast<const S*>(weights + C::linear_at), means, [&](int row, float dot) {
        if (first + row >= C::outputs) return;
        float v[1] = {dot + reinterpret_cast<const float*>(weights + C::bias_at)[row]};
        C::after_linear(v);
        out[first + row] = narrow<Y>(rounded<S>(v[0]));
      });
}

}  // namespace tw
