// Attention over so few keys that a block has all of them at once. There the time is that of one long chain of steps
// that wait for each other, and most of what attention.cuh does between them is left out here.
//
// In the first product every warp has keys of its own. Along the head dimension the order of that product is free, so
// lane t of the four that share a row takes the chunks t, t + 4, ... of 16 bytes of it: each lane fetches the very
// chunks of q and k that it multiplies, and no barrier stands between memory and the product. In the second one every
// warp has all keys and columns of its own. So the exponentials, as fragments, go through shared memory, with each
// warp's largest scores and sums, and behind the one barrier a warp finishes its results by itself.
#pragma once

#include "attention.cuh"

namespace tw {

// Four words that this thread finds at a shared address, aligned to 16.
__device__ __forceinline__ void load_shared(unsigned (&words)[4], unsigned address) {
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void store_shared(unsigned address, const unsigned (&words)[4]) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(words[0]), "r"(words[1]), "r"(words[2]),
               "r"(words[3])
               : "memory");
}

// The same with two numbers, aligned to 8.
__device__ __forceinline__ float2 load_shared(unsigned address) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address) : "memory");
  return v;
}
__device__ __forceinline__ void store_shared(unsigned address, float a, float b) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(a), "f"(b) : "memory");
}

// Eight neighbouring elements of 2 bytes from global memory. `vector`: they are aligned to 16 bytes.
template <bool vector, class S>
__device__ __forceinline__ void fetch_chunk(unsigned (&words)[4], const S* from) {
  if constexpr (vector) {
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "l"(from)
                 : "memory");
  } else {
#pragma unroll
    for (int w = 0; w < 4; ++w) words[w] = from[2 * w].bits | static_cast<unsigned>(from[2 * w + 1].bits) << 16;
  }
}

// The chunks of q and k that a lane multiplies, of the queries lane / 4 and lane / 4 + 8 of its warp, and of the key
// lane / 4 of every eight. Keys are fetched into registers, or into places in shared memory that only this lane uses
// (from `places` on): such copies go past the small cache that the largest shared memory leaves. Behind the last row
// comes that row again: nobody looks at the scores.
template <class T, bool in_registers>
struct OwnChunks {
  using S = typename T::Element;
  static constexpr int count = T::head / 32;  // Of a row.
  unsigned q[2][count][4];
  unsigned k[in_registers ? T::key_tiles : 1][count][4];
  const S *query_rows[2], *key_rows[T::key_tiles];
  unsigned place;

  // `first_query` and `first_key` are those of the warp, q and k the rows of query and key 0.
  template <class Params>
  __device__ __forceinline__ void prepare(const S* q_rows, const S* k_rows, const Params& p, int queries,
                                          int first_query, int first_key, unsigned places) {
    const int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * T::chunk;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      query_rows[r] = q_rows + (::min(first_query + row + r * 8, queries - 1) * p.q[2] + column);
      have_ready(query_rows[r]);
    }
#pragma unroll
    for (int j = 0; j < T::key_tiles; ++j) {
      key_rows[j] = k_rows + (::min(first_key + row + j * 8, p.keys - 1) * p.k[2] + column);
      have_ready(key_rows[j]);
    }
    place = places + (threadIdx.x / 32 * T::key_tiles * count * 32 + threadIdx.x % 32) * 16;
  }
  __device__ __forceinline__ unsigned place_of(int tile, int i) const { return place + (tile * count + i) * 512; }

  template <bool vector>
  __device__ __forceinline__ void fetch() {
    constexpr int apart = 4 * T::chunk;
#pragma unroll
    for (int i = 0; i < count; ++i) {
#pragma unroll
      for (int r = 0; r < 2; ++r) fetch_chunk<vector>(q[r][i], query_rows[r] + i * apart);
#pragma unroll
      for (int j = 0; j < T::key_tiles; ++j) {
        const S* from = key_rows[j] + i * apart;
        if constexpr (in_registers) {
          fetch_chunk<vector>(k[j][i], from);
        } else if constexpr (vector) {
          copy_async16(place_of(j, i), from, true);
        } else {
          gather_chunk(place_of(j, i), from, 1, T::chunk);
        }
      }
    }
  }

  // scores = q k^T. `zero` is a 0 that the compiler does not know: so words of q are computed into the registers where
  // the products want them, instead of being moved there for each product.
  __device__ __forceinline__ void multiply(float (&scores)[T::key_tiles][4], unsigned zero) const {
#pragma unroll
    for (int j = 0; j < T::key_tiles; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) scores[j][e] = 0;
    }
