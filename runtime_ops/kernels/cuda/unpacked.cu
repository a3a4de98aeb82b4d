// Very many rows of X: codes become numbers in scratch memory, a tile of columns at a time, which
// cuBLAS finds in the cache.

#include <algorithm>
#include <utility>

#include "products.h"
#include "trellis.h"

namespace fqonnx::cuda {
namespace {

constexpr unsigned kThreads = 256;

template <class Number>
__device__ uint32_t rounded(const float (&x)[2]) {
  return Number::from_float(x[0]) | uint32_t(Number::from_float(x[1])) << 16;
}

// A lane's next eight numbers of a row: its pairs from kPair on.
template <uint32_t kPair, class Number, uint32_t kBits>
__device__ __forceinline__ uint4 quad(const ScaledShare<Number, kBits>& share, uint32_t half) {
  float x[4][2];
  share.template pair<kPair>(half, x[0]);
  share.template pair<kPair + 1>(half, x[1]);
  share.template pair<kPair + 2>(half, x[2]);
  share.template pair<kPair + 3>(half, x[3]);
  return {rounded<Number>(x[0]), rounded<Number>(x[1]), rounded<Number>(x[2]),
          rounded<Number>(x[3])};
}

// Rows [first, first + count) of codes, in the order of activations: four lanes take a step.
template <class Number, uint32_t kBits>
__global__ void __launch_bounds__(kThreads)
    unpack_rows(Weight weight, uint32_t first, uint32_t count, uint16_t* to) {
  const uint32_t i = (blockIdx.x * blockDim.x + threadIdx.x) / 4, steps = weight.steps();
  if (i >= count * steps) return;
  ScaledShare<Number, kBits> share;
  share.load(weight, first + i / steps, i % steps);
  uint4* const at = reinterpret_cast<uint4*>(to + size_t(i) * kStep) + threadIdx.x % 4;
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    at[half * 16] = quad<0>(share, half);
    at[half * 16 + 4] = quad<4>(share, half);
    at[half * 16 + 8] = quad<8>(share, half);
    at[half * 16 + 12] = quad<12>(share, half);
  }
}

// The same of a trellis code, `first` beginning a strip: a warp takes a unit of it.
template <class Number, uint32_t kBits>
__global__ void __launch_bounds__(kThreads)
    unpack_tiles(Weight weight, uint32_t first, uint32_t count, uint16_t* to) {
  const Levels<Number> levels(weight, reinterpret_cast<uint16_t*>(shared_memory()));
  __syncthreads();
  const uint32_t units = weight.steps() * (kStep / kUnit), lane = threadIdx.x % kLanes;
  const uint32_t i = (blockIdx.x * blockDim.x + threadIdx.x) / kLanes, unit = i % units;
  if (i / units * kStripRows >= count) return;
  const uint32_t first_row = i / units * kStripRows + lane / 4 * kLaneRows;
  UnitWords<kBits> unit_words;
  unit_words.load(weight, first / kStripRows + i / units, unit);
#pragma unroll
  for (uint32_t quad = 0; quad < kUnitQuads; ++quad) {
    const Stream<kBits> streams[2] = {Stream<kBits>(unit_words.words[2 * quad]),
                                      Stream<kBits>(unit_words.words[2 * quad + 1])};
#pragma unroll
    for (uint32_t j = 0; j < kLaneRows; ++j) {
      const uint32_t row = first_row + j;
      if (row >= count) break;
      const float scale = scale_of(weight, first + row, 0);
      uint32_t pairs[4];
#pragma unroll
      for (uint32_t k = 0; k < 4; ++k) {
        const uint32_t pair = streams[k / 2].pair(levels, 4 * j + 2 * (k % 2));
        pairs[k] = rounded<Number>({scale * Number::to_float(uint16_t(pair)),
                                    scale * Number::to_float(uint16_t(pair >> 16))});
      }
      uint4* const at = reinterpret_cast<uint4*>(to + (size_t(row) * units + unit) * kUnit);
      at[quad * 4 + lane % 4] = {pairs[0], pairs[1], pairs[2], pairs[3]};
    }
  }
}

// The bias, which cuBLAS adds products to.
__global__ void __launch_bounds__(kThreads) store_bias(Product p) {
  const uint32_t column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= p.weight.rows) return;
  for (uint32_t row = blockIdx.y; row < p.x.rows; row += gridDim.y) {
    store_product(p, column, row, 0);
  }
}

