// Tiles of a trellis code (docs/trellis.md) on their way into tensor cores.
//
// A strip is the tiles of 64 rows of codes. A warp takes four of them side by side: lane 4g + t has
// rows 8g … 8g + 7 of tile t, 32 codes, which are whole words of its stream. Of what is before them
// it needs 16 bits, which the lane 4g − 4 + t has; tiles are closed, so the first has those of the
// last. A row of a tile is four codes, as many as a lane has of a row of a tensor product: what is
// decoded is in its place.
#pragma once

#include "codes.h"

namespace fqonnx::cuda {

constexpr uint32_t kLevels = 64;
constexpr uint32_t kStripRows = 64;
constexpr uint32_t kTileWidth = 4;
constexpr uint32_t kLaneRows = 8;
constexpr uint32_t kUnit = 64;               // columns that a warp takes at once
constexpr uint32_t kUnitTiles = 4;           // of a lane
constexpr uint32_t kUnitQuads = kUnit / 32;  // of activations

__host__ __device__ inline uint32_t strips_of(const Weight& weight) {
  return (weight.rows + kStripRows - 1) / kStripRows;
}
__host__ __device__ inline uint32_t tiles_of_strip(const Weight& weight) {
  return (weight.columns + kTileWidth - 1) / kTileWidth;
}
__host__ __device__ inline uint32_t units_of(const Weight& weight) {
  return (weight.columns + kUnit - 1) / kUnit;
}

__device__ inline const uint8_t* tile_at(const Weight& weight, uint32_t strip, uint32_t tile) {
  const size_t index = size_t(strip) * tiles_of_strip(weight) + tile;
  return weight.codes + index * (kStripRows * kTileWidth / 8) * weight.bits;
}

// The table in shared memory, in 16 bits: 32 words, each in a bank of its own.
template <class Number>
struct Levels {
  const uint16_t* table;
  uint32_t factor;  // the product's lower half becomes the upper one of 32 bits

  // All threads of a block come here, and then to a barrier.
  __device__ Levels(const Weight& weight, uint16_t* memory)
      : table(memory), factor(weight.multiplier << 16) {
    for (uint32_t i = threadIdx.x; i < kLevels; i += blockDim.x) {
      memory[i] = Number::from_float(float(weight.levels[i]));
    }
  }
  // That of the window in the lower half of some bits of the stream.
  __device__ __forceinline__ uint32_t of(uint32_t bits) const { return table[bits * factor >> 26]; }
};

// A lane's words of a unit, as they are stored.
template <uint32_t kBits>
struct UnitWords {
  uint32_t words[kUnitTiles][kBits];

  __device__ __forceinline__ void load(const Weight& weight, uint32_t strip, uint32_t unit) {
    const uint32_t lane = threadIdx.x % kLanes, tiles = tiles_of_strip(weight);
#pragma unroll
    for (uint32_t i = 0; i < kUnitTiles; ++i) {
      const uint32_t tile = (unit * kUnitTiles + i) * 4 + lane % 4;
      const uint8_t* at = tile_at(weight, strip, tile) + lane / 4 * 4 * kBits;
      uint32_t(&to)[kBits] = words[i];
      if constexpr (kBits == 2) {
        const uint2 x = tile < tiles ? load_once(reinterpret_cast<const uint2*>(at)) : uint2{};
        to[0] = x.x, to[1] = x.y;
      } else if constexpr (kBits == 4) {
        const uint4 x = tile < tiles ? load_once(reinterpret_cast<const uint4*>(at)) : uint4{};
        to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
      } else {
#pragma unroll
        for (uint32_t j = 0; j < kBits; ++j) {
          to[j] = tile < tiles ? reinterpret_cast<const uint32_t*>(at)[j] : 0;
        }
      }
    }
  }
};

// A lane's part of the stream of one tile. All lanes of a warp come here.
template <uint32_t kBits>
struct Stream {
  uint32_t words[1 + kBits];  // first bits highest; before them what the first codes still need

  __device__ __forceinline__ explicit Stream(const uint32_t (&stored)[kBits]) {
#pragma unroll
    for (uint32_t i = 0; i < kBits; ++i) words[1 + i] = __funnelshift_r(stored[i], stored[i], 16);
    words[0] = __shfl_sync(0xffffffff, words[kBits], (threadIdx.x + kLanes - 4) % kLanes);
  }

  // Bits that end with code i.
  __device__ __forceinline__ uint32_t until(uint32_t i) const {
    const uint32_t end = kBits * (i + 1), word = (end + 31) / 32;
    return __funnelshift_r(words[word], words[word - 1], 32 * word - end);
  }
  // The levels of codes i and i + 1.
  template <class Number>
  __device__ __forceinline__ uint32_t pair(const Levels<Number>& levels, uint32_t i) const {
    return levels.of(until(i)) | levels.of(until(i + 1)) << 16;
  }
};

// Bits of the stream of a tile that end with a row's last code, for who has but that row.
template <uint32_t kBits>
__device__ inline uint32_t bits_until_row(const uint8_t* tile, uint32_t row) {
  constexpr uint32_t kWords = 16 * kBits;
  const uint32_t end = kTileWidth * kBits * (row + 1), last = (end - 1) / 16;
  const auto* words = reinterpret_cast<const uint16_t*>(tile);
  const uint32_t two = words[last] | uint32_t(words[(last + kWords - 1) % kWords]) << 16;
  return __funnelshift_r(two, words[(last + kWords - 2) % kWords], 16 * (last + 1) - end);
}

}  // namespace fqonnx::cuda
