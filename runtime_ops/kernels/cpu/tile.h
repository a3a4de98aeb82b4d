// Tiles of a trellis code in plain words: a closed stream, its words' bits in order, first ones
// highest. Code 4·row + column of a tile has the level that the 16 bits ending with it choose.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace fqonnx {
namespace {  // compiled once for each instruction set: no copy may stand in for another

inline uint32_t word_of(const uint8_t* tile, size_t index) {
  return uint32_t(tile[2 * index] | tile[2 * index + 1] << 8);
}

inline int8_t level_of(const uint8_t* tile, size_t bits, size_t code, const int8_t* levels,
                       uint32_t multiplier) {
  const size_t end = bits * (code + 1), last = (end - 1) / 16, words = 16 * bits;
  const uint32_t before = word_of(tile, (last + words - 1) % words);
  const uint32_t window = (before << 16 | word_of(tile, last)) >> (16 * (last + 1) - end);
  return levels[(window * multiplier & 0xffff) >> 10];
}

}  // namespace
}  // namespace fqonnx
