// Packed codes on their way into tensor cores, and the order of activations that goes with it.
//
// A step is 256 codes of 16 rows, the share of a warp: lane 4g + t has codes 64t … 64t + 63 of rows
// g and g + 8, in two halves of 32. A tensor core does not care which codes are at its places, if
// only activations are at the same; so lanes keep what they loaded, and activations are stored in
// the order that this gives. Where scales belong to groups of 128 codes, lanes exchange halves so
// that the first halves of a row are one group and the second ones the next.
#pragma once

#include "numbers.h"

namespace fqonnx::cuda {

constexpr uint32_t kLanes = 32;
constexpr uint32_t kStep = 256;    // codes of a row
constexpr uint32_t kTileRows = 16;
constexpr uint32_t kGroup = 128;   // codes that share a scale, if not all of a row do
constexpr uint32_t kHalfPairs = 16;  // of codes: half a lane's share of a step
constexpr uint32_t kQuad = 8;      // activations that a lane loads at once, for two tensor products

// Weight rows as docs/format.md lays them out. Those of a trellis code have levels, one scale, and
// are in tiles, whole words at multiples of 16 bytes.
struct Weight {
  const uint8_t* codes;
  const uint16_t* scales;
  const uint8_t* zero_points;  // null: mid-rise
  uint32_t rows, columns;      // num_vectors_out, num_vectors_in
  uint32_t bits, block_size;
  uint32_t groups;    // scales of a row
  uint32_t grouped;   // whether they belong to groups of 128
  uint32_t row_bytes;
  uint32_t aligned;   // whether each lane's share of a step can be loaded at once
  uint32_t trellis, multiplier;
  const int8_t* levels;

