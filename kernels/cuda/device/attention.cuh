// Scaled dot-product attention by tensor cores: softmax(scale q k^T + mask) v, without the scores ever leaving the
// processor.
//
// A block takes some queries of one head, 16 to a warp, and goes through the keys in tiles; in a tile, warps that have
// the same queries take different keys. Every warp keeps the largest score and the sum of exponentials of its own keys
// for each query ("online softmax": Milakov and Gimelshein, https://arxiv.org/abs/1805.02867); at the end they are put
// together in shared memory. Fragments are those of mma.cuh: scores come out of the first product as the second one
// wants them.
#pragma once

#include "async_copy.cuh"
#include "index.cuh"
#include "math.cuh"
#include "mma.cuh"
#include "staged.cuh"
#include "warpgroup.cuh"

namespace tw {

template <class T, class M, bool causal, bool alike>
struct AttentionWarp;

// How a block computes: warps_q times 16 queries by warps_k times warp_keys keys at a time. The head sizes of q and k,
// and of v, are multiples of 8. `stages`: 1 when all keys are one tile, 2 when the next tile is under way meanwhile.
template <class S, int head_, int value_, int warps_q_, int warps_k_, int warp_keys_, int stages_>
struct AttentionTile {
  using Element = S;
  static constexpr int head = head_, value = value_, warps_q = warps_q_, warps_k = warps_k_, warp_keys = warp_keys_;
  static constexpr int stages = stages_, threads = 32 * warps_q * warps_k;
  static constexpr int queries = 16 * warps_q, keys = warps_k * warp_keys;
  static constexpr int chunk = 16 / sizeof(S);                                    // Elements of 16 bytes.
  static constexpr int value_pairs = (value + 15) / 16;                           // Of 16 numbers.
  static constexpr int key_tiles = warp_keys / 8, value_tiles = 2 * value_pairs;  // Of 8 columns.
  static constexpr int head_chunks = (head + 15) / 16 * 16 / chunk, value_chunks = value_pairs * 16 / chunk;
  static constexpr int steps = head_chunks / 2;  // Of multiply_add.
  // Bytes between rows in shared memory: an odd number of chunks, so that eight rows never meet in a bank.
  static constexpr int head_pitch = (head_chunks + 1) * 16, value_pitch = (value_chunks + 1) * 16;
  static constexpr bool swizzled = false;  // See RowCopies.
  static constexpr int alignment = 128;
  static constexpr int query_bytes = queries * head_pitch, values_at = keys * head_pitch;  // Values lie behind keys.
  static constexpr int stage_bytes = keys * (head_pitch + value_pitch);
  static constexpr int part_pitch = 16 * value_pairs + 8;  // Floats.
  static_assert(head % 8 == 0 && value % 8 == 0 && warp_keys % 16 == 0, "sizes that fragments cover");
  template <class M, bool causal, bool alike>
  using Warp = AttentionWarp<AttentionTile, M, causal, alike>;

  __device__ __forceinline__ static int warp_q() { return threadIdx.x / 32 / warps_k; }
  __device__ __forceinline__ static int warp_k() { return threadIdx.x / 32 % warps_k; }
};

struct NoMask {};

// A matrix on its way to shared memory, `rows` rows of `columns` elements at a time, filled up with zeros to 16
// columns. `swizzled`: it lies there as warpgroups read it; see attention_warpgroups.cuh.
template <class S, int rows, int columns, int threads, bool swizzled = false>
struct RowCopies {
  static constexpr int chunk = 16 / sizeof(S);  // Elements.
  static constexpr int chunks = (columns + 15) / 16 * 16 / chunk, all = rows * chunks;
  static constexpr int pitch = swizzled ? 128 : (chunks + 1) * 16;
  static constexpr bool even = threads % chunks == 0;  // A thread has the same chunk of all its rows.
  static constexpr int rows_at_once = threads / chunks;
  static_assert(!swizzled || !even || rows_at_once % 8 == 0, "a chunk has the same place in all rows of a thread");
  const S* matrix;
  const S* own;  // This thread's first chunk.
  int row_stride, column_stride, jump;

