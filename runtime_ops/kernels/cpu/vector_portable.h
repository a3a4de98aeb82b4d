// A vector of 16 bytes in plain C++, with what instruction_set.h includes behind one needs of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "half.h"

namespace fqonnx {
namespace {

struct Vector {
  static constexpr size_t kBytes = 16;
  static constexpr size_t kLanes = 4;       // of 32 bits
  static constexpr size_t kTileRows = 4;    // rows of activations in registers
  static constexpr size_t kDirectRows = 4;  // up to which unpacking once for all rows does not pay
  static constexpr size_t kInPlace = 1;     // fields that `dot` takes without a shift

  struct Bytes {
    uint8_t byte[16];
  };
  struct Ints {
    int32_t lane[4];
  };
  struct Floats {
    float lane[4];
  };

  static Bytes load(const uint8_t* p) { return load_first(p, 16); }
  static Bytes load_first(const uint8_t* p, size_t count) {
    Bytes x{};
    std::memcpy(x.byte, p, count);
    return x;
  }
  // Field index + place of each byte, which stays 2^(place·bits) too large.
  template <int bits>
  static Bytes field(Bytes x, int index, int place = 0) {
    constexpr int kMask = (1 << bits) - 1;
    for (uint8_t& byte : x.byte) byte = byte >> (index * bits) & kMask << (place * bits);
    return x;
  }

