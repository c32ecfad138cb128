// The passes over a site's data, for tensors on the CPU; see packing.py and planes.py for formats.
//
// A tensor is `outer` groups of `rows` chunks of `inner` values that lie side by side; each chunk
// has its own ceil(inner / 4) bytes. at::parallel_for shares torch's threads.
#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>

#ifdef __SSE2__
#include <immintrin.h>
#define FENCE _mm_sfence
#else
#define FENCE() ((void)0)
#endif

namespace {

constexpr int64_t WIDTH = 64;  // bytes a block
constexpr int64_t BLOCK = 4 * WIDTH;
constexpr int64_t GRAIN = 128;  // blocks that are worth a thread of their own

// What a type's sums are rounded from, and its bits: those of infinity, the first not finite.
template <typename T> struct Type;
template <> struct Type<float> {
  using Wide = float;
  using Bits = uint32_t;
  static constexpr Bits INFINITE = 0x7f800000;
};
template <> struct Type<double> {
  using Wide = double;
  using Bits = uint64_t;
  static constexpr Bits INFINITE = 0x7ff0000000000000;
};
template <> struct Type<c10::BFloat16> {
  using Wide = float;
  using Bits = uint16_t;
  static constexpr Bits INFINITE = 0x7f80;
};
template <> struct Type<c10::Half> {
  using Wide = float;
  using Bits = uint16_t;
  static constexpr Bits INFINITE = 0x7c00;
};

struct Shape {
  int64_t outer, rows, inner;  // of the tensor
  int64_t kept;                // rows that have codes
  int64_t stride;              // bytes from one group's codes to the next one's
};

template <typename T> inline T value(T a, int sign, T delta, T low, T high) {
  using Wide = typename Type<T>::Wide;
  T sum = static_cast<T>(static_cast<Wide>(a) + static_cast<Wide>(delta) * sign);
  sum = sum < low ? low : sum;  // a comparison with NaN is false, so that NaN stays
  return sum > high ? high : sum;
}

inline int decode(uint8_t byte, int place) {
  return static_cast<int32_t>(static_cast<uint32_t>(byte) << (30 - 2 * place)) >> 30;
}

// 1 for positive, MINUS for negative, 0 for zero and for what is not finite, which is counted.
template <typename T, uint32_t MINUS>
inline typename Type<T>::Bits encode(typename Type<T>::Bits bits, typename Type<T>::Bits& bad) {
  using Bits = typename Type<T>::Bits;
  constexpr Bits INFINITE = Type<T>::INFINITE;
  const Bits sign = bits >> (8 * sizeof(Bits) - 1);
  const Bits size = bits & static_cast<Bits>(~(Bits{1} << (8 * sizeof(Bits) - 1)));
  bad += size >= INFINITE;
  const bool kept = static_cast<Bits>(size - 1) < static_cast<Bits>(INFINITE - 1);
  return kept ? 1 + (MINUS - 1) * sign : 0;
}

// Calls each(chunk, place of a first value, place after a last one) for runs of whole blocks.
template <typename F> void runs(const Shape& s, const F& each) {
  const int64_t per_chunk = (s.inner + BLOCK - 1) / BLOCK;
  at::parallel_for(0, s.outer * s.rows * per_chunk, GRAIN, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t chunk = begin / per_chunk, first = begin % per_chunk;
      const int64_t last = std::min(per_chunk, first + end - begin);
      each(chunk, first * BLOCK, std::min(last * BLOCK, s.inner));
      begin += last - first;
    }
    FENCE();
  });
}

inline int64_t codes_of(const Shape& s, int64_t chunk) {
  return chunk / s.rows * s.stride + chunk % s.rows * ((s.inner + 3) / 4);
}

// Past the caches, a fresh line need not be read before it is overwritten.
inline void store(void* to, const void* from, int64_t bytes, bool past_caches) {
#ifdef __SSE2__
  if (past_caches && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
    auto* target = static_cast<__m128i*>(to);
    const auto* source = static_cast<const __m128i*>(from);
    for (int64_t i = 0; i < bytes / 16; ++i)
      _mm_stream_si128(target + i, _mm_load_si128(source + i));
    return;
  }
#endif
  std::memcpy(to, from, bytes);
}

// A whole block in plain C++.
template <typename T> struct Block {
  using Bits = typename Type<T>::Bits;

  static void add(const T* x, const uint8_t* p, T* y, T delta, T low, T high, bool past_caches) {
    alignas(64) T sums[BLOCK];
    for (int k = 0; k < 4; ++k)
      for (int j = 0; j < WIDTH; ++j)
        sums[k * WIDTH + j] = value(x[k * WIDTH + j], decode(p[j], k), delta, low, high);
    store(y, sums, sizeof(sums), past_caches);
  }

  static void sign(const Bits* g, uint8_t* p, int64_t& bad) {
    Bits missed = 0;
    const auto code = [&](int place) { return encode<T, 3>(g[place], missed); };
    Bits bytes[WIDTH];  // as wide as what they are made of, for the compiler's vectors
    for (int j = 0; j < WIDTH; ++j)
      bytes[j] =
          code(j) | code(j + WIDTH) << 2 | code(j + 2 * WIDTH) << 4 | code(j + 3 * WIDTH) << 6;
    std::copy_n(bytes, WIDTH, p);
    bad += missed;
  }
};

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#include "kernels_avx512.h"
#endif