  __host__ __device__ uint32_t steps() const { return (columns + kStep - 1) / kStep; }
  __device__ float middle() const { return 0.5f * float((1u << bits) - 1); }
};

// A word has the codes that are unpacked together, its lower and upper half in pairs.
__device__ constexpr uint32_t codes_per_word(uint32_t bits) { return bits == 3 ? 16 : 32 / bits; }

// Place of activation k among its step's 256: (eights, lane of four, 8).
struct Place {
  uint32_t quad, lane, element;
};

// Where the lower and the upper code of a pair are among the 32 of half a share.
__device__ constexpr uint32_t code_of_pair(uint32_t pair, uint32_t upper, uint32_t bits) {
  const uint32_t log_pairs = bits == 1 ? 4 : bits == 4 ? 2 : 3;  // of a word
  const uint32_t first = pair >> log_pairs << (log_pairs + 1);
  return first + (pair & ((1u << log_pairs) - 1)) + (upper << log_pairs);
}

// Which codes meet activations.
struct Order {
  uint32_t bits, grouped, trellis;
};

// The code that is at a place of a step; the inverse of what lanes load.
__device__ inline uint32_t code_at_place(const Place& place, const Order& order) {
  const auto [bits, grouped, trellis] = order;
  if (trellis) return 32 * place.quad + place.element / 4 * 16 + 4 * place.lane + place.element % 4;
  const uint32_t half = place.quad / 4, within = place.quad % 4 * kQuad + place.element;
  const uint32_t code = code_of_pair(within / 2, within % 2, bits), t = place.lane;
  return grouped ? 128 * half + 64 * (t % 2) + 32 * (t / 2) + code : 64 * t + 32 * half + code;
}

// One row's share of a lane: words of the first half, then of the second. At 3 bits a half is two
// words of low bits and one of high bits, 16 for either.
template <uint32_t kBits>
struct Share {
  static constexpr uint32_t kHalfWords = kBits;
  uint32_t words[2 * kHalfWords];
};

// 4 bytes that begin at an even address, zero from `end` on.
__device__ inline uint32_t load_bytes(const uint8_t* at, const uint8_t* end) {
  const auto* shorts = reinterpret_cast<const uint16_t*>(at);
  if (at + 4 <= end) {
    if (reinterpret_cast<uintptr_t>(at) % 4 == 0) return *reinterpret_cast<const uint32_t*>(at);
    return shorts[0] | uint32_t(shorts[1]) << 16;
  }
  return at + 2 <= end ? shorts[0] : 0;
}

template <uint32_t kBits>
__device__ __forceinline__ void load_share(const Weight& weight, uint32_t row, uint32_t step,
                                           Share<kBits>& share) {
  const uint32_t column = step * kStep + threadIdx.x % 4 * (kStep / 4);
  const uint8_t* codes = weight.codes + size_t(row) * weight.row_bytes;
  uint32_t(&words)[2 * kBits] = share.words;
  if (weight.aligned) {
    const uint32_t at = kBits == 3 ? column / 128 * 48 + column % 128 / 4 : column / 8 * kBits;
    const bool inside = at < weight.row_bytes;
    const uint8_t* from = codes + at;
    if constexpr (kBits == 1) {
      const uint2 x = inside ? load_once(reinterpret_cast<const uint2*>(from)) : uint2{};
      words[0] = x.x, words[1] = x.y;
    } else if constexpr (kBits == 3) {
      const uint8_t* high = codes + column / 128 * 48 + 32 + column % 128 / 8;
      const uint4 x = inside ? load_once(reinterpret_cast<const uint4*>(from)) : uint4{};
      const uint2 y = inside ? load_once(reinterpret_cast<const uint2*>(high)) : uint2{};
      words[0] = x.x, words[1] = x.y, words[2] = y.x;
      words[3] = x.z, words[4] = x.w, words[5] = y.y;
    } else {
#pragma unroll
      for (uint32_t i = 0; i < 2 * kBits; i += 4) {
        const bool more = at + 4 * i < weight.row_bytes;
        const uint4 x = more ? load_once(reinterpret_cast<const uint4*>(from + 4 * i)) : uint4{};
        words[i] = x.x, words[i + 1] = x.y, words[i + 2] = x.z, words[i + 3] = x.w;
      }
    }
    return;
  }
  const uint8_t* end = codes + weight.row_bytes;
  if constexpr (kBits == 3) {
    const uint32_t block_bytes = weight.block_size * 3 / 8;
    uint32_t high[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t k = column + 16 * i;
      const uint8_t* block = codes + k / weight.block_size * block_bytes;
      const uint32_t within = k % weight.block_size;
      words[i / 2 * 3 + i % 2] = load_bytes(block + within / 4, end);
      high[i] = load_bytes(block + weight.block_size / 4 + within / 8, end) & 0xffff;
    }
    words[2] = high[0] | high[1] << 16;
    words[5] = high[2] | high[3] << 16;
  } else {
#pragma unroll
    for (uint32_t i = 0; i < 2 * kBits; ++i) {
      words[i] = load_bytes(codes + column / 8 * kBits + 4 * i, end);
    }
  }
}

// Makes each half of the four lanes of a row one group.
template <uint32_t kBits>
__device__ __forceinline__ void exchange_halves(Share<kBits>& share) {
  const bool upper = threadIdx.x % 4 >= 2;
#pragma unroll
  for (uint32_t i = 0; i < kBits; ++i) {
    uint32_t &first = share.words[i], &second = share.words[kBits + i];
    const uint32_t got = __shfl_xor_sync(0xffffffff, upper ? first : second, 2);
    (upper ? first : second) = got;
  }
}

// Codes become numbers by bits: at place s of the mantissa of 2^(kMantissa − s) a code adds itself.
// What that is above the code's value is subtracted, exactly. Codes of a word are shifted so that
// few places occur, kPlaces of them, and half a step is still above the last bit.
template <class Number, uint32_t kBits>
struct Unpacking {
  static constexpr uint32_t kDistance = kBits == 3 ? 2 : kBits;  // of codes in a word
  static constexpr uint32_t kFirst = Number::kMantissa == 10 ? 2 : 1;
  static constexpr uint32_t fitting() {
    uint32_t count = 1;
    while (count < 4 && kFirst + count * kDistance + kBits <= Number::kMantissa) ++count;
    return count;
  }
  static constexpr uint32_t kPlaces = fitting();