  __device__ __forceinline__ void prepare(const S* data, int between_rows, int between_columns) {
    matrix = data;
    row_stride = between_rows;
    column_stride = between_columns;
    own = data + (static_cast<int>(threadIdx.x) / chunks * row_stride + static_cast<int>(threadIdx.x) % chunks * chunk);
    jump = rows_at_once * row_stride;
    have_ready(own);
    have_ready(jump);
  }

  // Of chunk c of a row, in bytes.
  __device__ __forceinline__ static int place(int row, int c) {
    if constexpr (swizzled) return (c / 8 * rows + row) * pitch + (c % 8 ^ row % 8) * 16;
    return row * pitch + c * 16;
  }

  // Rows from `first` on, zeros from row `count` of these on. `vector`: 16 bytes may move at once.
  __device__ __forceinline__ void load(unsigned to, int first, int count, bool vector) const {
    if (!vector) {
      gather(to, first, count);
    } else if constexpr (even) {
      const int row = static_cast<int>(threadIdx.x) / chunks, c = static_cast<int>(threadIdx.x) % chunks;
      const S* from = own + first * row_stride;
      const unsigned target = to + place(row, c);
      const int left = c * chunk < columns ? count - row : 0;
#pragma unroll
      for (int i = 0; i < (rows + rows_at_once - 1) / rows_at_once; ++i) {
        if (rows % rows_at_once == 0 || row + i * rows_at_once < rows)
          copy_async16(target + i * rows_at_once * pitch, from, i * rows_at_once < left);
        from += jump;
      }
    } else {
#pragma unroll 8
      for (int item = threadIdx.x; item < all; item += threads) {
        const int row = item / chunks, c = item % chunks;
        copy_async16(to + place(row, c), matrix + ((first + row) * row_stride + c * chunk),
                     row < count && c * chunk < columns);
      }
    }
  }
  __device__ __forceinline__ void gather(unsigned to, int first, int count) const {
#pragma unroll 1
    for (int item = threadIdx.x; item < all; item += threads) {
      const int row = item / chunks, c = item % chunks;
      gather_chunk(to + place(row, c), matrix + ((first + row) * row_stride + c * chunk * column_stride), column_stride,
                   row < count && c * chunk < columns ? chunk : 0);
    }
  }
};

// One warp's share of the softmax: 16 queries, of which a lane holds the rows lane / 4 and lane / 4 + 8. `alike`: all
// rows of the mask are the same.
template <class T, class M, bool causal, bool alike>
struct AttentionWarp {
  using S = typename T::Element;
  static constexpr bool has_mask = !same<M, NoMask>, excludes = same<M, bool>, adds = has_mask && !excludes;
  // Scores count in powers of two, unless a mask is added: its numbers may be too large for that.
  __device__ __forceinline__ static float power(float x) {
    constexpr float log2_e = 1.44269504f;
    return power_of_two(adds ? x * log2_e : x);
  }

  unsigned q[T::steps][4];
  float out[T::value_tiles][4] = {};
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  float scores[T::key_tiles][4];
  static constexpr int mask_rows = alike ? 1 : 2;  // Of the two in a tile.
  Staged<2, Word<sizeof(M)>> mask[has_mask ? T::key_tiles : 1][mask_rows];

