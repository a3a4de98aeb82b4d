// Few rows of activations: codes are unpacked in registers where they lie, once for all rows.
// Included once for each instruction set, behind its Vector.
#pragma once

namespace fqonnx {
namespace {

constexpr size_t kCount = 4;  // rows of codes that share the loads of activations

// Codes of one width, in rows of whole bytes: 3 bits are two of these.
struct Plane {
  const uint8_t* codes;
  size_t row_bytes;
  const int8_t* integers;  // in the order of these codes
};

template <size_t count>
void load_rows(const Plane& plane, size_t start, Vector::Bytes (&packed)[count]) {
  FQONNX_UNROLL
  for (size_t r = 0; r < count; ++r) {
    const uint8_t* from = plane.codes + r * plane.row_bytes + start;
    packed[r] = start + Vector::kBytes <= plane.row_bytes
                    ? Vector::load(from)
                    : Vector::load_first(from, plane.row_bytes - start);
  }
}

// Sums of `count` rows of codes with `digits` digits of activations: (kCount, kDirectRows). With
// one digit there are registers for sums of several fields, which then need no shift: a field that
// stays 2^s too large gives a sum that is.
template <int bits, size_t count, size_t digits>
void add_rows(const Plane& plane, size_t stride, int32_t factor, int32_t* out) {
  constexpr size_t kFields = 8 / bits;
  constexpr size_t kMost = digits > 1 ? 1 : Vector::kInPlace;
  constexpr size_t kInPlace = kFields < kMost ? kFields : kMost;
  Vector::Ints sums[count * digits * kInPlace];
  FQONNX_UNROLL
  for (size_t i = 0; i < count * digits * kInPlace; ++i) sums[i] = Vector::zero();
  for (size_t start = 0; start < plane.row_bytes; start += Vector::kBytes) {
    Vector::Bytes packed[count];
    load_rows(plane, start, packed);
    FQONNX_UNROLL
    for (size_t f = 0; f < kFields; ++f) {
      const int8_t* x = plane.integers + (start * kFields + f * Vector::kBytes);
      Vector::Ints quads[digits];
      FQONNX_UNROLL
      for (size_t d = 0; d < digits; ++d) quads[d] = Vector::load_ints(x + d * stride);
      FQONNX_UNROLL
      for (size_t r = 0; r < count; ++r) {
        const size_t place = f % kInPlace;
        const auto field = Vector::template field<bits>(packed[r], int(f - place), int(place));
        FQONNX_UNROLL
        for (size_t d = 0; d < digits; ++d) {
          auto& sum = sums[(r * digits + d) * kInPlace + place];
          sum = Vector::dot(sum, field, quads[d]);
        }
      }
    }
  }
  FQONNX_UNROLL
  for (size_t i = 0; i < count * digits; ++i) {
    auto sum = sums[i * kInPlace];
    FQONNX_UNROLL
    for (size_t place = 1; place < kInPlace; ++place) {
      sum = Vector::add_shifted(sum, sums[i * kInPlace + place], int(place) * bits);
    }
    out[i / digits * Vector::kDirectRows + i % digits] += factor * Vector::total(sum);
  }
}

template <int bits, size_t count>
void add_plane(const Plane& plane, size_t stride, size_t digits, int32_t factor, int32_t* out) {
  for (size_t d = 0; d < digits; d += 4) {
    const Plane part{plane.codes, plane.row_bytes, plane.integers + d * stride};
    switch (digits - d) {
      case 1: add_rows<bits, count, 1>(part, stride, factor, out + d); break;
      case 2: add_rows<bits, count, 2>(part, stride, factor, out + d); break;
      case 3: add_rows<bits, count, 3>(part, stride, factor, out + d); break;
      default: add_rows<bits, count, 4>(part, stride, factor, out + d);
    }
  }
}

// The same for one row of activations whose segments have scales of their own: the codes of a lane
// are of one segment. `scales` holds one number a segment for each row of codes.
template <int bits, size_t count, size_t digits>
void add_segments(const Plane& plane, size_t stride, float factor, const float* scales,
                  size_t scales_stride, Vector::Floats (&totals)[count]) {
  constexpr int kFields = 8 / bits;
  constexpr size_t kChunk = Vector::kBytes * kFields;
  constexpr size_t kShares = kChunk > kSegment ? kChunk / kSegment : 1;
  const auto size = Vector::broadcast(factor);
  Vector::Floats sums[count];  // not the caller's, which other stores might be to
  FQONNX_UNROLL
  for (size_t r = 0; r < count; ++r) sums[r] = totals[r];
  for (size_t start = 0; start < plane.row_bytes; start += Vector::kBytes) {
    Vector::Bytes packed[count];
    load_rows(plane, start, packed);
    FQONNX_UNROLL
    for (size_t r = 0; r < count; ++r) {
      Vector::Ints parts[digits];
      FQONNX_UNROLL
      for (size_t d = 0; d < digits; ++d) parts[d] = Vector::zero();
      FQONNX_UNROLL
      for (int f = 0; f < kFields; ++f) {
        const int8_t* x = plane.integers + (start * kFields + size_t(f) * Vector::kBytes);
        const auto field = Vector::template field<bits>(packed[r], f);
        FQONNX_UNROLL
        for (size_t d = 0; d < digits; ++d) {
          parts[d] = Vector::dot(parts[d], field, Vector::load_ints(x + d * stride));
        }
      }
      FQONNX_UNROLL
      for (size_t d = digits - 1; d > 0; --d) {
        parts[d - 1] = Vector::add_digit(parts[d - 1], parts[d]);
      }
      const float* at = scales + r * scales_stride + start * kFields / kSegment;
      const auto scale = Vector::multiply(size, Vector::share_lanes<kShares>(at));
      sums[r] = Vector::multiply_add(Vector::to_floats(parts[0]), scale, sums[r]);
    }
  }
  FQONNX_UNROLL
  for (size_t r = 0; r < count; ++r) totals[r] = sums[r];
}

// Calls add<bits>(plane, factor) for the planes of `count` rows of codes.
template <class Add>
void for_planes(const PackedWeight& weight, const Activations& x, size_t first, size_t count,
                const Add& add) {
  const uint8_t* codes = weight.codes + first * weight.row_bytes();
  using Bits1 = std::integral_constant<int, 1>;
  using Bits2 = std::integral_constant<int, 2>;
  using Bits4 = std::integral_constant<int, 4>;
  const Plane whole{codes, weight.row_bytes(), x.integers};
  if (weight.bits == 1) return add(Bits1(), whole, 1);
  if (weight.bits == 2) return add(Bits2(), whole, 1);
  if (weight.bits == 4) return add(Bits4(), whole, 1);
  thread_local Scratch scratch;
  const size_t row_bytes = weight.row_bytes();
  const size_t low = weight.block_size / 4, high = weight.block_size / 8;
  uint8_t* lows = scratch.get<uint8_t>(count * row_bytes);
  uint8_t* highs = lows + count * row_bytes / 3 * 2;
  uint8_t *to_low = lows, *to_high = highs;
  for (const uint8_t* end = codes + count * row_bytes; codes < end; codes += low + high) {
    if (low == 32) {  // copies of known size are single moves
      std::memcpy(to_low, codes, 32);
      std::memcpy(to_high, codes + 32, 16);
    } else {
      std::memcpy(to_low, codes, low);
      std::memcpy(to_high, codes + low, high);
    }
    to_low += low;
    to_high += high;
  }
  add(Bits2(), Plane{lows, row_bytes / 3 * 2, x.integers}, 1);
  add(Bits1(), Plane{highs, row_bytes / 3, x.integers + x.rows * x.digits * x.stride}, 4);
}

template <size_t count>
void multiply_rows(const PackedWeight& weight, const Activations& x, size_t first, float* y) {
  int32_t sums[kCount * Vector::kDirectRows] = {};
  for_planes(weight, x, first, count, [&](auto bits, const Plane& plane, int32_t factor) {
    add_plane<decltype(bits)::value, count>(plane, x.stride, x.rows * x.digits, factor, sums);
  });
  for (size_t r = 0; r < count; ++r) {
    const double scale = half_to_float(weight.scales[first + r]);
    const double offset = weight.offset(first + r, 0);
    for (size_t row = 0; row < x.rows; ++row) {
      double sum = -offset * x.sums[row];
      for (size_t d = 0; d < x.digits; ++d) {
        const int32_t digit = sums[r * Vector::kDirectRows + row * x.digits + d];
        sum += double(digit) * double(size_t(1) << (8 * d));
      }
      y[row * weight.rows + first + r] = float(sum * (x.scales[row] * scale));
    }
  }
}

template <size_t count>
void multiply_segmented_rows(const PackedWeight& weight, const Activations& x, size_t first,
                             float* y) {
  thread_local Scratch scratch;
  const size_t segments = x.segments(), groups = weight.groups();
  const size_t stride = round_up(segments, 16);  // whole vectors, with zeros at the end
  float* scales = scratch.get<float>((count + 2) * stride);
  float *x_sums = scales + count * stride, *offsets = x_sums + stride;
  std::memset(scales, 0, (count + 2) * stride * sizeof(float));
  for (size_t row = 0; row < x.rows; ++row) {
    const float* x_scales = x.scales + row * segments;
    for (size_t s = 0; s < segments; ++s) x_sums[s] = -float(x.sums[row * segments + s]);
    Vector::Floats sums[count];
    for (size_t r = 0; r < count; ++r) {
      const size_t n = first + r;
      float* scale = scales + r * stride;
      const size_t step = weight.group_size ? 1 : 0;  // from the group of a segment to the next
      const uint16_t* halves = weight.scales + n * groups;
      if (step) {
        to_float(halves, groups, scale);
      } else {
        const float one = half_to_float(*halves);
        for (size_t s = 0; s < segments; ++s) scale[s] = one;
      }
      for (size_t s = 0; s < segments; ++s) scale[s] *= x_scales[s];
      if (const uint8_t* zeros = weight.zero_points) {
        zeros += n * groups;
        for (size_t s = 0; s < segments; ++s) offsets[s] = float(zeros[s * step]) * x_sums[s];
      } else {
        const float offset = weight.offset(n, 0);
        for (size_t s = 0; s < segments; ++s) offsets[s] = offset * x_sums[s];
      }
      sums[r] = Vector::broadcast(0);
      for (size_t s = 0; s < stride; s += Vector::kLanes) {
        sums[r] = Vector::multiply_add(Vector::load_floats(scale + s),
                                       Vector::load_floats(offsets + s), sums[r]);
      }
    }
    for_planes(weight, x, first, count, [&](auto bits, Plane plane, int32_t factor) {
      plane.integers += row * x.digits * x.stride;
      const auto add = x.digits == 1 ? add_segments<decltype(bits)::value, count, 1>
                                     : add_segments<decltype(bits)::value, count, 3>;
      add(plane, x.stride, float(factor), scales, stride, sums);
    });
    for (size_t r = 0; r < count; ++r) y[row * weight.rows + first + r] = Vector::total(sums[r]);
  }
}

void multiply_direct(const PackedWeight& weight, const Activations& x, size_t first, size_t last,
                     float* y) {
  if (weight.levels) {
    switch (weight.bits) {
      case 1: return multiply_tiles<1>(weight, x, first, last, y);
      case 2: return multiply_tiles<2>(weight, x, first, last, y);
      case 3: return multiply_tiles<3>(weight, x, first, last, y);
      default: return multiply_tiles<4>(weight, x, first, last, y);
    }
  }
  const bool segmented = x.segment_size != 0;
  const auto several = segmented ? multiply_segmented_rows<kCount> : multiply_rows<kCount>;
  const auto single = segmented ? multiply_segmented_rows<1> : multiply_rows<1>;
  size_t n = first;
  for (; n + kCount <= last; n += kCount) several(weight, x, n, y);
  for (; n < last; ++n) single(weight, x, n, y);
}

}  // namespace
}  // namespace fqonnx