#pragma unroll
    for (int i = 0; i < count; ++i) {
      unsigned keys[T::key_tiles][4];
#pragma unroll
      for (int j = 0; j < T::key_tiles; ++j) {
        if constexpr (in_registers) {
#pragma unroll
          for (int w = 0; w < 4; ++w) keys[j][w] = k[j][i][w];
        } else {
          load_shared(keys[j], place_of(j, i));
        }
      }
#pragma unroll
      for (int w = 0; w < 4; w += 2) {
        unsigned a[4] = {q[0][i][w], q[1][i][w], q[0][i][w + 1], q[1][i][w + 1]};
#pragma unroll
        for (int e = 0; e < 4; ++e) a[e] |= zero;
#pragma unroll
        for (int j = 0; j < T::key_tiles; ++j) {
          const unsigned b[2] = {keys[j][w], keys[j][w + 1]};
          multiply_add<S>(scores[j], a, b);
        }
      }
    }
  }
};

// What warps tell each other through shared memory: the exponentials of 16 queries as fragments, [warp_q][step along
// all keys][lane] of 16 bytes; and the largest score and the sum of each query, [warp_k][query].
template <class T>
struct SharedExponentials {
  static constexpr int warp_steps = T::warp_keys / 16, steps = T::warps_k * warp_steps;
  static constexpr int bytes = T::warps_q * steps * 512;
  unsigned fragments;  // Those of this lane.
  unsigned states;     // Those of this lane's first query.

  __device__ __forceinline__ void prepare(unsigned at) {
    fragments = at + (T::warp_q() * steps * 32 + threadIdx.x % 32) * 16;
    states = at + bytes + (T::warp_q() * 16 + threadIdx.x % 32 / 4) * 8;
    have_ready(fragments);
    have_ready(states);
  }
  __device__ __forceinline__ unsigned fragment(int step) const { return fragments + step * 512; }
  __device__ __forceinline__ unsigned state(int warp_k, int r) const {
    return states + (warp_k * T::queries + r * 8) * 8;
  }

  // Every warp puts its own. Sums are added up while the exponentials are on their way.
  template <class Warp>
  __device__ __forceinline__ void put(Warp& warp) const {
#pragma unroll
    for (int k = 0; k < warp_steps; ++k) {
      unsigned pairs[4];
      warp.get_exponentials(k, pairs);
      store_shared(fragment(T::warp_k() * warp_steps + k), pairs);
    }
    warp.add_up();
    put_states(warp.top, warp.sum);
  }
  // The same for a warp without keys.
  __device__ __forceinline__ void put_nothing() const {
#pragma unroll
    for (int k = 0; k < warp_steps; ++k) store_shared(fragment(T::warp_k() * warp_steps + k), {0, 0, 0, 0});
    put_states({-INFINITY, -INFINITY}, {0, 0});
  }
  __device__ __forceinline__ void put_states(const float (&top)[2], const float (&sum)[2]) const {
    if (threadIdx.x % 4 != 0) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) store_shared(state(T::warp_k(), r), top[r], sum[r]);
  }
};

// One warp's columns of the result, for its 16 queries.
template <class T, class Warp>
struct AttentionColumns {
  using S = typename T::Element;
  static constexpr int tiles = T::value / 8 / T::warps_k;  // Of 8 columns.
  static constexpr int warp_steps = T::warp_keys / 16;
  // Values are loaded 16 rows x 16 columns at a time, or 32 rows x 8 columns.
  static constexpr int rows = tiles == 1 ? 32 : 16;
  static_assert(T::value % (8 * T::warps_k) == 0 && (tiles == 1 || tiles % 2 == 0) && T::warp_keys % rows == 0,
                "loads that cover the columns");
  float parts[T::warps_k][tiles][4] = {};  // By the keys of each warp.
  float factors[2][T::warps_k], sum[2];
  unsigned values;
  S* results[2];  // This lane's first, of each of its rows.
  bool aligned;

  // `values_at` is the shared address of all values, y that of the result of query 0, `row` the lane's first query.
  template <class Params>
  __device__ __forceinline__ void prepare(unsigned values_at, S* y, const Params& p, int row) {
    const int lane = threadIdx.x % 32;
    values = values_at + lane % rows * T::value_pitch + (T::warp_k() * tiles + lane / rows) * 16;
    have_ready(values);
    aligned = is_aligned<2>(y) && p.vector_writes;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      results[r] = y + ((row + r * 8) * p.y[2] + T::warp_k() * tiles * 8 + lane % 4 * 2);
      have_ready(results[r]);
      __builtin_assume(__isGlobal(results[r]));
    }
  }

  __device__ __forceinline__ void multiply(const SharedExponentials<T>& shared) {
#pragma unroll
    for (int w = 0; w < T::warps_k; ++w) {
#pragma unroll
      for (int k = w * warp_steps; k < (w + 1) * warp_steps; k += rows / 16) {
        unsigned a[4], two[4];
        load_shared(a, shared.fragment(k));
        if constexpr (tiles == 1) {
          unsigned next[4];
          load_shared(next, shared.fragment(k + 1));
          load_matrix_transposed(two, values + k * 16 * T::value_pitch);
          multiply_add<S>(parts[w][0], a, {two[0], two[1]});
          multiply_add<S>(parts[w][0], next, {two[2], two[3]});
        } else {
#pragma unroll
          for (int j = 0; j < tiles; j += 2) {
            load_matrix_transposed(two, values + k * 16 * T::value_pitch + j * 16);
            multiply_add<S>(parts[w][j], a, {two[0], two[1]});
            multiply_add<S>(parts[w][j + 1], a, {two[2], two[3]});
          }
        }
      }
    }
  }

  // The factors by which the exponentials of each warp become weights: zeros for rows without any column.
  __device__ __forceinline__ void weigh(const SharedExponentials<T>& shared) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float2 states[T::warps_k];
      float top = -INFINITY;