  __device__ __forceinline__ void load_queries(unsigned at) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < T::steps; ++k) {
      load_matrix(q[k], at + (T::warp_q() * 16 + lane % 16) * T::head_pitch + lane / 16 * 16 + k * 32);
      prepare_words<S>(q[k]);
    }
  }

  // The mask at this lane's scores, the first of which is that of `row` and `column`. Behind the last row or column
  // comes that one again. `pairs`: two neighbours may be read at once, and there is an even number of columns.
  template <class Params>
  __device__ __forceinline__ void fetch_mask(const M* data, const Params& p, int row, int column, bool pairs) {
    if constexpr (has_mask) {
      auto* words = reinterpret_cast<const Word<sizeof(M)>*>(data);
      auto at_row = [&](int i) { return words + (alike ? 0 : ::min(row + i * 8, p.queries - 1) * p.mask[2]); };
      if (pairs) {
#pragma unroll
        for (int i = 0; i < mask_rows; ++i) {
#pragma unroll
          for (int j = 0; j < T::key_tiles; ++j) mask[j][i].fetch(at_row(i) + ::min(column + j * 8, p.keys - 2), true);
        }
      } else {
#pragma unroll
        for (int i = 0; i < mask_rows; ++i) {
#pragma unroll
          for (int j = 0; j < T::key_tiles; ++j) {
#pragma unroll
            for (int e = 0; e < 2; ++e)
              mask[j][i].elements[e] = at_row(i)[::min(column + j * 8 + e, p.keys - 1) * p.mask[3]];
          }
        }
      }
    }
  }

  __device__ __forceinline__ void clear_scores() {
#pragma unroll
    for (int j = 0; j < T::key_tiles; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) scores[j][e] = 0;
    }
  }
  // scores = q k^T for the keys at `at`.
  __device__ __forceinline__ void multiply_keys(unsigned at) {
    const int lane = threadIdx.x % 32;
    const unsigned from =
        at + (T::warp_k() * T::warp_keys + lane % 8 + lane / 16 * 8) * T::head_pitch + lane / 8 % 2 * 16;
    clear_scores();
#pragma unroll
    for (int k = 0; k < T::steps; ++k) {
#pragma unroll
      for (int j = 0; j < T::key_tiles / 2; ++j) {
        unsigned two[4];
        load_matrix(two, from + j * 16 * T::head_pitch + k * 32);
        prepare_words<S>(two);
        const unsigned even[2] = {two[0], two[1]}, odd[2] = {two[2], two[3]};
        multiply_add<S>(scores[2 * j], q[k], even);
        multiply_add<S>(scores[2 * j + 1], q[k], odd);
      }
    }
  }

  // Scores become exponentials, relative to the largest one so far; what came before, if anything, is scaled to that.
  // `checked`: some of the scores may not count by their places.
  template <bool checked, class Params>
  __device__ __forceinline__ void exponentiate(const Params& p, int row, int column) {
    // The largest score is found before all are scaled, so the scale is positive.
    float scale = adds ? 1 : p.scale;
    const bool negative = !(scale > 0);
#pragma unroll
    for (int j = 0; j < T::key_tiles; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int c = column + j * 8 + e % 2;
        bool counts = true;
        if constexpr (checked) counts = c < p.keys && (!causal || c <= row + e / 2 * 8);
        if constexpr (excludes) counts = counts && mask[j][e / 2 % mask_rows].elements[e % 2] != 0;
        float& score = scores[j][e];
        if constexpr (adds) score = score * p.scale + mask_number(mask[j][e / 2 % mask_rows].elements[e % 2]);
        if (!adds && negative) score *= scale;
        if (checked || excludes) score = counts ? score : -INFINITY;
      }
    }
    if (negative) scale = 1;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float best = scores[0][2 * r];
#pragma unroll
      for (int j = 0; j < T::key_tiles; ++j) best = ::fmaxf(best, ::fmaxf(scores[j][2 * r], scores[j][2 * r + 1]));
      best = ::fmaxf(best, __shfl_xor_sync(~0u, best, 1));
      best = ::fmaxf(best, __shfl_xor_sync(~0u, best, 2));
      best = ::fmaxf(top[r], best * scale);
      const float base = base_of(best);
      if constexpr (T::stages > 1) {
        const float before = power(top[r] - base);
        sum[r] *= before;
#pragma unroll
        for (int j = 0; j < T::value_tiles; ++j) out[j][2 * r] *= before, out[j][2 * r + 1] *= before;
      }
      top[r] = best;