template <typename T>
void add(const T* a, const uint8_t* codes, T* out, const Shape& s, bool past_caches, T delta,
         T low, T high) {
  runs(s, [&](int64_t chunk, int64_t place, int64_t end) {
    const T* x = a + chunk * s.inner;
    T* y = out + chunk * s.inner;
    if (chunk % s.rows >= s.kept) {
      for (; place < end; ++place) y[place] = value(x[place], 0, delta, low, high);
      return;
    }
    const uint8_t* p = codes + codes_of(s, chunk);
    for (; place + BLOCK <= end; place += BLOCK)
      Block<T>::add(x + place, p + place / 4, y + place, delta, low, high, past_caches);
    const int64_t width = (end - place + 3) / 4;
    for (int64_t i = 0; place + i < end; ++i)
      y[place + i] =
          value(x[place + i], decode(p[place / 4 + i % width], i / width), delta, low, high);
  });
}

template <typename T>
int64_t sign(const typename Type<T>::Bits* gradient, uint8_t* codes, const Shape& s) {
  std::atomic<int64_t> bad{0};
  runs(s, [&](int64_t chunk, int64_t place, int64_t end) {
    const auto* g = gradient + chunk * s.inner;
    uint8_t* p = codes + codes_of(s, chunk);
    int64_t missed = 0;
    for (; place + BLOCK <= end; place += BLOCK)
      Block<T>::sign(g + place, p + place / 4, missed);
    const int64_t width = (end - place + 3) / 4;
    typename Type<T>::Bits few = 0;
    std::fill_n(p + place / 4, width, 0);
    for (int64_t i = 0; place + i < end; ++i)
      p[place / 4 + i % width] |= encode<T, 3>(g[place + i], few) << (2 * (i / width));
    if (missed += few) bad += missed;
  });
  return bad;
}

// Sixteen values a word, `size` places apart; those that there are not are zeros. Counts: one, how
// many values were not finite, and whether any value was not zero.
template <typename T>
void words(const typename Type<T>::Bits* values, uint32_t* codes, float* counts, int64_t size,
           int64_t count) {
  using Bits = typename Type<T>::Bits;
  constexpr int64_t PART = 2048;  // words that stay in a core's own cache, runs worth prefetching
  std::atomic<int64_t> bad{0};
  std::atomic<bool> any{false};
  at::parallel_for(0, (size + PART - 1) / PART, 2, [&](int64_t begin, int64_t end) {
    int64_t missed = 0;
    uint32_t seen = 0;
    for (int64_t first = begin * PART; first < std::min(end * PART, size); first += PART) {
      const int64_t width = std::min(PART, size - first);
      uint32_t part[PART] = {};
      for (int k = 0; k < 16; k += 4) {  // four at once, for the compiler's vectors
        const Bits* v = values + k * size + first;
        const int64_t there = count - k * size - first;
        Bits few = 0;
        const auto code = [&](int64_t place) { return encode<T, 2>(v[place], few); };
        if (there >= 3 * size + width)
          for (int64_t i = 0; i < width; ++i)
            part[i] |= static_cast<uint32_t>(code(i) | code(size + i) << 2 |
                                             code(2 * size + i) << 4 | code(3 * size + i) << 6)
                       << (2 * k);
        else
          for (int j = 0; j < 4; ++j)
            for (int64_t i = 0; i < std::min(width, there - j * size); ++i)
              part[i] |= static_cast<uint32_t>(code(j * size + i)) << (2 * (k + j));
        missed += few;
      }
      for (const uint32_t word : part) seen |= word;
      std::memcpy(codes + first, part, width * sizeof(uint32_t));
    }
    if (missed) bad += missed;
    if (missed || seen) any = true;
  });
  counts[0] = 1;
  counts[1] = static_cast<float>(bad);
  counts[2] = any;
}

}  // namespace

#define KERNELS(T, NAME)                                                                        \
  void add_##NAME(const T* a, const uint8_t* codes, T* out, const Shape* s, bool past_caches,   \
                  double delta, double low, double high) {                                      \
    add<T>(a, codes, out, *s, past_caches, static_cast<T>(delta), static_cast<T>(low),          \
           static_cast<T>(high));                                                               \
  }                                                                                             \
  int64_t sign_##NAME(const Type<T>::Bits* gradient, uint8_t* codes, const Shape* s) {          \
    return sign<T>(gradient, codes, *s);                                                        \
  }                                                                                             \
  void words_##NAME(const Type<T>::Bits* gradient, uint32_t* codes, float* counts,              \
                    int64_t size, int64_t count) {                                              \
    words<T>(gradient, codes, counts, size, count);                                             \
  }

extern "C" {
KERNELS(float, float32)
KERNELS(double, float64)
KERNELS(c10::BFloat16, bfloat16)
KERNELS(c10::Half, float16)
}
