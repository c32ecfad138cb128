// The passes over a site's data, for tensors on the CPU; layout.py has the format of the words.
//
// A tensor is some groups of `size` values that lie side by side; each group has `words` words.
// at::parallel_for shares torch's threads.
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

// Stores past the caches: a fresh line need not be read before it is overwritten.
#if defined(__AVX512F__)
#include <immintrin.h>
using Vector = __m512i;
#define STREAM _mm512_stream_si512
#define FENCE _mm_sfence
#elif defined(__AVX__)
#include <immintrin.h>
using Vector = __m256i;
#define STREAM _mm256_stream_si256
#define FENCE _mm_sfence
#else
struct Vector {
  char bytes[64];
};
#define STREAM(to, value) std::memcpy(to, &(value), sizeof(Vector))
#define FENCE() ((void)0)
#endif

namespace {

constexpr int64_t PER_WORD = 16;
constexpr int64_t PART = 2048;  // words that stay in a core's own cache, runs worth prefetching
constexpr int64_t LINE = 64;    // bytes
constexpr int64_t RUN = 512;    // bytes that are written past the caches together
constexpr int64_t GRAIN = 1 << 16;  // values that are worth a thread of their own

// Types by their bits: what they are computed in, and the bits of infinity, the first not finite.
struct Float32 {
  using Value = float;
  using Wide = float;
  using Bits = uint32_t;
  static constexpr Bits INFINITE = 0x7f800000;
  static Wide widen(Value value) { return value; }
  static Value round(Wide value) { return value; }
};
struct Float64 {
  using Value = double;
  using Wide = double;
  using Bits = uint64_t;
  static constexpr Bits INFINITE = 0x7ff0000000000000;
  static Wide widen(Value value) { return value; }
  static Value round(Wide value) { return value; }
};
struct BFloat16 {
  using Value = uint16_t;
  using Wide = float;
  using Bits = uint16_t;
  static constexpr Bits INFINITE = 0x7f80;
  static Wide widen(Value value) { return std::bit_cast<float>(uint32_t{value} << 16); }
  static Value round(Wide value) {  // to the nearest, ties to even
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t near = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : near;
  }
};
struct Float16 {
  using Value = uint16_t;
  using Wide = float;
  using Bits = uint16_t;
  static constexpr Bits INFINITE = 0x7c00;
  // As c10::Half does it in software, but without branches, so that it is made vectors of.
  static Wide widen(Value value) {
    const uint32_t sign = uint32_t{value} << 16 & 0x80000000, twice = uint32_t{value} << 17;
    const float normal = std::bit_cast<float>((twice >> 4) + 0x70000000) * 0x1p-112f;
    const float tiny = std::bit_cast<float>(twice >> 17 | 0x3f000000) - 0.5f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(twice < 1 << 27 ? tiny : normal));
  }
  static Value round(Wide value) {  // to the nearest, ties to even
    const uint32_t bits = std::bit_cast<uint32_t>(value), twice = bits << 1;
    const uint32_t exponent = twice & 0xff000000;
    const uint32_t least = exponent < 0x71000000 ? 0x71000000 : exponent;
    const float size = std::bit_cast<float>(bits & 0x7fffffff) * 0x1p112f * 0x1p-110f;
    const uint32_t near = std::bit_cast<uint32_t>(
        std::bit_cast<float>((least >> 1) + 0x07800000) + size);
    const uint32_t rounded = (near >> 13 & 0x7c00) + (near & 0xfff);
    return (bits >> 16 & 0x8000) | (twice > 0xff000000 ? 0x7e00 : rounded);
  }
};

// Groups of values and of words, side by side.
struct Shape {
  int64_t groups, words, size;
};

// The factor epsilon * rms as a number of the type; finite, since zero times infinity is NaN.
template <typename T> typename T::Wide factor(const void* rms, bool is_double, double epsilon) {
  double scale = epsilon;
  double limit = T::widen(std::bit_cast<typename T::Value>(
      static_cast<typename T::Bits>(T::INFINITE - 1)));  // the largest finite number
  if (rms && is_double) {
    scale *= *static_cast<const double*>(rms);
  } else if (rms) {
    scale = *static_cast<const float*>(rms) * static_cast<float>(epsilon);
    limit = std::min<double>(limit, std::numeric_limits<float>::max());
  }
  scale = scale < -limit ? -limit : scale > limit ? limit : scale;
  return T::widen(T::round(static_cast<typename T::Wide>(scale)));
}

// Calls each(group, first word, number of words) for parts of the words.
template <typename F> void parts(const Shape& s, const F& each) {
  const int64_t per_group = (s.words + PART - 1) / PART;
  const int64_t grain = std::max<int64_t>(1, GRAIN / (PER_WORD * std::min(PART, s.words)));
  at::parallel_for(0, s.groups * per_group, grain, [&](int64_t begin, int64_t end) {
    for (; begin < end; ++begin) {
      const int64_t first = begin % per_group * PART;
      each(begin / per_group, first, std::min(PART, s.words - first));
    }
    FENCE();
  });
}