#pragma unroll
      for (int j = 0; j < T::key_tiles; ++j) {
#pragma unroll
        for (int e = 2 * r; e < 2 * r + 2; ++e) {
          scores[j][e] = power(__fmul_rn(scores[j][e], scale) - base);  // Of the largest one exactly 1.
          sum[r] += scores[j][e];
        }
      }
    }
  }
  // What exponents are relative to: a row without any column so far must not become NaN.
  __device__ __forceinline__ static float base_of(float best) { return best == -INFINITY ? 0.f : best; }
  __device__ __forceinline__ static float mask_number(Word<sizeof(M)> bits) {
    if constexpr (sizeof(M) == 4) {
      return __uint_as_float(bits);
    } else {
      return widen(M{bits});
    }
  }

  // out += exponentials v for the values at `at`.
  __device__ __forceinline__ void multiply_values(unsigned at) {
    if constexpr (same<S, float>) {
      multiply_words(at);
    } else {
      multiply_pairs(at);
    }
  }
  // f32: a lane has the exponentials of the keys 2t and 2t + 1 (t = lane % 4) in a tile, and the product wants those at
  // t and t + 4 along k. The order of keys is free as long as the values have the same one.
  __device__ __forceinline__ void multiply_words(unsigned at) {
    const int lane = threadIdx.x % 32;
    const unsigned from = at + (T::warp_k() * T::warp_keys + lane % 4 * 2) * T::value_pitch + lane / 4 * 4;
#pragma unroll
    for (int k = 0; k < T::key_tiles; ++k) {
      unsigned a[4] = {__float_as_uint(scores[k][0]), __float_as_uint(scores[k][2]), __float_as_uint(scores[k][1]),
                       __float_as_uint(scores[k][3])};
      prepare_words<S>(a);
#pragma unroll
      for (int j = 0; j < T::value_tiles; ++j) {
        unsigned b[2];
#pragma unroll
        for (int e = 0; e < 2; ++e)
          asm volatile("ld.shared.u32 %0, [%1];" : "=r"(b[e]) : "r"(from + (k * 8 + e) * T::value_pitch + j * 32));
        prepare_words<S>(b);
        multiply_add<S>(out[j], a, b);
      }
    }
  }
  // Elements of 2 bytes: those of 16 keys as a fragment.
  __device__ __forceinline__ void get_exponentials(int k, unsigned (&a)[4]) const {
    const float(&low)[4] = scores[2 * k], (&high)[4] = scores[2 * k + 1];
    a[0] = pair_of<S>(low[0], low[1]);
    a[1] = pair_of<S>(low[2], low[3]);
    a[2] = pair_of<S>(high[0], high[1]);
    a[3] = pair_of<S>(high[2], high[3]);
  }
  __device__ __forceinline__ void multiply_pairs(unsigned at) {
    const int lane = threadIdx.x % 32;
    const unsigned from = at + (T::warp_k() * T::warp_keys + lane % 16) * T::value_pitch + lane / 16 * 16;
#pragma unroll
    for (int k = 0; k < T::key_tiles / 2; ++k) {
      unsigned a[4];
      get_exponentials(k, a);
#pragma unroll
      for (int j = 0; j < T::value_pairs; ++j) {
        unsigned two[4];
        load_matrix_transposed(two, from + k * 16 * T::value_pitch + j * 32);
        const unsigned even[2] = {two[0], two[1]}, odd[2] = {two[2], two[3]};
        multiply_add<S>(out[2 * j], a, even);
        multiply_add<S>(out[2 * j + 1], a, odd);
      }
    }
  }

  // The sums of this lane's rows over all lanes that hold columns of them.
  __device__ __forceinline__ void add_up() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
    }
  }
};

// V results of a row whose exponentials sum to `sum`: of rows without any column, zeros or NaN.
template <bool nan_rows, int V, class S>
__device__ __forceinline__ void write_row(S* y, bool aligned, float (&v)[V], float sum) {
  const float inverse = 1 / sum;
#pragma unroll
  for (int e = 0; e < V; ++e) v[e] = sum == 0 ? (nan_rows ? __int_as_float(0x7fffffff) : 0.f) : v[e] * inverse;
  write<V>(y, aligned, v);
}

