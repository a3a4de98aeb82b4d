// Activations to integers. Included once for each instruction set, behind its Vector.
#pragma once

namespace fqonnx {
namespace {

size_t round_up(size_t size, size_t to) { return (size + to - 1) / to * to; }

// Fields of a byte of codes; unpacked together, the two planes of 3 bits are in plain order, and so
// are tiles.
size_t fields(const PackedWeight& weight) {
  return weight.bits == 3 || weight.levels ? 1 : 8 / weight.bits;
}

// Rows that multiply_panels takes next of those that are left, `most` being what registers hold.
size_t tile_rows(size_t left, size_t most) {
  if (left >= most && !(most == 12 && left == 16)) return most;  // 16 are twice 8
  for (size_t rows = 8; rows > 1; rows /= 2) {
    if (rows < most && left >= rows) return rows;
  }
  return 1;
}

void plan(const PackedWeight& weight, Activations& x) {
  // Tiles of a trellis code are worth unpacking into memory where they would be unpacked again.
  x.direct = weight.levels ? tile_rows(x.rows, Vector::kTileRows / x.digits) == x.rows
                           : x.rows * x.digits <= Vector::kDirectRows;
  x.planes = x.direct && weight.bits == 3 && !weight.levels ? 2 : 1;
  x.stride = round_up(weight.columns, Vector::kBytes * 8);
  // Not a power of two: rows of a tile would meet in the same lines of the cache.
  if (!x.direct) x.stride += 64;
}

// Shifts and masks take one field out of all bytes of a run of codes, so that each result holds
// codes at a distance of `fields`: the integers are put into that order once, which costs less than
// to reorder codes at every row.
template <size_t fields, size_t run>
void arrange_runs(const int8_t* integers, size_t size, int8_t* out) {
  for (size_t start = 0; start + fields * run <= size; start += fields * run) {
    for (size_t f = 0; f < fields; ++f) {
      for (size_t j = 0; j < run; ++j) out[start + f * run + j] = integers[start + j * fields + f];
    }
  }
}

template <size_t run>
void arrange(const int8_t* integers, size_t size, size_t fields, int8_t* out) {
  switch (fields) {
    case 2: return arrange_runs<2, run>(integers, size, out);
    case 4: return arrange_runs<4, run>(integers, size, out);
    default: return arrange_runs<8, run>(integers, size, out);
  }
}

uint32_t largest_magnitude(const float* x, size_t size) {
  uint32_t largest = 0;  // as bits, which order as numbers do, and NaN is above them all
  for (size_t i = 0; i < size; ++i) {
    const uint32_t bits = as_bits(x[i]) & 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

struct Segment {
  float scale;
  double sum;
};

Segment quantize_one_digit(const float* x, size_t size, float scale, float inverse, int8_t* out) {
  int32_t sum = 0;
  for (size_t i = 0; i < size; ++i) {
    const float scaled = x[i] * inverse;
    const int32_t integer = int32_t(scaled + (scaled < 0 ? -0.5f : 0.5f));
    sum += integer;
    out[i] = int8_t(integer);
  }
  return {scale, double(sum)};
}

Segment quantize_three_digits(const float* x, size_t size, float scale, float inverse, int8_t* out,
                              size_t stride) {
  int64_t sum = 0;
  for (size_t i = 0; i < size; ++i) {
    const float scaled = x[i] * inverse;
    const int32_t integer = int32_t(scaled + (scaled < 0 ? -0.5f : 0.5f));
    sum += integer;
    const int32_t rest = (integer + 128) >> 8;
    out[i] = int8_t(integer);
    out[i + stride] = int8_t(rest);
    out[i + 2 * stride] = int8_t((rest + 128) >> 8);
  }
  return {scale, double(sum)};
}

Segment quantize_segment(const float* x, size_t size, const Activations& to, int8_t* out) {
  const float largest = as_float(largest_magnitude(x, size));
  const float limit = to.digits == 1 ? 127.0f : 127.0f * 65536;
  const bool finite = largest < INFINITY;
  if (!finite || largest < limit * 2 * FLT_MIN) {  // nothing, or nothing that could be scaled
    for (size_t d = 0; d < to.digits; ++d) std::memset(out + d * to.stride, 0, size);
    return {finite ? 0.0f : NAN, 0.0};
  }
  const float scale = largest / limit, inverse = limit / largest;
  if (to.digits == 1) return quantize_one_digit(x, size, scale, inverse, out);
  return quantize_three_digits(x, size, scale, inverse, out, to.stride);
}

void quantize(const PackedWeight& weight, const float* x, size_t row, Activations& to) {
  thread_local Scratch scratch;
  const bool in_place = (!to.direct || weight.levels) && fields(weight) == 1;
  const size_t first = row * to.digits * to.stride;
  int8_t* plain = in_place ? to.integers + first : scratch.get<int8_t>(to.digits * to.stride);
  for (size_t d = 0; d < to.digits; ++d) {
    std::memset(plain + d * to.stride + to.columns, 0, to.stride - to.columns);
  }
  const size_t segments = to.segments(), size = to.segment_size ? to.segment_size : to.columns;
  for (size_t s = 0, start = 0; s < segments; ++s, start += size) {
    const size_t rest = to.columns - start;
    const Segment segment =
        quantize_segment(x + start, rest < size ? rest : size, to, plain + start);
    to.scales[row * segments + s] = segment.scale;
    to.sums[row * segments + s] = segment.sum;
  }
  if (in_place) return;
  const auto reorder = to.direct ? arrange<Vector::kBytes> : arrange<4>;
  for (size_t plane = 0; plane < to.planes; ++plane) {
    const size_t count = weight.bits == 3 ? (plane == 0 ? 4 : 8) : fields(weight);
    int8_t* out = to.integers + plane * to.rows * to.digits * to.stride + first;
    for (size_t d = 0; d < to.digits; ++d) {
      reorder(plain + d * to.stride, to.stride, count, out + d * to.stride);
    }
  }
}

}  // namespace
}  // namespace fqonnx