template <class Number>
void unpack(const Weight& weight, uint32_t first, uint32_t count, uint16_t* to,
            cudaStream_t stream) {
  const bool trellis = weight.trellis;
  const uint32_t strips = (count + kStripRows - 1) / kStripRows;
  const uint32_t threads_of_step = trellis ? strips * (kStep / kUnit) * kLanes : count * 4;
  const uint32_t threads = weight.steps() * threads_of_step;
  const Launch how{dim3((threads + kThreads - 1) / kThreads), kThreads,
                   trellis ? kLevels * sizeof(uint16_t) : 0, stream};
  const auto start = [&](auto scalar, auto tiles) {
    launch(trellis ? tiles : scalar, how, weight, first, count, to);
  };
  switch (weight.bits) {
    case 1: return start(unpack_rows<Number, 1>, unpack_tiles<Number, 1>);
    case 2: return start(unpack_rows<Number, 2>, unpack_tiles<Number, 2>);
    case 3: return start(unpack_rows<Number, 3>, unpack_tiles<Number, 3>);
    default: return start(unpack_rows<Number, 4>, unpack_tiles<Number, 4>);
  }
}

}  // namespace

size_t least_unpacked_rows(const Weight& weight, Element element) {
  if (weight.trellis && element != Element::kFloat) return kDecodeRows + 1;
  switch (element) {
    case Element::kHalf: return 512;
    case Element::kBFloat16: return 512;
    default: return SIZE_MAX;
  }
}

uint32_t plan_unpacked(const Weight& weight, const Device& device) {
  constexpr uint32_t kColumns = 128;  // of cuBLAS's own tiles
  const auto whole = [](size_t columns) { return (columns + kColumns - 1) / kColumns * kColumns; };
  const size_t column_bytes = size_t(weight.steps()) * kStep * sizeof(uint16_t);
  const size_t fitting = std::max<size_t>(1, device.unpacked_bytes / column_bytes / kColumns);
  const size_t tiles = (weight.rows + fitting * kColumns - 1) / (fitting * kColumns);
  return uint32_t(whole((weight.rows + tiles - 1) / tiles));  // tiles of one size
}

void multiply_unpacked(const Product& p, const Unpacked& unpacked, const Cublas& cublas,
                       cudaStream_t stream) {
  const Outputs& y = p.outputs;
  if (y.bias != nullptr) {
    const dim3 grid((p.weight.rows + kThreads - 1) / kThreads, std::min(p.x.rows, 64u));
    launch(store_bias, {grid, kThreads, 0, stream}, p);
  }
  for (uint32_t first = 0; first < p.weight.rows; first += unpacked.columns) {
    const uint32_t last = std::min(first + unpacked.columns, p.weight.rows);
    const bool half = p.x.element == Element::kHalf;
    (half ? unpack<Half> : unpack<BFloat16>)(p.weight, first, last - first, unpacked.numbers,
                                             stream);
    for (uint32_t i = 0; i < y.count; ++i) {
      const uint32_t begin = std::max(first, y.begin[i]), end = std::min(last, y.begin[i + 1]);
      if (begin >= end) continue;
      const size_t width = y.begin[i + 1] - y.begin[i], depth = size_t(p.x.steps) * kStep;
      const size_t at = p.first_row * width + begin - y.begin[i];
      const Gemm gemm{p.x.numbers,
                      unpacked.numbers + (begin - first) * depth,
                      static_cast<unsigned char*>(y.data[i]) + at * size_of(y.element),
                      p.x.element,
                      y.element,
                      p.x.rows,
                      end - begin,
                      uint32_t(depth),
                      width,
                      y.bias != nullptr};
      cublas.multiply(gemm, unpacked.workspace, unpacked.workspace_bytes, stream);
    }
  }
}

}  // namespace fqonnx::cuda
