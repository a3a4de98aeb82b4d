// Tiles of a trellis code by AVX2: eight rows at once.
#pragma once

#include <immintrin.h>

#include "tile.h"

namespace fqonnx {
namespace {

// Four rows of a tile are 16 codes, `bits` whole words. These lie in the lower half of 16 bytes,
// and the word before them behind. A window is two bytes and the first bits of a third, moved by
// products with a power of two. Windows of columns 0 and 2 of each row are one vector, those of 1
// and 3 another.
template <int bits>
struct WindowBytes {
  uint8_t high[2][32];    // two bytes
  uint8_t low[2][32];     // the third, as the upper one of its word
  uint16_t power[2][16];  // how many bits of it
};

template <int bits>
constexpr WindowBytes<bits> window_bytes() {
  WindowBytes<bits> result{};
  constexpr uint8_t kNone = 0x80;
  const auto place = [](int byte) { return uint8_t(byte < 0 ? 7 - byte : byte ^ 1); };
  for (int odd = 0; odd < 2; ++odd) {
    for (int i = 0; i < 16; ++i) {
      const int row = i % 8 / 2, column = i % 2 * 2 + odd;
      const int first = bits * (4 * row + column + 1) - 16;  // bit, from −15 on
      const int byte = (first + 16) / 8 - 2, shift = (first + 16) % 8;
      result.high[odd][2 * i] = place(byte + 1);
      result.high[odd][2 * i + 1] = place(byte);
      result.low[odd][2 * i] = kNone;
      result.low[odd][2 * i + 1] = shift ? place(byte + 2) : kNone;
      result.power[odd][i] = uint16_t(1 << shift);
    }
  }
  return result;
}

template <int bits>
class EightRows {
 public:
  explicit EightRows(const PackedWeight& weight)
      : multiplier_(_mm256_set1_epi16(int16_t(weight.multiplier))) {
    for (int i = 0; i < 4; ++i) {
      const auto* from = reinterpret_cast<const __m128i*>(weight.levels + 16 * i);
      levels_[i] = _mm256_xor_si256(_mm256_broadcastsi128_si256(_mm_loadu_si128(from)),
                                    _mm256_set1_epi8(char(kLevelOffset)));
    }
  }

  // Levels of the rows from 8·part on, a quad of four columns of each, plus kLevelOffset.
  __m256i decode(const uint8_t* tile, size_t part) const {
    const __m256i words =
        _mm256_set_m128i(four_rows(tile, 2 * part + 1), four_rows(tile, 2 * part));
    const __m256i even = _mm256_srli_epi16(product(words, 0), 10);
    const __m256i odd = _mm256_srli_epi16(product(words, 1), 2);
    const __m256i mask = _mm256_set1_epi16(0x3f00);
    return look_up(_mm256_or_si256(even, _mm256_and_si256(odd, mask)));
  }

 private:
  static __m128i four_rows(const uint8_t* tile, size_t group) {
    constexpr size_t kWords = 16 * bits;
    uint64_t words = 0;
    uint16_t before;
    std::memcpy(&words, tile + 2 * bits * group, 2 * bits);
    std::memcpy(&before, tile + 2 * ((bits * group + kWords - 1) % kWords), 2);
    return _mm_insert_epi16(_mm_cvtsi64_si128(int64_t(words)), before, 4);
  }

  __m256i product(__m256i words, int odd) const {
    alignas(32) static constexpr auto kBytes = window_bytes<bits>();
    const auto load = [](const void* p) {
      return _mm256_load_si256(static_cast<const __m256i*>(p));
    };
    const __m256i power = load(kBytes.power[odd]);
    const __m256i high = _mm256_shuffle_epi8(words, load(kBytes.high[odd]));
    const __m256i low = _mm256_shuffle_epi8(words, load(kBytes.low[odd]));
    const __m256i window =
        _mm256_or_si256(_mm256_mullo_epi16(high, power), _mm256_mulhi_epu16(low, power));
    return _mm256_mullo_epi16(window, multiplier_);
  }

  // Four tables of 16, chosen from by the two upper bits of an index.
  __m256i look_up(__m256i index) const {
    const __m256i bit4 = _mm256_slli_epi16(index, 3), bit5 = _mm256_slli_epi16(index, 2);
    const auto part = [&](int i) { return _mm256_shuffle_epi8(levels_[i], index); };
    return _mm256_blendv_epi8(_mm256_blendv_epi8(part(0), part(1), bit4),
                              _mm256_blendv_epi8(part(2), part(3), bit4), bit5);
  }

  __m256i levels_[4];
  __m256i multiplier_;
};

#ifndef __AVX512F__
template <int bits>
using TileDecoder = EightRows<bits>;
#endif

}  // namespace
}  // namespace fqonnx
