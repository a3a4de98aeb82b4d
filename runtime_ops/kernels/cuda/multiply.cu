// Many rows of X: each code that is unpacked meets up to 64 of them on tensor cores.
//
// A block has a tile of 128 rows of codes, 16 a warp, and 16 or 64 rows of X, whose activations
// come to shared memory a step ahead.

#include <algorithm>

#include "products.h"

namespace fqonnx::cuda {
namespace {

constexpr uint32_t kWarps = 8;
constexpr uint32_t kColumns = kWarps * kTileRows;  // of the product
constexpr uint32_t kPitch = kColumns + 4;          // of sums in shared memory, away from conflicts
constexpr uint32_t kTileBytes = 8 * kStep * 2;     // activations of a step, for 8 rows
constexpr uint32_t kFlagBytes = 16;

template <class Number, uint32_t kBits, uint32_t kTiles, uint32_t kPieces>
__global__ void __launch_bounds__(kWarps* kLanes, 2) multiply_tiles_of_rows(Product p) {
  const uint32_t warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const uint32_t first_column = blockIdx.x * kColumns, first_row = blockIdx.z * kTiles * 8;
  const uint32_t rows = min(kTiles * 8, p.x.rows - first_row), tiles = (rows + 7) / 8;
  const Span span = span_of_split(blockIdx.y, p.splits, p.weight.steps());
  uint32_t* const flag = reinterpret_cast<uint32_t*>(shared_memory());
  unsigned char* const activations = shared_memory() + kFlagBytes;
  constexpr uint32_t piece_bytes = kTiles * kTileBytes, buffer_bytes = kPieces * piece_bytes;

  const auto stage = [&](uint32_t step) {
    unsigned char* to = activations + step % 2 * buffer_bytes;
    for (uint32_t part = 0; part < kPieces * tiles; ++part) {
      const uint32_t piece = part / tiles, tile = part % tiles;
      const auto* from = reinterpret_cast<const unsigned char*>(
          p.x.numbers + piece * p.x.piece_size() + (first_row / 8 + tile) * p.x.tile_size());
      for (uint32_t i = threadIdx.x * 16; i < kTileBytes; i += blockDim.x * 16) {
        copy_async(to + piece * piece_bytes + tile * kTileBytes + i,
                   from + size_t(step) * kTileBytes + i);
      }
    }
    commit_copies();
  };

  const uint32_t first_code_row = first_column + warp * kTileRows;
  RowPair<Number, kBits> row_pair;
  row_pair.begin(p.weight, first_code_row);
  Step<kBits> next;
  next.load(p.weight, first_code_row, span.first);
  wait_for_kernel_before();
  stage(span.first);

  float sums[kTiles][4] = {};
  for (uint32_t step = span.first; step < span.last; ++step) {
    wait_for_copies<0>();
    __syncthreads();
    Step<kBits> codes = next;
    if (step + 1 < span.last) {
      stage(step + 1);
      next.load(p.weight, first_code_row, step + 1);
    }
    if (p.weight.grouped) {
      exchange_halves<kBits>(codes.shares[0]);
      exchange_halves<kBits>(codes.shares[1]);
    }
    constexpr uint32_t kQuadBytes = 64 * 8;
    const unsigned char* at = activations + step % 2 * buffer_bytes + lane * 16;
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      if (p.weight.grouped) row_pair.begin_group(p.weight, codes, half);
      const Quads quads{at + half * 4 * kQuadBytes, kQuadBytes, kTileBytes, piece_bytes, tiles};
      HalfStep<Number, kBits, kTiles, kPieces>{codes, half, row_pair, quads}.add_to(sums);
    }
  }

  __syncthreads();  // activations give way to sums
  float* const shared_sums = reinterpret_cast<float*>(activations);
#pragma unroll
  for (uint32_t tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t row = tile * 8 + lane % 4 * 2 + i % 2;
      const uint32_t column = warp * kTileRows + lane / 4 + i / 2 * 8;
      shared_sums[row * kPitch + column] = sums[tile][i];
    }
  }
  __syncthreads();
  finish_tile(p, blockIdx.z * gridDim.x + blockIdx.x, blockIdx.y, first_column, kColumns, first_row,
              kTiles * 8, flag, [&](uint32_t column, uint32_t row) {
                return shared_sums[row * kPitch + column];
              });
}

// Eights of rows of X that a block takes.
uint32_t eights(const Activations& x) { return x.rows <= 16 || x.pieces > 1 ? 2 : 8; }

dim3 grid_of(const Weight& weight, const Activations& x, uint32_t splits) {
  const uint32_t rows = 8 * eights(x);
  return dim3((weight.rows + kColumns - 1) / kColumns, splits, (x.rows + rows - 1) / rows);
}

template <class Number, uint32_t kTiles, uint32_t kPieces>
void launch_multiply(const Product& p, const Launch& how) {
  switch (p.weight.bits) {
    case 1: return launch(multiply_tiles_of_rows<Number, 1, kTiles, kPieces>, how, p);
    case 2: return launch(multiply_tiles_of_rows<Number, 2, kTiles, kPieces>, how, p);
    case 3: return launch(multiply_tiles_of_rows<Number, 3, kTiles, kPieces>, how, p);
    default: return launch(multiply_tiles_of_rows<Number, 4, kTiles, kPieces>, how, p);
  }
}

}  // namespace

ProductPlan plan_multiply(const Weight& weight, const Activations& x, const Device& device) {
  constexpr uint32_t kLeastSteps = 4;  // of a split, to be worth its sums
  const dim3 grid = grid_of(weight, x, 1);
  const uint32_t tiles = grid.x * grid.z;
  const uint32_t busy = 2 * device.processors / tiles;
  const uint32_t splits = std::max(1u, std::min(busy, x.steps / kLeastSteps));
  const size_t partial = splits > 1 ? size_t(tiles) * splits * kColumns * 8 * eights(x) : 0;
  return {splits, tiles, partial};
}

void multiply(const Product& p, const Device& device, cudaStream_t stream) {
  const uint32_t tiles = eights(p.x);
  const size_t activations = size_t(2) * p.x.pieces * tiles * kTileBytes;
  const size_t sums = size_t(tiles) * 8 * kPitch * sizeof(float);
  const Launch how{grid_of(p.weight, p.x, p.splits), kWarps * kLanes,
                   kFlagBytes + std::max(activations, sums), stream, device.early_launches};
  if (p.x.element == Element::kHalf) {
    tiles == 2 ? launch_multiply<Half, 2, 1>(p, how) : launch_multiply<Half, 8, 1>(p, how);
  } else if (p.x.pieces == 1) {
    tiles == 2 ? launch_multiply<BFloat16, 2, 1>(p, how) : launch_multiply<BFloat16, 8, 1>(p, how);
  } else {
    launch_multiply<BFloat16, 2, 3>(p, how);
  }
}

}  // namespace fqonnx::cuda
