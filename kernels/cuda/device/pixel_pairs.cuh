// Pictures of at most four channels whose columns lie side by side: read by words that hold one channel's numbers of
// two neighbouring pixels, stored as pixels of four numbers.
#pragma once

#include "types.cuh"

namespace tw {

// Of columns that lie side by side: whether a pair of them, the first an even one, is a word everywhere. `steps`:
// elements from image to image, from row to row, from column to column and from channel to channel.
template <int channels, class S>
__device__ __forceinline__ bool pairs_are_words(const S* x, const int (&steps)[4], int width) {
  return (steps[0] | steps[1] | (channels == 1 ? 0 : steps[3]) | width) % 2 == 0 && is_aligned<2>(x);
}

// S: f16 or bf16.
template <class S, int channels>
struct PixelPair {
  static_assert(sizeof(S) == 2 && channels <= 4, "two numbers are a word");
  unsigned words[channels];  // The first pixel's number in the lower half.

  // `from`: the first pixel's first channel, `step`: elements from channel to channel. Zeros unless `there`.
  __device__ __forceinline__ void read(const S* from, int step, bool there) {
#pragma unroll
    for (int c = 0; c < channels; ++c) words[c] = there ? *reinterpret_cast<const unsigned*>(from + c * step) : 0;
  }
  // The same number by number; the second pixel may be outside of the picture where the first is not.
  __device__ __forceinline__ void read_apart(const S* from, int step, bool first, bool second) {
    const unsigned short* numbers = reinterpret_cast<const unsigned short*>(from);
#pragma unroll
    for (int c = 0; c < channels; ++c) {
      words[c] = first ? numbers[c * step] : 0;
      if (first && second) words[c] |= numbers[c * step + 1] << 16;
    }
  }
  __device__ __forceinline__ unsigned word(int c) const { return c < channels ? words[c < channels ? c : 0] : 0; }
  __device__ __forceinline__ uint2 first() const {
    return {__byte_perm(word(0), word(1), 0x5410), __byte_perm(word(2), word(3), 0x5410)};
  }
  __device__ __forceinline__ uint2 second() const {
    return {__byte_perm(word(0), word(1), 0x7632), __byte_perm(word(2), word(3), 0x7632)};
  }
};

}  // namespace tw
