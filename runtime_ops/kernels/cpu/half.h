// float16 and float32 in plain integers, for compilers and processors without the type.
#pragma once

#include <cstdint>
#include <cstring>

namespace fqonnx {
namespace {  // compiled once for each instruction set: no copy may stand in for another

inline float as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline uint32_t as_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16, rest = half & 0x7fff;
  // Shifted into place the exponent is 112 too small, which a multiplication mends, also for
  // subnormal numbers; what is infinite or not a number has the largest exponent.
  const uint32_t special = rest >= 0x7c00 ? 0x7f800000u : 0u;
  return as_float(sign | special | as_bits(as_float(rest << 13) * 0x1p112f));
}

// Rounds to nearest, ties to even.
inline uint16_t float_to_half(float x) {
  const uint32_t bits = as_bits(x), sign = bits >> 16 & 0x8000;
  const uint32_t rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (rest >= 0x477ff000) return uint16_t(sign | 0x7c00);
  if (rest < 0x38800000) {  // subnormal: the sum has its last place where the result has it
    return uint16_t(sign | (as_bits(as_float(rest) + 0.5f) - as_bits(0.5f)));
  }
  return uint16_t(sign | ((rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13));
}

}  // namespace
}  // namespace fqonnx
