// FrameDequant: Tᵀ·Ĉ in strips of up to 8 columns, which are rows of codes. A block unpacks a strip
// into shared memory, transforms it there and writes it row by row, so codes are read once and W is
// written once. Where shared memory does not hold a single column, scratch memory stands in.

#include <algorithm>
#include <utility>

#include "frame_steps.h"
#include "transforms.h"
#include "trellis.h"

namespace fqonnx::cuda {
namespace {

constexpr uint32_t kMostColumns = 8;      // 16 bytes of float16, which a thread writes at once
constexpr unsigned kMostThreads = 512;
constexpr uint32_t kHalf = 2 * kHalfPairs;  // codes that a lane has in registers
constexpr uint32_t kStagesOfHalf = 5;       // of a Walsh–Hadamard transform

// What a kernel knows of its strips beside the frame.
struct Strips {
  uint32_t columns, steps;
  uint32_t value_pitch, work_pitch;  // floats of a column of codes, and of its transform
  uint32_t unit;                     // bytes that are written at once
  bool in_place;

  __host__ __device__ size_t floats() const {
    return size_t(columns) * (value_pitch + (in_place ? 0 : work_pitch));
  }
};

// The first stages, as far as `order` goes.
__device__ __forceinline__ void hadamard_in_registers(float (&x)[kHalf], uint32_t order) {
#pragma unroll
  for (uint32_t distance = 1; distance < kHalf; distance *= 2) {
    if (distance >= order) break;
#pragma unroll
    for (uint32_t i = 0; i < kHalf; ++i) {
      if (i & distance) continue;
      const float a = x[i], b = x[i + distance];
      x[i] = a + b, x[i + distance] = a - b;
    }
  }
}

template <uint32_t kBits, size_t... kPairs>
__device__ __forceinline__ void unpack(const ScaledShare<Half, kBits>& share, uint32_t half,
                                       float (&x)[kHalf], std::index_sequence<kPairs...>) {
  const auto put = [&](uint32_t pair, const float(&two)[2]) {
    x[code_of_pair(pair, 0, kBits)] = two[0], x[code_of_pair(pair, 1, kBits)] = two[1];
  };
  float two[2];
  ((share.template pair<kPairs>(half, two), put(kPairs, two)), ...);
}

// The same of a trellis code: 32 numbers of a row from column k on, a row of eight tiles.
template <uint32_t kBits>
__device__ __forceinline__ void unpack_tiles(const Weight& weight, uint32_t row, uint32_t k,
                                             float (&x)[kHalf]) {
  const float scale = scale_of(weight, row, 0);
  const uint32_t factor = weight.multiplier << 16;
#pragma unroll
  for (uint32_t i = 0; i < kHalf; i += kTileWidth) {
    if (k + i >= weight.columns) break;
    const uint8_t* tile = tile_at(weight, row / kStripRows, (k + i) / kTileWidth);
    const uint32_t bits = bits_until_row<kBits>(tile, row % kStripRows);
#pragma unroll
    for (uint32_t j = 0; j < kTileWidth; ++j) {
      const uint32_t window = bits >> kBits * (kTileWidth - 1 - j);
      x[i + j] = scale * float(weight.levels[window * factor >> 26]);
    }
  }
}

// Numbers of `count` rows of codes from `row` on, `steps` of them from `first_step` on.
template <uint32_t kBits>
__device__ void unpack_strip(const DeviceFrame& frame, const Weight& weight, uint32_t row,
                             uint32_t count, uint32_t first_step, uint32_t steps, Work values,
                             uint32_t pitch) {
  for (uint32_t i = threadIdx.x / 4; i < count * steps; i += blockDim.x / 4) {
    const uint32_t column = i / steps, step = i % steps;
    ScaledShare<Half, kBits> share;
    if (!weight.trellis) share.load(weight, row + column, first_step + step);
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t k = step * kStep + threadIdx.x % 4 * (kStep / 4) + half * kHalf;
      if (first_step * kStep + k >= weight.columns) break;
      float x[kHalf] = {};
      if (weight.trellis) {
        unpack_tiles<kBits>(weight, row + column, first_step * kStep + k, x);
      } else {
        unpack(share, half, x, std::make_index_sequence<kHalfPairs>());
      }
      if (frame.kind == DeviceFrame::kHadamard) hadamard_in_registers(x, frame.order);
      const uint32_t place = values.place(column * pitch + k);
#pragma unroll
      for (uint32_t j = 0; j < kHalf; ++j) values.numbers[place ^ j] = x[j];
    }
  }
}

template <uint32_t kUnit>
__device__ void write_units(unsigned char* to, const uint32_t (&words)[kMostColumns],
                            uint32_t bytes) {
#pragma unroll
  for (uint32_t i = 0; i < sizeof words; i += kUnit) {
    if (i >= bytes) break;
    const uint32_t* w = words + i / 4;
    if constexpr (kUnit == 16) *reinterpret_cast<uint4*>(to + i) = {w[0], w[1], w[2], w[3]};
    if constexpr (kUnit == 8) *reinterpret_cast<uint2*>(to + i) = {w[0], w[1]};
    if constexpr (kUnit == 4) *reinterpret_cast<uint32_t*>(to + i) = w[0];
    if constexpr (kUnit == 2) *reinterpret_cast<uint16_t*>(to + i) = uint16_t(w[0] >> i % 4 * 8);
  }
}

// Writes `count` numbers side by side, from element `at` on.
__device__ void write_row(Rows to, size_t at, const float (&x)[kMostColumns], uint32_t count,
                          uint32_t unit) {
  uint32_t words[kMostColumns];
  const bool wide = to.element == Element::kFloat, half = to.element == Element::kHalf;
  const auto short_of = [&](float value) -> uint32_t {
    return half ? Half::from_float(value) : BFloat16::from_float(value);
  };
#pragma unroll
  for (uint32_t i = 0; i < kMostColumns; ++i) {
    words[i] = bits_of(x[i]);
    if (!wide && i % 2 == 1) words[i / 2] = short_of(x[i - 1]) | short_of(x[i]) << 16;
  }
  const uint32_t bytes_each = wide ? 4 : 2;
  unsigned char* first = static_cast<unsigned char*>(to.data) + at * bytes_each;
  const uint32_t bytes = count * bytes_each;
  switch (unit) {
    case 16: return write_units<16>(first, words, bytes);
    case 8: return write_units<8>(first, words, bytes);
    case 4: return write_units<4>(first, words, bytes);
    default: return write_units<2>(first, words, bytes);
  }
}

template <uint32_t kBits>
__global__ void __launch_bounds__(kMostThreads, 1)
    synthesise_strips(DeviceFrame frame, Weight weight, const uint8_t* signs, Strips strips,
                      Rows to, float* scratch) {
  float* const memory = scratch == nullptr ? reinterpret_cast<float*>(shared_memory())
                                           : scratch + blockIdx.x * strips.floats();
  const Work values{memory};
  const Work work{strips.in_place ? memory : memory + strips.columns * strips.value_pitch};
  const uint32_t first_step = blockIdx.y * strips.steps, first = first_step * kStep;
  const uint32_t steps = min(strips.steps, weight.steps() - first_step);
  const bool whole = frame.kind != DeviceFrame::kIdentity;
  const uint32_t height = whole ? frame.dim : min(frame.dim - first, steps * kStep);

  for (uint32_t column = blockIdx.x * strips.columns; column < weight.rows;
       column += gridDim.x * strips.columns) {
    const uint32_t count = min(strips.columns, weight.rows - column);
    unpack_strip<kBits>(frame, weight, column, count, first_step, steps, values,
                        strips.value_pitch);
    __syncthreads();
    if (frame.kind == DeviceFrame::kHadamard) {
      hadamard(values, count * strips.value_pitch, frame.order, kStagesOfHalf);
    } else if (!strips.in_place) {
      for (uint32_t i = 0; i < count; ++i) {
        const auto value = [&](uint32_t k) { return values[i * strips.value_pitch + k]; };
        begin_synthesis(frame, value, Work{work.numbers, i * strips.work_pitch});
      }
    }
    for (uint32_t i = threadIdx.x; i < height; i += blockDim.x) {
      float x[kMostColumns];
      coordinates(frame, signs, work, strips.work_pitch, count, i, x);
      write_row(to, size_t(first + i) * weight.rows + column, x, count, strips.unit);
    }
    __syncthreads();  // the next strip takes the memory of this one
  }
}

Strips strips_of(const DeviceFrame& frame, const Weight& weight, uint32_t columns) {
  constexpr uint32_t kSteps = 4;  // of an identity, whose strips need not be whole columns
  const bool identity = frame.kind == DeviceFrame::kIdentity;
  Strips strips{};
  strips.columns = columns;
  strips.steps = identity ? std::min(kSteps, weight.steps()) : weight.steps();
  strips.value_pitch = padded(std::min(frame.num_vectors, strips.steps * kStep));
  strips.in_place = identity || frame.kind == DeviceFrame::kHadamard;
  strips.work_pitch = strips.in_place ? strips.value_pitch : padded(frame.work);
  return strips;
}

struct Plan {
  Strips strips;
  dim3 blocks;
  size_t shared_bytes, scratch_floats;
};

Plan plan_strips(const DeviceFrame& frame, const Weight& weight, const Device& device) {
  Strips strips = strips_of(frame, weight, kMostColumns);
  const auto bytes = [&] { return strips.floats() * sizeof(float); };
  const auto across = [&] { return (weight.rows + strips.columns - 1) / strips.columns; };
  while (strips.columns > 1 && bytes() > device.shared_bytes) strips.columns /= 2;
  const bool shared = bytes() <= device.shared_bytes;
  if (!shared) strips.columns = kMostColumns;
  const uint32_t high = (weight.steps() + strips.steps - 1) / strips.steps;
  while (strips.columns > 1 && across() * high < device.processors) strips.columns /= 2;
  if (shared) return {strips, dim3(across(), high), bytes(), 0};
  const uint32_t blocks = std::min(across(), device.processors);
  return {strips, dim3(blocks, high), 0, blocks * strips.floats()};
}

}  // namespace

