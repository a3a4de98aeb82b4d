// Codes to bytes: a panel holds the codes of kLanes rows, four columns of each row in turn, so that
// a row of activations meets all of them without a sum across lanes.
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

// Codes `first` … of a row, a vector of them; zeros behind the end of the row.
template <int bits>
Vector::Bytes code_vector(const PackedWeight& weight, size_t row, size_t first) {
  const uint8_t* codes = weight.codes + row * weight.row_bytes();
  const size_t length = round_up(weight.columns, weight.block_size);
  if (first + Vector::kBytes <= length) {
    if constexpr (bits == 3) {
      if (weight.block_size >= Vector::kBytes) {
        const size_t within = first % weight.block_size;
        const uint8_t* block = codes + first / weight.block_size * (weight.block_size * 3 / 8);
        const auto low = Vector::spread<2>(block + within / 4);
        const auto high = Vector::spread<1>(block + weight.block_size / 4 + within / 8);
        return Vector::low_and_high(low, high);
      }
    } else {
      return Vector::spread<bits>(codes + first * bits / 8);
    }
  }
  alignas(64) uint8_t buffer[Vector::kBytes] = {};
  if (first < length) {
    const size_t rest = length - first;
    unpack_codes(weight, row, first, rest < Vector::kBytes ? rest : Vector::kBytes, buffer);
  }
  return Vector::load(buffer);
}

template <int bits>
void unpack_panel_bits(const PackedWeight& weight, size_t row, size_t count, uint8_t* panel) {
  for (size_t first = 0; first < weight.columns; first += Vector::kBytes) {
    Vector::Ints rows[Vector::kLanes];
    FQONNX_UNROLL
    for (size_t i = 0; i < Vector::kLanes; ++i) {
      rows[i] = i < count ? Vector::ints(code_vector<bits>(weight, row + i, first))
                          : Vector::zero();
    }
    Vector::transpose(rows);
    FQONNX_UNROLL
    for (size_t i = 0; i < Vector::kLanes; ++i) Vector::store(panel + i * Vector::kBytes, rows[i]);
    panel += Vector::kLanes * Vector::kBytes;
  }
}

// Rows from `row` on, `count` of them and zeros up to kLanes:
// (columns/4, kLanes, 4) bytes, the columns rounded up to kBytes.
void unpack_panel(const PackedWeight& weight, size_t row, size_t count, uint8_t* panel) {
  switch (weight.bits) {
    case 1: return unpack_panel_bits<1>(weight, row, count, panel);
    case 2: return unpack_panel_bits<2>(weight, row, count, panel);
    case 3: return unpack_panel_bits<3>(weight, row, count, panel);
    default: return unpack_panel_bits<4>(weight, row, count, panel);
  }
}

void dequantize_row(const PackedWeight& weight, size_t row, float* out) {
  const size_t groups = weight.groups();
  const size_t size = weight.group_size ? weight.group_size : weight.columns;
  for (size_t g = 0; g < groups; ++g) {
    const float scale = half_to_float(weight.scales[row * groups + g]);
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
