// A vector of 32 bytes: AVX2, FMA and F16C.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "half.h"

namespace fqonnx {
namespace {

// For each part of Vector::repeat, the bytes of a half that it takes.
template <int bits>
struct Repeated {
  uint8_t byte[1 << bits][32];
};
template <int bits>
constexpr Repeated<bits> repeated_bytes() {
  Repeated<bits> index{};
  for (int i = 0; i < 32 << bits; ++i) {
    index.byte[i / 32][i % 32] = uint8_t(((i / 2) >> bits) % 8 * 2 + i % 2);
  }
  return index;
}

struct Vector {
  static constexpr size_t kBytes = 32;
  static constexpr size_t kLanes = 8;
  static constexpr size_t kTileRows = 4;
  static constexpr size_t kDirectRows = 4;
  static constexpr size_t kInPlace = 1;  // fields that `dot` takes without a shift

  using Bytes = __m256i;
  using Ints = __m256i;
  using Floats = __m256;

  static Bytes load(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Bytes load_first(const uint8_t* p, size_t count) {
    alignas(32) uint8_t buffer[32] = {};
    std::memcpy(buffer, p, count);
    return load(buffer);
  }
  // Field index + place of each byte, which stays 2^(place·bits) too large.
  template <int bits>
  static Bytes field(Bytes x, int index, int place = 0) {
    x = index ? _mm256_srli_epi16(x, index * bits) : x;
    return _mm256_and_si256(x, _mm256_set1_epi8(char(((1 << bits) - 1) << (place * bits))));
  }

  static Ints zero() { return _mm256_setzero_si256(); }
  static Ints load_ints(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static void store(void* p, Ints x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
  static Bytes bytes(Ints x) { return x; }
  static Ints ints(Bytes x) { return x; }
  static Ints broadcast4(const int8_t* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return _mm256_set1_epi32(x);
  }
  // Sums of two products with at most 15 fit into 16 bits.
  static Ints dot(Ints sum, Bytes u, Ints s) {
    const __m256i pairs = _mm256_maddubs_epi16(u, s);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static Ints dot_wide(Ints sum, Bytes u, Ints s) {
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(s, 8), 8);
    const __m256i odd = _mm256_srai_epi16(s, 8);
    sum = _mm256_add_epi32(
        sum, _mm256_madd_epi16(_mm256_and_si256(u, _mm256_set1_epi16(0xff)), even));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_srli_epi16(u, 8), odd));
  }
  static int32_t total(Ints x) {
    __m128i y = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    y = _mm_add_epi32(y, _mm_shuffle_epi32(y, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(y, _mm_shuffle_epi32(y, 0xb1)));
  }

  template <int bits>
  static Bytes spread(const uint8_t* p) {
    if constexpr (bits == 1) {
      int32_t word;
      std::memcpy(&word, p, 4);
      const __m256i index = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202,
                                               0x0303030303030303);
      const __m256i bit = _mm256_set1_epi64x(int64_t(0x8040201008040201));
      const __m256i x = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), index), bit);
      return _mm256_and_si256(_mm256_cmpeq_epi8(x, bit), _mm256_set1_epi8(1));
    } else {
      __m256i x = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
      x = _mm256_or_si256(x, _mm256_slli_epi32(x, 12));
      x = _mm256_or_si256(x, _mm256_slli_epi32(x, 6));
      return _mm256_and_si256(x, _mm256_set1_epi8(3));
    }
  }
  static Bytes low_and_high(Bytes low, Bytes high) {
    return _mm256_or_si256(low, _mm256_slli_epi16(high, 2));
  }
  static void transpose(Ints (&x)[8]) {
    __m256i y[8];
    for (int i = 0; i < 8; i += 2) {
      y[i] = _mm256_unpacklo_epi32(x[i], x[i + 1]);
      y[i + 1] = _mm256_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      x[i] = _mm256_unpacklo_epi64(y[i], y[i + 2]);
      x[i + 1] = _mm256_unpackhi_epi64(y[i], y[i + 2]);
      x[i + 2] = _mm256_unpacklo_epi64(y[i + 1], y[i + 3]);
      x[i + 3] = _mm256_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
      y[i] = _mm256_permute2x128_si256(x[i], x[i + 4], 0x20);
      y[i + 4] = _mm256_permute2x128_si256(x[i], x[i + 4], 0x31);
    }
    for (int i = 0; i < 8; ++i) x[i] = y[i];
  }