size_t synthesise_codes_scratch_floats(const DeviceFrame& frame, const Weight& weight,
                                       const Device& device) {
  return plan_strips(frame, weight, device).scratch_floats;
}

void synthesise_codes(const DeviceFrame& frame, const Weight& weight, const uint8_t* signs, Rows to,
                      float* scratch, const Device& device, cudaStream_t stream) {
  Plan plan = plan_strips(frame, weight, device);
  Strips& strips = plan.strips;
  const size_t element_bytes = size_of(to.element);
  const size_t places = reinterpret_cast<uintptr_t>(to.data) | weight.rows * element_bytes |
                        strips.columns * element_bytes | 16;
  strips.unit = uint32_t(places & (~places + 1));  // the largest power of two that divides them
  const uint32_t halves = strips.columns * strips.steps * (kStep / kHalf);
  const unsigned threads = std::clamp(padded(halves), 64u, kMostThreads);
  const Launch how{plan.blocks, threads, plan.shared_bytes, stream};
  if (plan.scratch_floats == 0) scratch = nullptr;
  const auto start = [&](auto kernel) {
    launch(kernel, how, frame, weight, signs, strips, to, scratch);
  };
  switch (weight.bits) {
    case 1: return start(synthesise_strips<1>);
    case 2: return start(synthesise_strips<2>);
    case 3: return start(synthesise_strips<3>);
    default: return start(synthesise_strips<4>);
  }
}

}  // namespace fqonnx::cuda