// Adds to `count` values the signs that lie at bits `shift` of the words.
template <typename T, bool CLAMPS>
inline void add_run(const typename T::Value* __restrict x, const uint32_t* __restrict words,
                    typename T::Value* __restrict y, int64_t count, int shift,
                    typename T::Wide delta, typename T::Wide low, typename T::Wide high) {
  using Wide = typename T::Wide;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t code = static_cast<int32_t>(words[i] << (30 - shift)) >> 30;
    Wide sum = T::widen(x[i]) + delta * static_cast<Wide>(code < -1 ? -1 : code);
    if (CLAMPS) {
      sum = sum < low ? low : sum;  // a comparison with NaN is false, so that NaN stays
      sum = sum > high ? high : sum;
    }
    y[i] = T::round(sum);
  }
}

template <typename T, bool CLAMPS>
void add(const typename T::Value* x, const uint32_t* codes, typename T::Value* y, const Shape& s,
         bool past_caches, typename T::Wide delta, typename T::Wide low, typename T::Wide high) {
  parts(s, [&](int64_t group, int64_t first, int64_t width) {
    const uint32_t* words = codes + group * s.words + first;
    for (int64_t k = 0; k < PER_WORD; ++k) {
      const int64_t place = k * s.words + first, count = std::min(width, s.size - place);
      const auto* from = x + group * s.size + place;
      auto* to = y + group * s.size + place;
      int64_t done = 0;
      const auto run = [&](int64_t length, auto* y) {
        add_run<T, CLAMPS>(from + done, words + done, y, length, 2 * k, delta, low, high);
        done += length;
      };
      if (past_caches) {
        constexpr int64_t SUMS = RUN / sizeof(*to);
        const auto ahead = -reinterpret_cast<uintptr_t>(to) % LINE / sizeof(*to);
        run(std::max<int64_t>(0, std::min<int64_t>(ahead, count)), to);
        while (done + SUMS <= count) {
          alignas(LINE) typename T::Value sums[SUMS];
          auto* target = reinterpret_cast<Vector*>(to + done);
          run(SUMS, sums);
          for (size_t i = 0; i < RUN / sizeof(Vector); ++i)
            STREAM(target + i, reinterpret_cast<const Vector*>(sums)[i]);
        }
      }
      run(count - done, to + done);
    }
  });
}

// 1 for positive, 2 for negative, 0 for zero and for what is not finite, which is counted.
template <typename T>
inline typename T::Bits encode(typename T::Bits bits, typename T::Bits& bad) {
  using Bits = typename T::Bits;
  const Bits sign = bits >> (8 * sizeof(Bits) - 1);
  const Bits size = bits & static_cast<Bits>(~(Bits{1} << (8 * sizeof(Bits) - 1)));
  bad += size >= T::INFINITE;
  const bool kept = static_cast<Bits>(size - 1) < static_cast<Bits>(T::INFINITE - 1);
  return kept ? 1 + sign : 0;
}

template <typename T>
void pack(const typename T::Bits* values, uint32_t* codes, float* counts, const Shape& s) {
  using Bits = typename T::Bits;
  std::atomic<int64_t> bad{0};
  std::atomic<bool> any{false};
  parts(s, [&](int64_t group, int64_t first, int64_t width) {
    int64_t missed = 0;
    uint32_t part[PART] = {}, seen = 0;
    for (int64_t k = 0; k < PER_WORD; k += 4) {  // four at once, for the compiler's vectors
      const Bits* v = values + group * s.size + k * s.words + first;
      const int64_t there = s.size - k * s.words - first;
      Bits few = 0;
      const auto code = [&](int64_t place) { return encode<T>(v[place], few); };
      if (there >= 3 * s.words + width)
        for (int64_t i = 0; i < width; ++i)
          part[i] |= static_cast<uint32_t>(code(i) | code(s.words + i) << 2 |
                                           code(2 * s.words + i) << 4 | code(3 * s.words + i) << 6)
                     << (2 * k);
      else
        for (int64_t j = 0; j < 4; ++j)
          for (int64_t i = 0; i < std::min(width, there - j * s.words); ++i)
            part[i] |= static_cast<uint32_t>(code(j * s.words + i)) << (2 * (k + j));
      missed += few;
    }
    for (int64_t i = 0; i < width; ++i) seen |= part[i];
    std::memcpy(codes + group * s.words + first, part, width * sizeof(uint32_t));
    if (missed) bad += missed;
    if (missed || seen) any = true;
  });
  counts[0] = 1;
  counts[1] = static_cast<float>(bad);
  counts[2] = any;
}

}  // namespace

#define KERNELS(T, NAME)                                                                        \
  void add_##NAME(const T::Value* x, const uint32_t* codes, T::Value* y, int64_t groups,        \
                  int64_t words, int64_t size, bool past_caches, const void* rms,               \
                  bool is_double, double epsilon, double low, double high) {                    \
    const Shape s{groups, words, size};                                                         \
    const T::Wide delta = factor<T>(rms, is_double, epsilon);                                   \
    const T::Wide least = T::widen(T::round(low)), most = T::widen(T::round(high));             \
    if (low == -std::numeric_limits<double>::infinity() && high == -low)                        \
      add<T, false>(x, codes, y, s, past_caches, delta, least, most);                           \
    else                                                                                        \
      add<T, true>(x, codes, y, s, past_caches, delta, least, most);                            \
  }                                                                                             \
  void pack_##NAME(const T::Bits* gradient, uint32_t* codes, float* counts, int64_t groups,     \
                   int64_t words, int64_t size) {                                               \
    pack<T>(gradient, codes, counts, {groups, words, size});                                    \
  }

extern "C" {
KERNELS(Float32, float32)
KERNELS(Float64, float64)
KERNELS(BFloat16, bfloat16)
KERNELS(Float16, float16)
}