  static Ints zero() { return {}; }
  static Ints load_ints(const void* p) {
    Ints x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  static void store(void* p, Ints x) { std::memcpy(p, &x, sizeof x); }
  static Bytes bytes(Ints x) {
    Bytes y;
    std::memcpy(&y, &x, sizeof y);
    return y;
  }
  static Ints ints(Bytes x) {
    Ints y;
    std::memcpy(&y, &x, sizeof y);
    return y;
  }
  static Ints broadcast4(const int8_t* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return {{x, x, x, x}};
  }
  // Adds the products of four unsigned and four signed bytes to each lane. The unsigned ones are at
  // most 15, but for dot_wide.
  static Ints dot(Ints sum, Bytes u, Ints s) {
    const Bytes signed_bytes = bytes(s);
    for (size_t i = 0; i < 16; ++i) {
      sum.lane[i / 4] += u.byte[i] * int8_t(signed_bytes.byte[i]);
    }
    return sum;
  }
  static Ints dot_wide(Ints sum, Bytes u, Ints s) { return dot(sum, u, s); }
  static int32_t total(Ints x) { return x.lane[0] + x.lane[1] + x.lane[2] + x.lane[3]; }

  // Codes of 1 or 2 bits, lowest first, to one byte each.
  template <int bits>
  static Bytes spread(const uint8_t* p) {
    Bytes x;
    for (size_t i = 0; i < 16; ++i) {
      x.byte[i] = p[i * bits / 8] >> (i * bits % 8) & ((1 << bits) - 1);
    }
    return x;
  }
  static Bytes low_and_high(Bytes low, Bytes high) {
    for (size_t i = 0; i < 16; ++i) low.byte[i] = uint8_t(low.byte[i] | high.byte[i] << 2);
    return low;
  }
  static void transpose(Ints (&x)[4]) {
    for (size_t i = 0; i < 4; ++i) {
      for (size_t j = 0; j < i; ++j) {
        const int32_t kept = x[i].lane[j];
        x[i].lane[j] = x[j].lane[i];
        x[j].lane[i] = kept;
      }
    }
  }

  static Floats load_floats(const float* p) {
    Floats x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  static void store(float* p, Floats x) { std::memcpy(p, &x, sizeof x); }
  static Floats broadcast(float x) { return {{x, x, x, x}}; }
  static Floats add(Floats x, Floats y) {
    for (size_t i = 0; i < 4; ++i) x.lane[i] += y.lane[i];
    return x;
  }
  static Floats subtract(Floats x, Floats y) {
    for (size_t i = 0; i < 4; ++i) x.lane[i] -= y.lane[i];
    return x;
  }
  static Floats multiply(Floats x, Floats y) {
    for (size_t i = 0; i < 4; ++i) x.lane[i] *= y.lane[i];
    return x;
  }
  static Floats multiply_add(Floats x, Floats y, Floats z) { return add(multiply(x, y), z); }
  static float total(Floats x) { return x.lane[0] + x.lane[1] + x.lane[2] + x.lane[3]; }
  static Floats to_floats(Ints x) {
    return {{float(x.lane[0]), float(x.lane[1]), float(x.lane[2]), float(x.lane[3])}};
  }
  // x + y/2^shift.
  static Ints add_shifted(Ints x, Ints y, int shift) {
    for (size_t i = 0; i < 4; ++i) x.lane[i] += y.lane[i] >> shift;
    return x;
  }
  // x + y·2^8.
  static Ints add_digit(Ints x, Ints y) {
    for (size_t i = 0; i < 4; ++i) x.lane[i] += y.lane[i] * 256;
    return x;
  }
  // `count` numbers, each in an equal share of the lanes.
  template <size_t count>
  static Floats share_lanes(const float* p) {
    static_assert(count == 1, "a vector has codes of one segment");
    return broadcast(*p);
  }
  // x with its sign turned where the bit of the lane is set.
  static Floats signed_by(Floats x, const uint8_t* signs, size_t first) {
    for (size_t i = 0; i < 4; ++i) {
      const size_t bit = first + i;
      x.lane[i] = as_float(as_bits(x.lane[i]) ^ uint32_t(signs[bit / 8] >> bit % 8 & 1) << 31);
    }
    return x;
  }
  // The stages of a Walsh–Hadamard transform that stay in a vector.
  static Floats butterflies(Floats x) {
    const float a = x.lane[0] + x.lane[1], b = x.lane[0] - x.lane[1];
    const float c = x.lane[2] + x.lane[3], d = x.lane[2] - x.lane[3];
    return {{a + c, b + d, a - c, b - d}};
  }
  static Floats from_halves(const uint16_t* p) {
    return {{half_to_float(p[0]), half_to_float(p[1]), half_to_float(p[2]), half_to_float(p[3])}};
  }
  static void store_halves(uint16_t* p, Floats x) {
    for (size_t i = 0; i < 4; ++i) p[i] = float_to_half(x.lane[i]);
  }

  static constexpr size_t kShorts = 8;
  struct Shorts {
    int16_t lane[8];
  };
  using Mask = uint8_t;
  static constexpr int kMaskBits = 1;  // of a lane

  static Shorts load_shorts(const int16_t* p) {
    Shorts x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  static void store(int16_t* p, Shorts x) { std::memcpy(p, &x, sizeof x); }
  static Shorts broadcast_short(int16_t x) { return {{x, x, x, x, x, x, x, x}}; }
  static int16_t clamped(int x) { return int16_t(x < -32768 ? -32768 : x > 32767 ? 32767 : x); }
  static Shorts add_clamped(Shorts x, Shorts y) {
    for (size_t i = 0; i < 8; ++i) x.lane[i] = clamped(x.lane[i] + y.lane[i]);
    return x;
  }
  static Shorts subtract_clamped(Shorts x, Shorts y) {
    for (size_t i = 0; i < 8; ++i) x.lane[i] = clamped(x.lane[i] - y.lane[i]);
    return x;
  }
  // x²/2^16, rounded down.
  static Shorts square(Shorts x) {
    for (int16_t& lane : x.lane) lane = int16_t(lane * lane >> 16);
    return x;
  }
  static Shorts lesser(Shorts x, Shorts y) {
    for (size_t i = 0; i < 8; ++i) x.lane[i] = y.lane[i] < x.lane[i] ? y.lane[i] : x.lane[i];
    return x;
  }
  static int16_t least_lane(Shorts x) {
    int16_t least = x.lane[0];
    for (const int16_t lane : x.lane) least = lane < least ? lane : least;
    return least;
  }
  static Mask is_less(Shorts x, Shorts y) {
    Mask mask = 0;
    for (size_t i = 0; i < 8; ++i) mask = Mask(mask | (x.lane[i] < y.lane[i]) << i);
    return mask;
  }
  // Part `part` of x with each lane 2^bits times.
  template <int bits>
  static Shorts repeat(Shorts x, size_t part) {
    Shorts y;
    for (size_t i = 0; i < 8; ++i) y.lane[i] = x.lane[(8 * part + i) >> bits];
    return y;
  }
};

}  // namespace
}  // namespace fqonnx
