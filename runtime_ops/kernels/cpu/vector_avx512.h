// A vector of 64 bytes: AVX-512 F, BW, DQ, VL and VNNI.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "half.h"

namespace fqonnx {
namespace {

// Lane i of part p is (32·p + i)/2^bits.
template <int bits>
struct Repeated {
  int16_t lane[32 << bits];
};
template <int bits>
constexpr Repeated<bits> repeated_indices() {
  Repeated<bits> index{};
  for (int i = 0; i < 32 << bits; ++i) index.lane[i] = int16_t(i >> bits);
  return index;
}

struct Vector {
  static constexpr size_t kBytes = 64;
  static constexpr size_t kLanes = 16;
  static constexpr size_t kTileRows = 12;
  static constexpr size_t kDirectRows = 8;
  static constexpr size_t kInPlace = 4;  // fields that `dot` takes without a shift

  using Bytes = __m512i;
  using Ints = __m512i;
  using Floats = __m512;

  static Bytes load(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static Bytes load_first(const uint8_t* p, size_t count) {
    return _mm512_maskz_loadu_epi8(count < 64 ? (uint64_t(1) << count) - 1 : ~uint64_t(0), p);
  }
  // Field index + place of each byte, which stays 2^(place·bits) too large.
  template <int bits>
  static Bytes field(Bytes x, int index, int place = 0) {
    x = index ? _mm512_srli_epi16(x, unsigned(index * bits)) : x;
    return _mm512_and_si512(x, _mm512_set1_epi8(char(((1 << bits) - 1) << (place * bits))));
  }

  static Ints zero() { return _mm512_setzero_si512(); }
  static Ints load_ints(const void* p) { return _mm512_loadu_si512(p); }
  static void store(void* p, Ints x) { _mm512_storeu_si512(p, x); }
  static Bytes bytes(Ints x) { return x; }
  static Ints ints(Bytes x) { return x; }
  static Ints broadcast4(const int8_t* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return _mm512_set1_epi32(x);
  }
  static Ints dot(Ints sum, Bytes u, Ints s) { return _mm512_dpbusd_epi32(sum, u, s); }
  static Ints dot_wide(Ints sum, Bytes u, Ints s) { return dot(sum, u, s); }
  static int32_t total(Ints x) { return _mm512_reduce_add_epi32(x); }

  template <int bits>
  static Bytes spread(const uint8_t* p) {
    if constexpr (bits == 1) {
      uint64_t mask;
      std::memcpy(&mask, p, 8);
      return _mm512_maskz_set1_epi8(mask, 1);
    } else {
      __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
      x = _mm512_or_si512(x, _mm512_slli_epi32(x, 12));
      x = _mm512_or_si512(x, _mm512_slli_epi32(x, 6));
      return _mm512_and_si512(x, _mm512_set1_epi8(3));
    }
  }
  static Bytes low_and_high(Bytes low, Bytes high) {
    return _mm512_or_si512(low, _mm512_slli_epi16(high, 2));
  }
  static void transpose(Ints (&x)[16]) {
    __m512i y[16];
    for (int i = 0; i < 16; i += 2) {
      y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
      y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
      x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
      x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
      x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
      x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
      const __m512i a = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
      const __m512i b = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xdd);
      const __m512i c = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
      const __m512i d = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xdd);
      y[i] = _mm512_shuffle_i32x4(a, c, 0x88);
      y[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
      y[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
      y[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
    for (int i = 0; i < 16; ++i) x[i] = y[i];
  }

  static Floats load_floats(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
  static Floats broadcast(float x) { return _mm512_set1_ps(x); }
  static Floats add(Floats x, Floats y) { return _mm512_add_ps(x, y); }
  static Floats subtract(Floats x, Floats y) { return _mm512_sub_ps(x, y); }
  static Floats multiply(Floats x, Floats y) { return _mm512_mul_ps(x, y); }
  static Floats multiply_add(Floats x, Floats y, Floats z) { return _mm512_fmadd_ps(x, y, z); }
  static float total(Floats x) { return _mm512_reduce_add_ps(x); }
  static Floats to_floats(Ints x) { return _mm512_cvtepi32_ps(x); }
  static Ints add_shifted(Ints x, Ints y, int shift) {
    return _mm512_add_epi32(x, _mm512_srai_epi32(y, unsigned(shift)));
  }
  static Ints add_digit(Ints x, Ints y) { return _mm512_add_epi32(x, _mm512_slli_epi32(y, 8)); }
  template <size_t count>
  static Floats share_lanes(const float* p) {
    if constexpr (count == 1) return broadcast(*p);
    if constexpr (count == 2) {
      return _mm512_mask_broadcastss_ps(broadcast(p[0]), 0xff00, _mm_set_ss(p[1]));
    }
    const __m512i index = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_ps(index, _mm512_castps128_ps512(_mm_loadu_ps(p)));
  }
  static Floats signed_by(Floats x, const uint8_t* signs, size_t first) {
    uint16_t mask;
    std::memcpy(&mask, signs + first / 8, 2);
    return _mm512_mask_xor_ps(x, mask, x, _mm512_set1_ps(-0.0f));
  }
  static Floats butterflies(Floats x) {
    x = _mm512_mask_sub_ps(_mm512_add_ps(x, _mm512_permute_ps(x, 0xb1)), 0xaaaa,
                           _mm512_permute_ps(x, 0xb1), x);
    x = _mm512_mask_sub_ps(_mm512_add_ps(x, _mm512_permute_ps(x, 0x4e)), 0xcccc,
                           _mm512_permute_ps(x, 0x4e), x);
    __m512 y = _mm512_shuffle_f32x4(x, x, 0xb1);
    x = _mm512_mask_sub_ps(_mm512_add_ps(x, y), 0xf0f0, y, x);
    y = _mm512_shuffle_f32x4(x, x, 0x4e);
    return _mm512_mask_sub_ps(_mm512_add_ps(x, y), 0xff00, y, x);
  }
  static Floats from_halves(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void store_halves(uint16_t* p, Floats x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }

  static constexpr size_t kShorts = 32;
  using Shorts = __m512i;
  using Mask = uint32_t;
  static constexpr int kMaskBits = 1;

  static Shorts load_shorts(const int16_t* p) { return _mm512_loadu_si512(p); }
  static void store(int16_t* p, Shorts x) { _mm512_storeu_si512(p, x); }
  static Shorts broadcast_short(int16_t x) { return _mm512_set1_epi16(x); }
  static Shorts add_clamped(Shorts x, Shorts y) { return _mm512_adds_epi16(x, y); }
  static Shorts subtract_clamped(Shorts x, Shorts y) { return _mm512_subs_epi16(x, y); }
  static Shorts square(Shorts x) { return _mm512_mulhi_epi16(x, x); }
  static Shorts lesser(Shorts x, Shorts y) { return _mm512_min_epi16(x, y); }
  static int16_t least_lane(Shorts x) {
    const __m256i y = _mm256_min_epi16(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
    // One instruction finds the least of eight, unsigned.
    const __m128i z = _mm_min_epi16(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
    const __m128i turned = _mm_xor_si128(z, _mm_set1_epi16(INT16_MIN));
    return int16_t(_mm_cvtsi128_si32(_mm_minpos_epu16(turned)) ^ INT16_MIN);
  }
  static Mask is_less(Shorts x, Shorts y) { return _mm512_cmplt_epi16_mask(x, y); }
  template <int bits>
  static Shorts repeat(Shorts x, size_t part) {
    alignas(64) static constexpr auto kIndex = repeated_indices<bits>();
    return _mm512_permutexvar_epi16(_mm512_load_si512(kIndex.lane + 32 * part), x);
  }
};

}  // namespace
}  // namespace fqonnx
