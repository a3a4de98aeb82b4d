// Few rows of activations: codes are unpacked in registers where they lie, once for all rows.
// Included once for each instruction set, behind its Vector.
#pragma once

namespace fqonnx {
namespace {

// Sums of `count` rows of codes with `digits` digits of activations: (count, kDirectRows).
template <int bits, size_t count, size_t digits>
void multiply_rows(const uint8_t* codes, size_t row_bytes, const int8_t* integers, size_t stride,
                   int32_t* out) {
  constexpr int kFields = 8 / bits;
  Vector::Ints sums[count * digits];
  FQONNX_UNROLL
  for (size_t i = 0; i < count * digits; ++i) sums[i] = Vector::zero();
  for (size_t i = 0; i < row_bytes; i += Vector::kBytes) {
    Vector::Bytes packed[count];
    FQONNX_UNROLL
    for (size_t r = 0; r < count; ++r) {
      const uint8_t* from = codes + r * row_bytes + i;
      packed[r] = i + Vector::kBytes <= row_bytes ? Vector::load(from)
                                                  : Vector::load_first(from, row_bytes - i);
    }
    FQONNX_UNROLL
    for (int f = 0; f < kFields; ++f) {
      const int8_t* x = integers + (i * kFields + size_t(f) * Vector::kBytes);
      Vector::Ints quads[digits];
      FQONNX_UNROLL
      for (size_t d = 0; d < digits; ++d) quads[d] = Vector::load_ints(x + d * stride);
      FQONNX_UNROLL
      for (size_t r = 0; r < count; ++r) {
        const auto field = Vector::template field<bits>(packed[r], f);
        FQONNX_UNROLL
        for (size_t d = 0; d < digits; ++d) {
          sums[r * digits + d] = Vector::dot(sums[r * digits + d], field, quads[d]);
        }
      }
    }
  }
  FQONNX_UNROLL
  for (size_t i = 0; i < count * digits; ++i) {
    out[i / digits * Vector::kDirectRows + i % digits] = Vector::total(sums[i]);
  }
}

template <int bits, size_t count>
void multiply_digits(const uint8_t* codes, size_t row_bytes, const int8_t* integers, size_t stride,
                     size_t digits, int32_t* out) {
  for (size_t d = 0; d < digits;) {
    const int8_t* from = integers + d * stride;
    const size_t rest = digits - d, step = rest < 4 ? rest : 4;
    if (step == 1) multiply_rows<bits, count, 1>(codes, row_bytes, from, stride, out + d);
    if (step == 2) multiply_rows<bits, count, 2>(codes, row_bytes, from, stride, out + d);
    if (step == 3) multiply_rows<bits, count, 3>(codes, row_bytes, from, stride, out + d);
    if (step == 4) multiply_rows<bits, count, 4>(codes, row_bytes, from, stride, out + d);
    d += step;
  }
}

template <int bits>
void multiply_direct_bits(const PackedWeight& weight, const Activations& x, size_t first,
                          size_t last, float* y, size_t y_stride) {
  constexpr size_t kCount = 4;  // rows of codes that share the loads of activations
  const size_t row_bytes = weight.row_bytes(), digits = x.rows * x.digits;
  for (size_t n = first; n < last;) {
    int32_t sums[kCount * Vector::kDirectRows];
    const uint8_t* codes = weight.codes + n * row_bytes;
    size_t count = 1;
    if (last - n >= kCount) {
      count = kCount;
      multiply_digits<bits, kCount>(codes, row_bytes, x.integers, x.stride, digits, sums);
    } else {
      multiply_digits<bits, 1>(codes, row_bytes, x.integers, x.stride, digits, sums);
    }
    for (size_t r = 0; r < count; ++r) {
      const double scale = half_to_float(weight.scales[n + r]);
      const double offset = weight.offset(n + r, 0);
      for (size_t row = 0; row < x.rows; ++row) {
        double sum = -offset * x.sums[row];
        for (size_t d = 0; d < x.digits; ++d) {
          sum += double(sums[r * Vector::kDirectRows + row * x.digits + d]) * double(size_t(1) << (8 * d));
        }
        y[row * y_stride + n + r] = float(sum * (x.scales[row] * scale));
      }
    }
    n += count;
  }
}

void multiply_direct(const PackedWeight& weight, const Activations& x, size_t first, size_t last,
                     float* y, size_t y_stride) {
  switch (weight.bits) {
    case 1: return multiply_direct_bits<1>(weight, x, first, last, y, y_stride);
    case 2: return multiply_direct_bits<2>(weight, x, first, last, y, y_stride);
    default: return multiply_direct_bits<4>(weight, x, first, last, y, y_stride);
  }
}

}  // namespace
}  // namespace fqonnx
