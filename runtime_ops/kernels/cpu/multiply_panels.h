// Many rows of activations: a matrix product with unpacked panels. It also multiplies by tiles of a
// trellis code, which unpack into quads of columns, where they lie.
// Included once for each instruction set, behind its Vector.
#pragma once

namespace fqonnx {
namespace {

constexpr size_t kPanels = 2;  // multiplied together: they share the loads of activations
constexpr size_t kOutputs = kPanels * Vector::kLanes;

// Codes in kPanels panels; where `wide`, they take all of a byte.
template <bool wide>
struct PanelCodes {
  static constexpr bool kWide = wide;
  const uint8_t* panel;
  size_t stride;

  Vector::Bytes load(size_t p, size_t quad) const {
    return Vector::load(panel + p * stride + quad * Vector::kBytes);
  }
};

template <int bits>
struct TileCodes {
  static constexpr bool kWide = true;
  static constexpr size_t kTileBytes = kTileOutputs * kTileColumns * bits / 8;
  TileDecoder<bits> decoder;
  const uint8_t* tiles;
  size_t part;

  TileCodes(const PackedWeight& weight, size_t row)
      : decoder(weight),
        tiles(weight.tiles_of(row)),
        part(row % kTileOutputs / Vector::kLanes) {}
  Vector::Bytes load(size_t p, size_t quad) const {
    return decoder.decode(tiles + quad * kTileBytes, part + p);
  }
};

// Sums of `rows` digits of activations with kPanels panels over quads of four columns.
template <size_t rows, class Codes>
void multiply_tile(const int8_t* integers, size_t stride, const Codes& codes, size_t first_quad,
                   size_t quads, int32_t* out) {
  Vector::Ints sums[rows * kPanels];
  FQONNX_UNROLL
  for (size_t i = 0; i < rows * kPanels; ++i) sums[i] = Vector::zero();
  for (size_t q = 0; q < quads; ++q) {
    Vector::Bytes bytes[kPanels];
    FQONNX_UNROLL
    for (size_t p = 0; p < kPanels; ++p) bytes[p] = codes.load(p, first_quad + q);
    FQONNX_UNROLL
    for (size_t i = 0; i < rows; ++i) {
      const auto quad = Vector::broadcast4(integers + i * stride + 4 * q);
      FQONNX_UNROLL
      for (size_t p = 0; p < kPanels; ++p) {
        auto& sum = sums[i * kPanels + p];
        sum = Codes::kWide ? Vector::dot_wide(sum, bytes[p], quad)
                           : Vector::dot(sum, bytes[p], quad);
      }
    }
  }
  FQONNX_UNROLL
  for (size_t i = 0; i < rows * kPanels; ++i) Vector::store(out + i * Vector::kLanes, sums[i]);
}

// Adds scale·(Σ digits − offset·Σ integers) of one row, in the precision of Number.
template <class Number, size_t digits>
void add_outputs(const int32_t* sums, Number x_scale, Number x_sum, const float* scales,
                 const float* offsets, size_t count, float* y, bool first) {
  for (size_t n = 0; n < count; ++n) {
    Number sum = Number(sums[n]);
    for (size_t d = 1; d < digits; ++d) {
      sum += Number(sums[d * kOutputs + n]) * Number(size_t(1) << (8 * d));
    }
    const Number value = (sum - Number(offsets[n]) * x_sum) * (x_scale * Number(scales[n]));
    y[n] = first ? float(value) : float(y[n] + value);
  }
}

template <size_t digits, class Codes>
void multiply_segment(const Activations& x, size_t first_row, size_t last_row, size_t segment,
                      size_t fields, const Codes& codes, const float* scales, const float* offsets,
                      size_t count, float* y, size_t y_stride) {
  const size_t start = segment * x.segment_size;
  const size_t end = x.segment_size && start + x.segment_size < x.columns
                         ? start + x.segment_size
                         : x.columns;
  const size_t quads = (round_up(end, 4 * fields) - start) / 4;
  alignas(64) int32_t sums[Vector::kTileRows * kOutputs];
  constexpr size_t kRows = Vector::kTileRows / digits;
  for (size_t row = first_row; row < last_row;) {
    const int8_t* integers = x.integers + row * digits * x.stride + start;
    const size_t rows = tile_rows(last_row - row, kRows);
    constexpr size_t kEight = kRows > 8 ? 8 : 1, kFour = kRows > 4 ? 4 : 1;
    const auto multiply = rows == kRows ? multiply_tile<kRows * digits, Codes>
                          : rows == 8   ? multiply_tile<kEight * digits, Codes>
                          : rows == 4   ? multiply_tile<kFour * digits, Codes>
                          : rows == 2   ? multiply_tile<2 * digits, Codes>
                                        : multiply_tile<digits, Codes>;
    multiply(integers, x.stride, codes, start / 4, quads, sums);
    for (size_t i = 0; i < rows; ++i) {
      const size_t place = (row + i) * x.segments() + segment;
      using Number = std::conditional_t<digits == 1, float, double>;
      add_outputs<Number, digits>(sums + i * digits * kOutputs, x.scales[place],
                                  Number(x.sums[place]), scales, offsets, count,
                                  y + (row + i) * y_stride, segment == 0);
    }
    row += rows;
  }
}

// `count` outputs from n on, whose codes these are.
template <class Codes>
void multiply_outputs(const PackedWeight& weight, const Activations& x, size_t first_row,
                      size_t last_row, size_t n, size_t count, const Codes& codes, float* y) {
  for (size_t s = 0; s < x.segments(); ++s) {
    const size_t group = weight.group_size ? s : 0;
    float scales[kOutputs], offsets[kOutputs];
    for (size_t i = 0; i < count; ++i) {
      scales[i] = scale_of(weight, n + i, group);
      offsets[i] = weight.offset(n + i, group);
    }
    const auto multiply = x.digits == 1 ? multiply_segment<1, Codes> : multiply_segment<3, Codes>;
    multiply(x, first_row, last_row, s, fields(weight), codes, scales, offsets, count, y + n,
             weight.rows);
  }
}

// y[row, first … last) of the rows of activations from first_row to last_row.
void multiply_panels(const PackedWeight& weight, const Activations& x, size_t first_row,
                     size_t last_row, size_t first, size_t last, float* y) {
  thread_local Scratch scratch;
  const size_t panel_stride = panel_columns(weight) * Vector::kLanes;
  uint8_t* panel = scratch.get<uint8_t>(kPanels * panel_stride);
  for (size_t n = first; n < last; n += kOutputs) {
    const size_t count = last - n < kOutputs ? last - n : kOutputs;
    for (size_t p = 0; p < kPanels; ++p) {
      const size_t start = p * Vector::kLanes, rest = count > start ? count - start : 0;
      unpack_panel(weight, n + start, rest < Vector::kLanes ? rest : Vector::kLanes,
                   panel + p * panel_stride);
    }
    if (weight.levels) {
      const PanelCodes<true> codes{panel, panel_stride};
      multiply_outputs(weight, x, first_row, last_row, n, count, codes, y);
    } else {
      const PanelCodes<false> codes{panel, panel_stride};
      multiply_outputs(weight, x, first_row, last_row, n, count, codes, y);
    }
  }
}

template <int bits>
void multiply_tiles(const PackedWeight& weight, const Activations& x, size_t first, size_t last,
                    float* y) {
  for (size_t n = first; n < last; n += kOutputs) {
    const size_t count = last - n < kOutputs ? last - n : kOutputs;
    multiply_outputs(weight, x, 0, x.rows, n, count, TileCodes<bits>(weight, n), y);
  }
}

}  // namespace
}  // namespace fqonnx
