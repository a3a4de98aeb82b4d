// Codes to bytes: a panel holds the codes of kLanes rows, a quad of four columns of each in turn,
// so that a row of activations meets all of them without a sum across lanes.
// Included once for each instruction set, behind its Vector.
#pragma once

namespace fqonnx {
namespace {

// Fields of `bits` bits, lowest first, one after the other.
void unpack_plane(const uint8_t* bytes, size_t bits, size_t size, size_t shift, uint8_t* out) {
  for (size_t i = 0; i < size; ++i) {
    const unsigned field = bytes[i * bits / 8] >> (i * bits % 8) & ((1u << bits) - 1);
    out[i] = uint8_t(out[i] | field << shift);
  }
}

// Codes `first` … of a row, `size` of them, where no faster way is at hand.
void unpack_codes(const PackedWeight& weight, size_t row, size_t first, size_t size, uint8_t* out) {
  const size_t block_bytes = weight.block_size * weight.bits / 8;
  const uint8_t* codes = weight.codes + row * weight.row_bytes();
  std::memset(out, 0, size);
  while (size > 0) {
    const size_t within = first % weight.block_size;
    const uint8_t* block = codes + first / weight.block_size * block_bytes;
    const size_t count = size < weight.block_size - within ? size : weight.block_size - within;
    if (weight.bits == 3) {
      unpack_plane(block + within / 4, 2, count, 0, out);
      unpack_plane(block + weight.block_size / 4 + within / 8, 1, count, 2, out);
    } else {
      unpack_plane(block + within * weight.bits / 8, weight.bits, count, 0, out);
    }
    first += count;
    out += count;
    size -= count;
  }
}

// Codes `first` … of a row of 3 bits, a vector of them; zeros behind the end of the row.
Vector::Bytes three_bit_codes(const PackedWeight& weight, size_t row, size_t first) {
  const size_t length = round_up(weight.columns, weight.block_size);
  if (first + Vector::kBytes <= length && weight.block_size >= Vector::kBytes) {
    const size_t within = first % weight.block_size;
    const uint8_t* block = weight.codes + row * weight.row_bytes() +
                           first / weight.block_size * (weight.block_size * 3 / 8);
    const auto low = Vector::spread<2>(block + within / 4);
    const auto high = Vector::spread<1>(block + weight.block_size / 4 + within / 8);
    return Vector::low_and_high(low, high);
  }
  alignas(64) uint8_t buffer[Vector::kBytes] = {};
  if (first < length) {
    const size_t rest = length - first;
    unpack_codes(weight, row, first, rest < Vector::kBytes ? rest : Vector::kBytes, buffer);
  }
  return Vector::load(buffer);
}

void unpack_three_bits(const PackedWeight& weight, size_t row, size_t count, uint8_t* panel) {
  for (size_t first = 0; first < weight.columns; first += Vector::kBytes) {
    Vector::Ints rows[Vector::kLanes];
    FQONNX_UNROLL
    for (size_t i = 0; i < Vector::kLanes; ++i) {
      rows[i] =
          i < count ? Vector::ints(three_bit_codes(weight, row + i, first)) : Vector::zero();
    }
    Vector::transpose(rows);
    FQONNX_UNROLL
    for (size_t i = 0; i < Vector::kLanes; ++i) Vector::store(panel + i * Vector::kBytes, rows[i]);
    panel += Vector::kLanes * Vector::kBytes;
  }
}

// Four bytes of each row are transposed while they are packed, and then give one quad a field.
template <int bits>
void unpack_bits(const PackedWeight& weight, size_t row, size_t count, uint8_t* panel) {
  constexpr size_t kFields = 8 / bits;
  const size_t row_bytes = weight.row_bytes();
  const uint8_t* codes = weight.codes + row * row_bytes;
  for (size_t first = 0; first < row_bytes; first += Vector::kBytes) {
    const size_t rest = row_bytes - first;
    Vector::Ints rows[Vector::kLanes];
    FQONNX_UNROLL
    for (size_t i = 0; i < Vector::kLanes; ++i) {
      const uint8_t* from = codes + i * row_bytes + first;
      rows[i] = i >= count               ? Vector::zero()
                : rest >= Vector::kBytes ? Vector::ints(Vector::load(from))
                                         : Vector::ints(Vector::load_first(from, rest));
    }
    Vector::transpose(rows);
    FQONNX_UNROLL
    for (size_t i = 0; i < Vector::kLanes; ++i) {
      FQONNX_UNROLL
      for (size_t f = 0; f < kFields; ++f) {
        const auto field = Vector::field<bits>(Vector::bytes(rows[i]), int(f));
        Vector::store(panel, Vector::ints(field));
        panel += Vector::kBytes;
      }
    }
  }
}

template <int bits>
void unpack_tiles(const PackedWeight& weight, size_t row, uint8_t* panel) {
  const TileDecoder<bits> decoder(weight);
  const uint8_t* tiles = weight.tiles_of(row);
  const size_t part = row % kTileOutputs / Vector::kLanes;
  for (size_t t = 0; t < weight.tiles(); ++t) {
    const auto quads = decoder.decode(tiles + t * weight.tile_bytes(), part);
    Vector::store(panel + t * Vector::kBytes, Vector::ints(quads));
  }
}

// Columns of a panel: a whole number of vectors of packed bytes.
size_t panel_columns(const PackedWeight& weight) {
  return round_up(weight.columns, Vector::kBytes * fields(weight));
}

// Rows from `row` on, `count` of them and anything up to kLanes: (panel_columns/4, kLanes, 4).
void unpack_panel(const PackedWeight& weight, size_t row, size_t count, uint8_t* panel) {
  if (weight.levels) {
    switch (weight.bits) {
      case 1: return unpack_tiles<1>(weight, row, panel);
      case 2: return unpack_tiles<2>(weight, row, panel);
      case 3: return unpack_tiles<3>(weight, row, panel);
      default: return unpack_tiles<4>(weight, row, panel);
    }
  }
  switch (weight.bits) {
    case 1: return unpack_bits<1>(weight, row, count, panel);
    case 2: return unpack_bits<2>(weight, row, count, panel);
    case 3: return unpack_three_bits(weight, row, count, panel);
    default: return unpack_bits<4>(weight, row, count, panel);
  }
}

float scale_of(const PackedWeight& weight, size_t row, size_t group) {
  const float scale = half_to_float(weight.scales[row * weight.groups() + group]);
  return weight.levels ? scale * kLevelUnit : scale;
}

void dequantize_tiles(const PackedWeight& weight, size_t row, float* out) {
  const uint8_t* tiles = weight.tiles_of(row);
  const float scale = scale_of(weight, row, 0);
  for (size_t i = 0; i < weight.columns; ++i) {
    const uint8_t* tile = tiles + i / kTileColumns * weight.tile_bytes();
    const size_t code = row % kTileOutputs * kTileColumns + i % kTileColumns;
    out[i] = scale * level_of(tile, weight.bits, code, weight.levels, weight.multiplier);
  }
}

void dequantize_row(const PackedWeight& weight, size_t row, float* out) {
  if (weight.levels) return dequantize_tiles(weight, row, out);
  const size_t groups = weight.groups();
  const size_t size = weight.group_size ? weight.group_size : weight.columns;
  for (size_t g = 0; g < groups; ++g) {
    const float scale = scale_of(weight, row, g);
    const float offset = weight.offset(row, g);
    const size_t end = (g + 1) * size < weight.columns ? (g + 1) * size : weight.columns;
    for (size_t first = g * size; first < end;) {
      uint8_t codes[128];
      const size_t count = end - first < sizeof codes ? end - first : sizeof codes;
      unpack_codes(weight, row, first, count, codes);
      for (size_t i = 0; i < count; ++i) out[first + i] = (float(codes[i]) - offset) * scale;
      first += count;
    }
  }
}

}  // namespace
}  // namespace fqonnx