  __device__ static constexpr uint32_t place(uint32_t pair) {
    return kFirst + kDistance * (pair % kPlaces);
  }
  __device__ static constexpr uint32_t pairs_of(uint32_t bits) { return bits * 0x00010001u; }
  __device__ static constexpr uint32_t shifted(uint32_t word, int right) {
    return right >= 0 ? word >> right : word << -right;
  }

  // What a pair at each place is above the values of its codes, negative, twice in a word.
  __device__ static void set_offsets(float zero, uint32_t (&offsets)[kPlaces]) {
#pragma unroll
    for (uint32_t i = 0; i < kPlaces; ++i) {
      const float one = float(1u << (Number::kMantissa - place(i)));
      offsets[i] = pairs_of(Number::from_float(-one - zero));
    }
  }

  // The values of a pair of codes of half a share.
  template <uint32_t kPair>
  __device__ __forceinline__ static uint32_t values(const uint32_t* half,
                                                    const uint32_t (&offsets)[kPlaces]) {
    constexpr uint32_t kPairs = codes_per_word(kBits) / 2;
    constexpr uint32_t i = kPair % kPairs, s = place(i);
    constexpr uint32_t kOne = (Number::kBias + Number::kMantissa - s) << Number::kMantissa;
    constexpr uint32_t kMask = pairs_of(((1u << kDistance) - 1) << s);
    const uint32_t low = shifted(half[kPair / kPairs], int(kDistance * i) - int(s));
    uint32_t number = select_bits<kMask>(low, pairs_of(kOne));
    if constexpr (kBits == 3) {
      const uint32_t bits = half[2] >> 16 * (kPair / kPairs);
      const uint32_t apart = (bits & 0xff) | (bits & 0xff00) << 8;
      number = select_bits<pairs_of(4u << s)>(shifted(apart, int(i) - int(s) - 2), number);
    }
    return add_pairs<Number>(number, offsets[i % kPlaces]);
  }
};

// A value of a scale: what the mid-rise or the zero point leaves of a code.
__device__ inline float zero_of(const Weight& weight, uint32_t row, uint32_t group) {
  if (weight.zero_points == nullptr) return weight.middle();
  return float(weight.zero_points[size_t(row) * weight.groups + group]);
}
__device__ inline float scale_of(const Weight& weight, uint32_t row, uint32_t group) {
  const float scale = Half::to_float(weight.scales[size_t(row) * weight.groups + group]);
  return weight.trellis ? scale / 64 : scale;
}

// A share whose codes become numbers, scaled: those of a lane have one scale.
template <class Number, uint32_t kBits>
struct ScaledShare {
  using Unpack = Unpacking<Number, kBits>;

  Share<kBits> share;
  uint32_t offsets[Unpack::kPlaces];
  float scale;

  __device__ __forceinline__ void load(const Weight& weight, uint32_t row, uint32_t step) {
    load_share<kBits>(weight, row, step, share);
    const uint32_t last = weight.groups - 1;  // the last step may have but one group
    const uint32_t group = weight.grouped ? min(2 * step + threadIdx.x % 4 / 2, last) : 0;
    Unpack::set_offsets(zero_of(weight, row, group), offsets);
    scale = scale_of(weight, row, group);
  }

  // The two numbers of a pair of half a share.
  template <uint32_t kPair>
  __device__ __forceinline__ void pair(uint32_t half, float (&x)[2]) const {
    const uint32_t two = Unpack::template values<kPair>(share.words + half * kBits, offsets);
    x[0] = scale * Number::to_float(uint16_t(two));
    x[1] = scale * Number::to_float(uint16_t(two >> 16));
  }
};

}  // namespace fqonnx::cuda
