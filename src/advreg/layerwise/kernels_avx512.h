// Whole blocks with AVX-512, for kernels.cpp: where a byte of codes was, a bit of a mask is.
#pragma once

// Sixteen values, computed with as floats.
template <typename T> struct Lanes;

template <> struct Lanes<float> {
  static __m512 load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, __m512 values) { _mm512_storeu_ps(to, values); }
  static void stream(float* to, __m512 values) { _mm512_stream_ps(to, values); }
};

// Types of two bytes; `Narrow` widens them and rounds to them.
template <typename T> struct Narrow;

template <> struct Narrow<c10::Half> {
  static __m512 wide(__m256i values) { return _mm512_cvtph_ps(values); }
  static __m256i round(__m512 values) { return _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT); }
};

template <> struct Narrow<c10::BFloat16> {
  static __m512 wide(__m256i values) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
  }
  static __m256i round(__m512 values) {  // to the nearest, ties to even, as torch does
    const __m512i bits = _mm512_castps_si512(values);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, up), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0)));
  }
};

template <typename T> struct Lanes {
  static __m512 load(const T* from) {
    return Narrow<T>::wide(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static void store(T* to, __m512 values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), Narrow<T>::round(values));
  }
  static void stream(T* to, __m512 values) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), Narrow<T>::round(values));
  }
};

// Of 64 values a mask each: zero or not finite, below zero, not finite.
struct Masks {
  __mmask64 none, minus, bad;
};

template <typename T> Masks masks(const uint32_t* from) {
  constexpr int NOT_FINITE = 0x01 | 0x80 | 0x08 | 0x10, ZERO = 0x02 | 0x04;
  __mmask16 none[4], minus[4], bad[4];
  for (int j = 0; j < 4; ++j) {
    const __m512i bits = _mm512_loadu_si512(from + 16 * j);
    none[j] = _mm512_fpclass_ps_mask(_mm512_castsi512_ps(bits), NOT_FINITE | ZERO);
    bad[j] = _mm512_fpclass_ps_mask(_mm512_castsi512_ps(bits), NOT_FINITE);
    minus[j] = _mm512_movepi32_mask(bits);
  }
  const auto join = [](const __mmask16* m) {
    return _mm512_kunpackd(_mm512_kunpackw(m[3], m[2]), _mm512_kunpackw(m[1], m[0]));
  };
  return {join(none), join(minus), join(bad)};
}

template <typename T> Masks masks(const uint16_t* from) {
  const __m512i infinite = _mm512_set1_epi16(Type<T>::INFINITE);
  __mmask32 zero[2], minus[2], bad[2];
  for (int j = 0; j < 2; ++j) {
    const __m512i bits = _mm512_loadu_si512(from + 32 * j);
    const __m512i size = _mm512_and_si512(bits, _mm512_set1_epi16(0x7fff));
    zero[j] = _mm512_testn_epi16_mask(size, size);
    bad[j] = _mm512_cmpge_epi16_mask(size, infinite);
    minus[j] = _mm512_movepi16_mask(bits);
  }
  const auto join = [](const __mmask32* m) { return _mm512_kunpackd(m[1], m[0]); };
  const __mmask64 not_finite = join(bad);
  return {join(zero) | not_finite, join(minus), not_finite};
}

template <typename T> struct WideBlock {
  using Bits = typename Type<T>::Bits;

  static void add(const T* x, const uint8_t* p, T* y, T delta, T low, T high, bool past_caches) {
    const bool streams = past_caches && reinterpret_cast<uintptr_t>(y) % 64 == 0;
    const __m512i codes = _mm512_loadu_si512(p);
    const __m512 step = _mm512_set1_ps(delta), least = _mm512_set1_ps(low);
    const __m512 most = _mm512_set1_ps(high);
    for (int k = 0; k < 4; ++k) {
      const __mmask64 some = _mm512_test_epi8_mask(codes, _mm512_set1_epi8(1 << 2 * k));
      const __mmask64 minus = _mm512_test_epi8_mask(codes, _mm512_set1_epi8(2 << 2 * k));
      for (int j = 0; j < WIDTH; j += 16) {
        const __mmask16 down = minus >> j, up = (some & ~minus) >> j;
        __m512 sum = Lanes<T>::load(x + k * WIDTH + j);
        sum = _mm512_mask_add_ps(sum, up, sum, step);
        sum = _mm512_mask_sub_ps(sum, down, sum, step);
        // Of a NaN and a number these return the second: NaN stays.
        sum = _mm512_min_ps(most, _mm512_max_ps(least, sum));
        if (streams) Lanes<T>::stream(y + k * WIDTH + j, sum);
        else Lanes<T>::store(y + k * WIDTH + j, sum);
      }
    }
  }

  static void sign(const Bits* g, uint8_t* p, int64_t& bad) {
    __m512i codes = _mm512_setzero_si512();
    for (int k = 0; k < 4; ++k) {
      const Masks found = masks<T>(g + k * WIDTH);
      const __mmask64 kept = _knot_mask64(found.none), minus = _kand_mask64(kept, found.minus);
      codes = _mm512_mask_add_epi8(codes, kept, codes, _mm512_set1_epi8(1 << 2 * k));
      codes = _mm512_mask_add_epi8(codes, minus, codes, _mm512_set1_epi8(2 << 2 * k));
      if (found.bad) bad += __builtin_popcountll(found.bad);
    }
    _mm512_storeu_si512(p, codes);
  }
};

template <> struct Block<float> : WideBlock<float> {};
template <> struct Block<c10::BFloat16> : WideBlock<c10::BFloat16> {};
template <> struct Block<c10::Half> : WideBlock<c10::Half> {};
