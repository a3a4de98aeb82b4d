// Tiles of a trellis code by AVX-512: sixteen rows at once.
#pragma once

#include <immintrin.h>

#include "tile_avx2.h"

namespace fqonnx {
namespace {

#ifdef __AVX512VBMI__

// The windows of two rows, 8 codes, lie within four words, which a permutation puts together, the
// last one lowest: to take bytes from any bit of 64 is one instruction. Windows of columns 0 and 2
// of each row are one vector, those of 1 and 3 another.
template <int bits>
struct Windows {
  uint16_t word[4][32];  // of the tile, for each part
  uint8_t bit[2][64];    // of the four words
};

template <int bits>
constexpr Windows<bits> windows() {
  Windows<bits> result{};
  constexpr int kWords = 16 * bits;
  for (int pair = 0; pair < 8; ++pair) {
    const int last = (bits * 8 * (pair + 1) - 1) / 16;
    for (int i = 0; i < 4; ++i) {
      for (int part = 0; part < 4; ++part) {
        result.word[part][4 * pair + i] = uint16_t((4 * bits * part + last - i + kWords) % kWords);
      }
      for (int odd = 0; odd < 2; ++odd) {
        const int code = 8 * pair + 4 * (i / 2) + i % 2 * 2 + odd;
        const int bit = 16 * (last + 1) - bits * (code + 1);
        result.bit[odd][8 * pair + 2 * i] = uint8_t(bit);
        result.bit[odd][8 * pair + 2 * i + 1] = uint8_t(bit + 8);
      }
    }
  }
  return result;
}

template <int bits>
class TileDecoder {
 public:
  explicit TileDecoder(const PackedWeight& weight)
      : levels_(_mm512_xor_si512(_mm512_loadu_si512(weight.levels),
                                 _mm512_set1_epi8(char(kLevelOffset)))),
        multiplier_(_mm512_set1_epi16(int16_t(weight.multiplier))),
        quarter_(_mm512_set1_epi16(int16_t(weight.multiplier / 4))),
        is_quarter_whole_(weight.multiplier % 4 == 0) {}

  // Levels of the rows from 16·part on, a quad of four columns of each, plus kLevelOffset.
  __m512i decode(const uint8_t* tile, size_t part) const {
    alignas(64) static constexpr auto kWindows = windows<bits>();
    const __m512i words = take(tile, _mm512_load_si512(kWindows.word[part]));
    const auto product = [&](int odd, __m512i multiplier) {
      const __m512i bit = _mm512_load_si512(kWindows.bit[odd]);
      return _mm512_mullo_epi16(_mm512_multishift_epi64_epi8(bit, words), multiplier);
    };
    // Only the lower six bits of a byte are looked up.
    const __m512i even = _mm512_srli_epi16(product(0, multiplier_), 10);
    const __m512i odd = is_quarter_whole_ ? product(1, quarter_)
                                          : _mm512_srli_epi16(product(1, multiplier_), 2);
    const __m512i index = _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaa, even, odd);
    return _mm512_permutexvar_epi8(index, levels_);
  }

 private:
  static __m512i take(const uint8_t* tile, __m512i index) {
    if constexpr (bits == 1) {
      const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile));
      return _mm512_permutexvar_epi16(index, _mm512_castsi256_si512(x));
    }
    const __m512i x = _mm512_loadu_si512(tile);
    if constexpr (bits == 2) return _mm512_permutexvar_epi16(index, x);
    const __m512i y = _mm512_maskz_loadu_epi64(bits == 3 ? 0x0f : 0xff, tile + 64);
    return _mm512_permutex2var_epi16(x, index, y);
  }

  __m512i levels_;
  __m512i multiplier_, quarter_;
  bool is_quarter_whole_;  // as it is for windows of 14 bits and less: saves a shift
};

#else

template <int bits>
class TileDecoder {
 public:
  explicit TileDecoder(const PackedWeight& weight) : rows_(weight) {}

  __m512i decode(const uint8_t* tile, size_t part) const {
    const __m512i first = _mm512_castsi256_si512(rows_.decode(tile, 2 * part));
    return _mm512_inserti64x4(first, rows_.decode(tile, 2 * part + 1), 1);
  }

 private:
  EightRows<bits> rows_;
};

#endif

}  // namespace
}  // namespace fqonnx