  static Floats load_floats(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Floats x) { _mm256_storeu_ps(p, x); }
  static Floats broadcast(float x) { return _mm256_set1_ps(x); }
  static Floats add(Floats x, Floats y) { return _mm256_add_ps(x, y); }
  static Floats subtract(Floats x, Floats y) { return _mm256_sub_ps(x, y); }
  static Floats multiply(Floats x, Floats y) { return _mm256_mul_ps(x, y); }
  static Floats multiply_add(Floats x, Floats y, Floats z) { return _mm256_fmadd_ps(x, y, z); }
  static float total(Floats x) {
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
  }
  static Floats to_floats(Ints x) { return _mm256_cvtepi32_ps(x); }
  static Ints add_shifted(Ints x, Ints y, int shift) {
    return _mm256_add_epi32(x, _mm256_srai_epi32(y, shift));
  }
  static Ints add_digit(Ints x, Ints y) { return _mm256_add_epi32(x, _mm256_slli_epi32(y, 8)); }
  template <size_t count>
  static Floats share_lanes(const float* p) {
    if constexpr (count == 1) return broadcast(*p);
    return _mm256_setr_m128(_mm_set1_ps(p[0]), _mm_set1_ps(p[1]));
  }
  static Floats signed_by(Floats x, const uint8_t* signs, size_t first) {
    const __m256i shifts = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
    const __m256i bits = _mm256_sllv_epi32(_mm256_set1_epi32(signs[first / 8]), shifts);
    const __m256 sign = _mm256_and_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(-0.0f));
    return _mm256_xor_ps(x, sign);
  }
  static Floats butterflies(Floats x) {
    __m256 y = _mm256_permute_ps(x, 0xb1);
    x = _mm256_blend_ps(_mm256_add_ps(x, y), _mm256_sub_ps(y, x), 0xaa);
    y = _mm256_permute_ps(x, 0x4e);
    x = _mm256_blend_ps(_mm256_add_ps(x, y), _mm256_sub_ps(y, x), 0xcc);
    y = _mm256_permute2f128_ps(x, x, 1);
    return _mm256_blend_ps(_mm256_add_ps(x, y), _mm256_sub_ps(y, x), 0xf0);
  }
  static Floats from_halves(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void store_halves(uint16_t* p, Floats x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }

  static constexpr size_t kShorts = 16;
  using Shorts = __m256i;
  using Mask = uint32_t;
  static constexpr int kMaskBits = 2;

  static Shorts load_shorts(const int16_t* p) { return load_ints(p); }
  static void store(int16_t* p, Shorts x) { store(static_cast<void*>(p), x); }
  static Shorts broadcast_short(int16_t x) { return _mm256_set1_epi16(x); }
  static Shorts add_clamped(Shorts x, Shorts y) { return _mm256_adds_epi16(x, y); }
  static Shorts subtract_clamped(Shorts x, Shorts y) { return _mm256_subs_epi16(x, y); }
  static Shorts square(Shorts x) { return _mm256_mulhi_epi16(x, x); }
  static Shorts lesser(Shorts x, Shorts y) { return _mm256_min_epi16(x, y); }
  static int16_t least_lane(Shorts x) {
    // One instruction finds the least of eight, unsigned.
    const __m128i y = _mm_min_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    const __m128i turned = _mm_xor_si128(y, _mm_set1_epi16(INT16_MIN));
    return int16_t(_mm_cvtsi128_si32(_mm_minpos_epu16(turned)) ^ INT16_MIN);
  }
  static Mask is_less(Shorts x, Shorts y) {
    return Mask(_mm256_movemask_epi8(_mm256_cmpgt_epi16(y, x)));
  }
  template <int bits>
  static Shorts repeat(Shorts x, size_t part) {
    constexpr int kCount = 16 >> bits;  // lanes that are wanted, within one half
    const __m256i half = part * kCount < 8 ? _mm256_permute2x128_si256(x, x, 0x00)
                                           : _mm256_permute2x128_si256(x, x, 0x11);
    alignas(32) static constexpr auto kIndex = repeated_bytes<bits>();
    return _mm256_shuffle_epi8(half, load_ints(kIndex.byte[part]));
  }
};

}  // namespace
}  // namespace fqonnx