// The parts of warps with the same queries put together, and written. `parts`: the shared address of [warp_k][query]
// [T::part_pitch] floats, then [warp_k][query] of largest score and sum.
template <class T, bool nan_rows, class Warp, class S, class Params>
__device__ __forceinline__ void merge_warps(const Warp& warp, float* parts, S* y, bool aligned, const Params& p,
                                            int first_query) {
  float2* states = reinterpret_cast<float2*>(parts + T::warps_k * T::queries * T::part_pitch);
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int slot = T::warp_k() * T::queries + T::warp_q() * 16 + lane / 4 + r * 8;
    float2* row = reinterpret_cast<float2*>(parts + slot * T::part_pitch) + lane % 4;
#pragma unroll
    for (int j = 0; j < T::value_tiles; ++j) row[4 * j] = make_float2(warp.out[j][2 * r], warp.out[j][2 * r + 1]);
    if (lane % 4 == 0) states[slot] = make_float2(warp.top[r], warp.sum[r]);
  }
  __syncthreads();
  constexpr int chunks = T::value / 8;
#pragma unroll
  for (int item = threadIdx.x; item < T::queries * chunks; item += T::threads) {
    const int query = item / chunks, c = item % chunks * 8;
    if (first_query + query >= p.queries) continue;
    float top = -INFINITY, sum = 0, v[8] = {};
#pragma unroll
    for (int w = 0; w < T::warps_k; ++w) top = ::fmaxf(top, states[w * T::queries + query].x);
    const float base = Warp::base_of(top);
#pragma unroll
    for (int w = 0; w < T::warps_k; ++w) {
      const int slot = w * T::queries + query;
      const float factor = Warp::power(states[slot].x - base);
      sum += states[slot].y * factor;
      const float4* part = reinterpret_cast<const float4*>(parts + slot * T::part_pitch + c);
      const float4 a = part[0], b = part[1];
      v[0] += a.x * factor, v[1] += a.y * factor, v[2] += a.z * factor, v[3] += a.w * factor;
      v[4] += b.x * factor, v[5] += b.y * factor, v[6] += b.z * factor, v[7] += b.w * factor;
    }
    write_row<nan_rows>(y + (first_query + query) * p.y[2] + c, aligned, v, sum);
  }
}

// Moves the pointers to what this block works on, and returns its first query: that of q, which the others do not skip.
// Blocks: queries / T::queries x heads x batch along x.
template <class T, class S, class M, class Params>
__device__ __forceinline__ int find_block(const S*& q, const S*& k, const S*& v, const M*& mask, S*& y,
                                          const Params& p) {
  int rest, tile, batch, head, key_head, unused;
  divide(static_cast<int>(blockIdx.x), p.tiles, rest, tile);
  divide(rest, p.heads, batch, head);
  divide(head, p.group, key_head, unused);
  const int first_query = tile * T::queries;
  q += batch * p.q[0] + head * p.q[1] + first_query * p.q[2];
  k += batch * p.k[0] + key_head * p.k[1];
  v += batch * p.v[0] + key_head * p.v[1];
  y += batch * p.y[0] + head * p.y[1];
  if constexpr (!same<M, NoMask>) mask += batch * p.mask[0] + head * p.mask[1];
  return first_query;
}

// True when two neighbours of the mask may be read at once: its strides are even, and its columns.
template <class M, class Params>
__device__ __forceinline__ bool has_pairs(const M* mask, const Params& p) {
  return p.mask_pairs && reinterpret_cast<unsigned long long>(mask) % (2 * sizeof(M)) == 0;
}