#pragma unroll
      for (int w = 0; w < T::warps_k; ++w) {
        states[w] = load_shared(shared.state(w, r));
        top = ::fmaxf(top, states[w].x);
      }
      const float base = Warp::base_of(top);
      sum[r] = 0;
#pragma unroll
      for (int w = 0; w < T::warps_k; ++w) {
        factors[r][w] = Warp::power(states[w].x - base);
        sum[r] += states[w].y * factors[r][w];
      }
      const float inverse = sum[r] == 0 ? 0 : __fdividef(1, sum[r]);
#pragma unroll
      for (int w = 0; w < T::warps_k; ++w) factors[r][w] *= inverse;
    }
  }

  // `row` is the lane's first query.
  template <bool nan_rows>
  __device__ __forceinline__ void write_rows(int row, int queries) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (row + r * 8 >= queries) continue;
#pragma unroll
      for (int j = 0; j < tiles; ++j) {
        float two[2] = {};
#pragma unroll
        for (int e = 0; e < 2; ++e) {
#pragma unroll
          for (int w = 0; w < T::warps_k; ++w) two[e] += parts[w][j][2 * r + e] * factors[r][w];
          if (sum[r] == 0) two[e] = nan_rows ? __int_as_float(0x7fffffff) : 0.f;
        }
        write<2>(results[r] + j * 8, aligned, two);
      }
    }
  }
};

// As attention() for at most T::keys keys, elements of 2 bytes in rows that lie at multiples of 16 bytes from each
// other (the first one lies anywhere), and heads of q and k of a multiple of 32. `in_registers`: see OwnChunks. Shared
// memory: values, exponentials, states, and places for keys unless `in_registers`.
template <class T, class M, bool causal, bool nan_rows, bool alike, bool in_registers, class Params>
__device__ __forceinline__ void attention_whole(const typename T::Element* q, const typename T::Element* k,
                                                const typename T::Element* v, const M* mask, typename T::Element* y,
                                                const Params& p) {
  using S = typename T::Element;
  using Warp = AttentionWarp<T, M, causal, alike>;
  using Exponentials = SharedExponentials<T>;
  extern __shared__ __align__(128) unsigned char shared[];
  constexpr int values_bytes = T::keys * T::value_pitch;
  constexpr int places_at = values_bytes + Exponentials::bytes + T::warps_k * T::queries * sizeof(float2);
  const unsigned values_at = shared_address(shared);
  const int first_query = find_block<T>(q, k, v, mask, y, p);
  const int lane = threadIdx.x % 32, row = first_query + T::warp_q() * 16 + lane / 4;
  const int first_key = T::warp_k() * T::warp_keys, column = first_key + lane % 4 * 2;
  const int last_key = causal ? ::min(p.keys, first_query + T::queries) : p.keys;
  const bool vector = is_aligned<T::chunk>(q) && is_aligned<T::chunk>(k) && is_aligned<T::chunk>(v);
  const bool has_keys = first_key < last_key, mask_pairs = has_pairs(mask, p);
  OwnChunks<T, in_registers> own;
  own.prepare(q, k, p, p.queries - first_query, T::warp_q() * 16, first_key, values_at + places_at);
  RowCopies<S, T::keys, T::value, T::threads> value_rows;
  value_rows.prepare(v, p.v[2], 1);
  Exponentials exponentials;
  exponentials.prepare(values_at + values_bytes);
  AttentionColumns<T, Warp> columns;
  columns.prepare(values_at, y, p, row);
  Warp warp;

  // Always true: see attention().
  if (p.keys > 0) wait_for_previous();
  if (has_keys) {
    if (vector) {
      own.template fetch<true>();
    } else {
      own.template fetch<false>();
    }
    warp.fetch_mask(mask, p, row, column, mask_pairs);
  }
  commit_copies();
  value_rows.load(values_at, 0, last_key, vector);
  commit_copies();
  if (has_keys) {
    if constexpr (!in_registers) wait_for_copies<1>();
    own.multiply(warp.scores, p.keys >> 31);
    warp.template exponentiate<true>(p, row, column);
    exponentials.put(warp);
  } else {
    exponentials.put_nothing();
  }
  wait_for_copies<0>();
  __syncthreads();
  columns.multiply(exponentials);
  columns.weigh(exponentials);
  columns.template write_rows<nan_rows>(row, p.queries);
}

}  // namespace tw
