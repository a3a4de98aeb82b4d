// Tiles of a trellis code in plain C++.
#pragma once

#include "tile.h"

namespace fqonnx {
namespace {

// Levels of kLanes rows of a tile, a quad of four columns of each, plus kLevelOffset.
template <int bits>
class TileDecoder {
 public:
  explicit TileDecoder(const PackedWeight& weight)
      : levels_(weight.levels), multiplier_(weight.multiplier) {}

  // Rows from part·kLanes on.
  Vector::Bytes decode(const uint8_t* tile, size_t part) const {
    Vector::Bytes x;
    for (size_t i = 0; i < Vector::kBytes; ++i) {
      const size_t code = part * Vector::kBytes + i;
      x.byte[i] = uint8_t(level_of(tile, bits, code, levels_, multiplier_) + kLevelOffset);
    }
    return x;
  }

 private:
  const int8_t* levels_;
  uint32_t multiplier_;
};

}  // namespace
}  // namespace fqonnx