// M: NoMask, bool (true: takes part) or a floating type (added); `alike`: see AttentionWarp. Blocks: see find_block.
// Params: see kernels/cuda/attention.cpp.
template <class T, class M, bool causal, bool nan_rows, bool alike, class Params>
__device__ __forceinline__ void attention(const typename T::Element* q, const typename T::Element* k,
                                          const typename T::Element* v, const M* mask, typename T::Element* y,
                                          const Params& p) {
  using S = typename T::Element;
  extern __shared__ __align__(128) unsigned char shared[];
  const unsigned queries_at = (shared_address(shared) + T::alignment - 1) / T::alignment * T::alignment;
  const unsigned ring = queries_at + T::query_bytes;
  const int first_query = find_block<T>(q, k, v, mask, y, p);
  const int lane = threadIdx.x % 32, warp_query = first_query + T::warp_q() * 16, row = warp_query + lane / 4;
  const int column = T::warp_k() * T::warp_keys + lane % 4 * 2;
  const int last_key = causal ? min(p.keys, first_query + T::queries) : p.keys;
  // Up to here all keys count for all of this warp's queries.
  const int certain = causal ? min(p.keys, warp_query + 1) : p.keys;
  const bool vector = p.vector && is_aligned<T::chunk>(q) && is_aligned<T::chunk>(k) && is_aligned<T::chunk>(v);
  const bool mask_pairs = has_pairs(mask, p);
  RowCopies<S, T::queries, T::head, T::threads, T::swizzled> queries;
  RowCopies<S, T::keys, T::head, T::threads, T::swizzled> keys;
  RowCopies<S, T::keys, T::value, T::threads, T::swizzled> values;
  queries.prepare(q, p.q[2], p.q[3]);
  keys.prepare(k, p.k[2], p.k[3]);
  values.prepare(v, p.v[2], p.v[3]);
  auto start_keys = [&](int first) {
    const unsigned at = ring + (T::stages == 1 ? 0 : first / T::keys % T::stages * T::stage_bytes);
    keys.load(at, first, p.keys - first, vector);
    commit_copies();
    values.load(at + T::values_at, first, p.keys - first, vector);
    commit_copies();
  };
  typename T::template Warp<M, causal, alike> warp;

  // Always true; as a branch, it keeps the compiler from moving what was computed above behind the wait.
  if (p.keys > 0) wait_for_previous();
  queries.load(queries_at, 0, p.queries - first_query, vector);
  start_keys(0);
  constexpr int under_way = T::stages == 1 ? 0 : 2;  // Groups of copies of the next tile.
  int at = ring;
#pragma unroll 1
  for (int first = 0; first < last_key; first += T::keys) {
    warp.fetch_mask(mask, p, row, first + column, mask_pairs);
    wait_for_copies<1>();
    if constexpr (T::swizzled) show_to_tensor_cores();
    __syncthreads();  // The keys are here for all, and all have left the tile before, whose place is filled next.
    if (first == 0) warp.load_queries(queries_at);
    if constexpr (T::stages > 1) {
      if (first + T::keys < last_key) {
        start_keys(first + T::keys);
      } else {
        commit_copies();
        commit_copies();
      }
    }
    warp.multiply_keys(at);
    if (first + T::keys <= certain) {
      warp.template exponentiate<false>(p, row, first + column);
    } else {
      warp.template exponentiate<true>(p, row, first + column);
    }
    wait_for_copies<under_way>();
    if constexpr (T::swizzled) show_to_tensor_cores();
    __syncthreads();
    warp.multiply_values(at + T::values_at);
    if constexpr (T::stages > 1) at = at == static_cast<int>(ring) ? ring + T::stage_bytes : ring;
  }
  warp.add_up();
  if constexpr (T::warps_k > 1) {
    float* parts = reinterpret_cast<float*>(shared + T::query_bytes + T::stages * T::stage_bytes);
    merge_warps<T, nan_rows>(warp, parts, y, is_aligned<8>(y) && p.vector_writes, p, first_query);
  } else {
    const bool aligned = is_aligned<2>(y) && p.vector_writes;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (row + r * 8 >= p.queries) continue;
#pragma unroll
      for (int j = 0; j < T::value / 8; ++j) {
        float two[2] = {warp.out[j][2 * r], warp.out[j][2 * r + 1]};
        write_row<nan_rows>(y + (row + r * 8) * p.y[2] + j * 8 + lane % 4 * 2, aligned, two, warp.sum[r]);
      }
    }
  }
}

}  // namespace tw
