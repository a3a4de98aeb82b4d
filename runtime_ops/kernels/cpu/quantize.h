// Activations to integers. Included once for each instruction set, behind its Vector.
#pragma once

namespace fqonnx {
namespace {

size_t round_up(size_t size, size_t to) { return (size + to - 1) / to * to; }

// Codes that a vector of packed bytes holds.
size_t direct_chunk(const PackedWeight& weight) { return Vector::kBytes * 8 / weight.bits; }

size_t fields_stride(const PackedWeight& weight) {
  return round_up(weight.columns, direct_chunk(weight));
}

// A vector of packed bytes holds the codes of one field of each byte at a distance of 8/bits: the
// integers are put into that order once, which costs less than to reorder codes at every row.
template <class Word>  // of 8/bits bytes
void arrange_fields(const int8_t* integers, size_t size, int8_t* fields) {
  constexpr size_t kFields = sizeof(Word), kChunk = Vector::kBytes * kFields;
  for (size_t start = 0; start < size; start += kChunk) {
    Word words[Vector::kBytes];
    std::memcpy(words, integers + start, sizeof words);
    for (size_t f = 0; f < kFields; ++f) {
      for (size_t j = 0; j < Vector::kBytes; ++j) *fields++ = int8_t(words[j] >> (8 * f));
    }
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
  int8_t* out = to.integers + row * to.digits * to.stride;
  for (size_t d = 0; d < to.digits; ++d) {
    std::memset(out + d * to.stride + to.columns, 0, to.stride - to.columns);
  }
  const size_t segments = to.segments(), size = to.segment_size ? to.segment_size : to.columns;
  for (size_t s = 0, start = 0; s < segments; ++s, start += size) {
    const size_t count = to.columns - start < size ? to.columns - start : size;
    const Segment segment = quantize_segment(x + start, count, to, out + start);
    to.scales[row * segments + s] = segment.scale;
    to.sums[row * segments + s] = segment.sum;
  }
  if (to.fields == nullptr) return;
  for (size_t d = 0; d < to.digits; ++d) {
    const int8_t* digit = out + d * to.stride;
    int8_t* fields = to.fields + (row * to.digits + d) * to.fields_stride;
    if (weight.bits == 1) arrange_fields<uint64_t>(digit, to.fields_stride, fields);
    if (weight.bits == 2) arrange_fields<uint32_t>(digit, to.fields_stride, fields);
    if (weight.bits == 4) arrange_fields<uint16_t>(digit, to.fields_stride, fields);
  }
}

}  // namespace
}  // namespace fqonnx
