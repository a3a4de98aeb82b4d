// Coefficients of X times packed codes: what the kernels for few and for many rows share.
#pragma once

#include "cublas.h"
#include "transforms.h"

namespace fqonnx::cuda {

constexpr uint32_t kMaxOutputs = 64;  // as docs/format.md allows

// Where products go. Columns [begin[i], begin[i + 1]) of all are those of output i.
struct Outputs {
  uint32_t count;
  uint32_t begin[kMaxOutputs + 1];
  void* data[kMaxOutputs];
  Element element;
  const void* bias;  // of all columns; null: none
};

struct Product {
  Weight weight;
  Activations x;
  uint32_t first_row;  // of X and Y, where x.rows begin
  Outputs outputs;
  // Columns of codes are cut so that every processor has work; the block that comes last adds up
  // what the others left, always in one order.
  uint32_t splits;
  float* partial_sums;  // (tiles, splits, rows of X in a tile, weight rows of a tile)
  uint32_t* arrivals;   // (tiles), zero
};

// Rows of X that decode() takes.
constexpr uint32_t kDecodeRows = 8;

// What a product needs beside its tensors.
struct ProductPlan {
  uint32_t splits;
  uint32_t tiles;  // as many arrivals
  size_t partial_floats;
};

// Steps that one split has.
struct Span {
  uint32_t first, last;
};
__device__ inline Span span_of_split(uint32_t split, uint32_t splits, uint32_t steps) {
  return {uint32_t(uint64_t(steps) * split / splits),
          uint32_t(uint64_t(steps) * (split + 1) / splits)};
}

// Up to kDecodeRows rows, which is a matter of reading codes.
ProductPlan plan_decode(const Weight& weight, const Activations& x, const Device& device);
void decode(const Product& product, const Device& device, cudaStream_t stream);

// More rows, which is a matter of tensor cores.
ProductPlan plan_multiply(const Weight& weight, const Activations& x, const Device& device);
void multiply(const Product& product, const Device& device, cudaStream_t stream);

// Trellis codes, any number of rows.
ProductPlan plan_trellis(const Weight& weight, const Activations& x, const Device& device);
void multiply_trellis(const Product& product, const Device& device, cudaStream_t stream);

// Many rows: cuBLAS multiplies a tile of columns at a time, whose codes are unpacked in front of it
// into 16 bits like those of X, which is a matrix of one piece.
struct Unpacked {
  uint32_t columns;   // of a tile
  uint16_t* numbers;  // (columns, steps of 256)
  void* workspace;
  size_t workspace_bytes;
};
// From how many rows on that is faster than multiply(). No GPU has been asked: estimates from what
// either has to move and to multiply. tools/gpu_check.py prints the times of both side by side. X
// in float32 stays with multiply(): without tensor cores cuBLAS should be slower, with them its
// sums are less exact. A trellis code is dear to decode: once for all rows, from where
// multiply_trellis() does it more than once.
size_t least_unpacked_rows(const Weight& weight, Element element);
uint32_t plan_unpacked(const Weight& weight, const Device& device);  // columns of a tile
void multiply_unpacked(const Product& product, const Unpacked& unpacked, const Cublas& cublas,
                       cudaStream_t stream);

// Activations for the two tensor products of a quad, of this lane.
__device__ inline uint4 load_quad(const unsigned char* shared) {
#ifdef FQONNX_CUDA_EMULATED
  emulator::expect_aligned(shared, 16);
#endif
  return *reinterpret_cast<const uint4*>(shared);
}

// Where a lane finds its activations for half a step: the first quad, and how many bytes on are the
// next one, the next 8 rows and the next piece.
struct Quads {
  const unsigned char* first;
  uint32_t quad_bytes, tile_bytes, piece_bytes;
  uint32_t tiles;
};

// A step of two rows of codes, loaded ahead of its use.
template <uint32_t kBits>
struct Step {
  Share<kBits> shares[2];
  // Where scales are grouped: those of the step's two groups, read with the codes.
  uint32_t scales[2], zeros[2];  // 16 bits each

  __device__ __forceinline__ void load(const Weight& weight, uint32_t first_row, uint32_t step) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      // Rows behind the last read it again: nobody looks at what they give.
      const uint32_t row = min(first_row + threadIdx.x % kLanes / 4 + 8 * i, weight.rows - 1);
      load_share<kBits>(weight, row, step, shares[i]);
      if (!weight.grouped) continue;
      const size_t first = size_t(row) * weight.groups + 2 * step;
      const size_t second = first + (2 * step + 1 < weight.groups);
      scales[i] = weight.scales[first] | uint32_t(weight.scales[second]) << 16;
      if (!weight.zero_points) continue;
      zeros[i] = weight.zero_points[first] | uint32_t(weight.zero_points[second]) << 16;
    }
  }
};

// What a warp knows of its two rows of codes, beside the codes.
template <class Number, uint32_t kBits>
struct RowPair {
  using Unpack = Unpacking<Number, kBits>;

