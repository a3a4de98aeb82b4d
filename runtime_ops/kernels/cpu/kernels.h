// What the operators ask of one instruction set, and the choice among those in this library.
#pragma once

#include <cstddef>
#include <cstdint>

// Inlined even without optimization: a copy that was compiled for one instruction set must not be
// what the linker gives to another.
#define FQONNX_INLINE __attribute__((always_inline))
// In front of a loop over vectors: only what is unrolled stays in registers.
#define FQONNX_UNROLL _Pragma("GCC unroll 32")

namespace fqonnx {

// A tile of trellis codes (docs/trellis.md).
constexpr size_t kTileOutputs = 64, kTileColumns = 4;
constexpr size_t kLevels = 64;
constexpr int kLevelOffset = 128;  // makes levels unsigned
constexpr float kLevelUnit = 1.0f / 64;

// Packed coefficients as docs/format.md lays them out; nothing here owns memory.
struct PackedWeight {
  const uint8_t* codes;        // (rows, blocks, block_size·bits/8)
  const uint16_t* scales;      // float16 (rows, groups)
  const uint8_t* zero_points;  // (rows, groups), or null: mid-rise
  size_t rows;                 // num_vectors_out
  size_t columns;              // num_vectors_in
  size_t bits;
  size_t block_size;
  size_t group_size;  // 0: one scale a row
  // Of a trellis code, whose tiles are (⌈rows/64⌉, tiles, tile_bytes); null for scalar codes.
  const int8_t* levels;
  uint16_t multiplier;

  FQONNX_INLINE size_t groups() const {
    return group_size ? (columns + group_size - 1) / group_size : 1;
  }
  FQONNX_INLINE size_t row_bytes() const {
    return (columns + block_size - 1) / block_size * (block_size * bits / 8);
  }
  FQONNX_INLINE size_t tiles() const { return (columns + kTileColumns - 1) / kTileColumns; }
  FQONNX_INLINE size_t tile_bytes() const { return kTileOutputs * kTileColumns * bits / 8; }
  // The tiles of the outputs around `row`.
  FQONNX_INLINE const uint8_t* tiles_of(size_t row) const {
    return codes + row / kTileOutputs * tiles() * tile_bytes();
  }
  // The weight of the outputs first … first + count − 1, at whose first a tile begins.
  PackedWeight part(size_t first, size_t count) const {
    PackedWeight result = *this;
    result.rows = count;
    result.codes = levels ? tiles_of(first) : codes + first * row_bytes();
    result.scales += first * groups();
    if (zero_points) result.zero_points += first * groups();
    return result;
  }
  // What the bytes of an unpacked panel are too large by.
  FQONNX_INLINE float offset(size_t row, size_t group) const {
    if (levels) return kLevelOffset;
    return zero_points ? zero_points[row * groups() + group] : ((1u << bits) - 1) * 0.5f;
  }
};

constexpr size_t kSegment = 128;

// Activations as integers: x[k] = scale·Σ_d 256^d·digit_d[k], d < digits. One digit is the fast
// accuracy; three are 24 bits of fixed point, which integer sums lose nothing of. Each segment of
// segment_size columns (kSegment, or 0: the whole row) has a scale of its own.
struct Activations {
  size_t rows;
  size_t columns;
  size_t digits;
  size_t segment_size;
  bool direct;       // in the order of multiply_direct, or in that of multiply_panels
  size_t planes;     // of codes that need an order of their own
  size_t stride;     // bytes from one digit to the next
  int8_t* integers;  // (planes, rows, digits, stride), zero from `columns` on
  float* scales;     // (rows, segments)
  double* sums;      // (rows, segments) of the integers

  FQONNX_INLINE size_t segments() const {
    return segment_size ? (columns + segment_size - 1) / segment_size : 1;
  }
};

// The states of a trellis code (docs/trellis.md): the last `window` bits of a stream of codes, the
// newest lowest.
struct Trellis {
  const int16_t* values;  // (2^window)
  int bits;               // of a code, 1 to 4
  int window;             // bits + 5 to 16
};

struct Kernels {
  const char* name;
  size_t panel;  // outputs that share an unpacked panel: tasks take a multiple of it

  // Sets `direct`, `planes` and `stride`, which tell how much memory the integers need.
  void (*plan)(const PackedWeight& weight, Activations& x);
  void (*quantize)(const PackedWeight& weight, const float* x, size_t row, Activations& to);
  // Products go to y (x.rows, weight.rows). Few rows of activations: codes are multiplied where
  // they lie.
  void (*multiply_direct)(const PackedWeight& weight, const Activations& x, size_t first,
                          size_t last, float* y);
  // Many rows: codes are unpacked once for all of them.
  void (*multiply_panels)(const PackedWeight& weight, const Activations& x, size_t first_row,
                          size_t last_row, size_t first, size_t last, float* y);

  void (*dequantize_row)(const PackedWeight& weight, size_t row, float* out);
  void (*apply_signs)(const float* x, const uint8_t* signs, float scale, size_t size, float* out);
  void (*hadamard)(float* x, size_t order);  // H_{2^p}·x·2^{p/2}, in place
  void (*matmul)(const float* a, const float* b, float* c, size_t m, size_t k, size_t n);
  void (*to_float)(const uint16_t* halves, size_t size, float* out);
  void (*to_half)(const float* x, size_t size, uint16_t* out);

  // The codes (length) whose path has the least Σ⌊(value − target)²/2^16⌋, from the state `start`
  // to `end`; where these are negative from and to any. Sums are 16 bits: a state that falls
  // behind by more may be lost.
  void (*viterbi)(const Trellis& trellis, const int16_t* targets, size_t length, int start,
                  int end, uint8_t* codes);
};

// The best that this processor has, but none above what FQONNX_INSTRUCTION_SET names: portable,
// avx2, avx512 or avx512vbmi.
const Kernels& kernels();

}  // namespace fqonnx