  uint32_t offsets[2][Unpack::kPlaces];
  float scales[2];

  __device__ __forceinline__ void begin(const Weight& weight, uint32_t first_row) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t row = min(first_row + threadIdx.x % kLanes / 4 + 8 * i, weight.rows - 1);
      Unpack::set_offsets(weight.grouped ? weight.middle() : zero_of(weight, row, 0), offsets[i]);
      scales[i] = 1;  // that of a whole row comes at the end
    }
  }

  __device__ __forceinline__ void begin_group(const Weight& weight, const Step<kBits>& step,
                                              uint32_t half) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      scales[i] = Half::to_float(uint16_t(step.scales[i] >> 16 * half));
      if (!weight.zero_points) continue;
      Unpack::set_offsets(float(step.zeros[i] >> 16 * half & 0xffff), offsets[i]);
    }
  }
};

// Half a step: the lane's codes of two rows times kTiles × 8 rows of X.
template <class Number, uint32_t kBits, uint32_t kTiles, uint32_t kPieces>
struct HalfStep {
  const Step<kBits>& codes;
  uint32_t half;
  const RowPair<Number, kBits>& rows;
  const Quads& quads;
  float products[kTiles][4] = {};

  template <uint32_t kQuad>
  __device__ __forceinline__ void multiply_quad() {
    uint32_t a[2][4];  // of two tensor products
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      using Unpack = Unpacking<Number, kBits>;
      const uint32_t* words = codes.shares[i].words + half * kBits;
      a[0][i] = Unpack::template values<4 * kQuad>(words, rows.offsets[i]);
      a[0][2 + i] = Unpack::template values<4 * kQuad + 1>(words, rows.offsets[i]);
      a[1][i] = Unpack::template values<4 * kQuad + 2>(words, rows.offsets[i]);
      a[1][2 + i] = Unpack::template values<4 * kQuad + 3>(words, rows.offsets[i]);
    }
#pragma unroll
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
      if (tile >= quads.tiles) break;
#pragma unroll
      for (uint32_t piece = 0; piece < kPieces; ++piece) {
        const uint4 x = load_quad(quads.first + kQuad * quads.quad_bytes +
                                  tile * quads.tile_bytes + piece * quads.piece_bytes);
        multiply_tiles<Number>(products[tile], a[0], {x.x, x.y});
        multiply_tiles<Number>(products[tile], a[1], {x.z, x.w});
      }
    }
  }

  __device__ __forceinline__ void add_to(float (&sums)[kTiles][4]) {
    multiply_quad<0>();
    multiply_quad<1>();
    multiply_quad<2>();
    multiply_quad<3>();
    // Sums of many products are made here: tensor cores do not round to nearest.
#pragma unroll
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) sums[tile][i] += rows.scales[i / 2] * products[tile][i];
    }
  }
};

__device__ inline void store_product(const Product& p, uint32_t column, uint32_t row, float sum) {
  if (!p.weight.grouped) sum *= scale_of(p.weight, column, 0);
  const Outputs& y = p.outputs;
  if (y.bias != nullptr) sum += load(y.bias, y.element, column);
  uint32_t i = 0;
  while (i + 1 < y.count && column >= y.begin[i + 1]) ++i;
  const size_t width = y.begin[i + 1] - y.begin[i];
  store(y.data[i], y.element, (p.first_row + row) * width + column - y.begin[i], sum);
}

// Finishes a tile of `columns` × `rows` products from (first_column, first_row) on, of which
// sum(column, row) is this block's share. All threads of a block come here; `flag` is shared.
template <class Sum>
__device__ void finish_tile(const Product& p, uint32_t tile, uint32_t split, uint32_t first_column,
                            uint32_t columns, uint32_t first_row, uint32_t rows, uint32_t* flag,
                            const Sum& sum) {
  const uint32_t size = columns * rows;
  float* partial = p.partial_sums + size_t(tile) * p.splits * size;
  for (uint32_t i = threadIdx.x; i < size; i += blockDim.x) {
    const uint32_t column = first_column + i % columns, row = first_row + i / columns;
    if (column >= p.weight.rows || row >= p.x.rows) continue;
    const float mine = sum(i % columns, i / columns);
    if (p.splits > 1) {
      partial[size_t(split) * size + i] = mine;
    } else {
      store_product(p, column, row, mine);
    }
  }
  if (p.splits == 1) return;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) *flag = atomicAdd(p.arrivals + tile, 1u) == p.splits - 1;
  __syncthreads();
  if (!*flag) return;
  __threadfence();
  for (uint32_t i = threadIdx.x; i < size; i += blockDim.x) {
    const uint32_t column = first_column + i % columns, row = first_row + i / columns;
    if (column >= p.weight.rows || row >= p.x.rows) continue;
    float all = 0;
    for (uint32_t s = 0; s < p.splits; ++s) {
      all += load_shared_by_blocks(partial + size_t(s) * size + i);
    }
    store_product(p, column, row, all);
  }
}

}  // namespace fqonnx::cuda
