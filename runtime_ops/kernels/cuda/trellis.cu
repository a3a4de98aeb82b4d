// Trellis codes times few rows of X, or, where there is no cuBLAS for them, any number.
//
// A block has a span of a strip and 8 or 16 rows of X. Its warps share the units of the span, whose
// codes they load a unit ahead, the first ones before the kernel in front has ended, and add up
// what they have at its end. What it costs is to decode: a shift, a product, an entry of the table.

#include <algorithm>

#include "products.h"
#include "trellis.h"

namespace fqonnx::cuda {
namespace {

constexpr uint32_t kWarps = 8;
constexpr uint32_t kBlocksPerProcessor = 2;
constexpr uint32_t kSlices = kStripRows / kTileRows;
constexpr uint32_t kPitch = kStripRows + 1;  // of sums in shared memory
constexpr uint32_t kTableBytes = kLevels * sizeof(uint16_t), kFlagBytes = 16;

template <class Number, uint32_t kBits, uint32_t kTiles, uint32_t kPieces>
__global__ void __launch_bounds__(kWarps* kLanes, kTiles == 1 ? kBlocksPerProcessor : 1)
    multiply_strips(Product p) {
  const uint32_t warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes, strip = blockIdx.x;
  const uint32_t first_tile = blockIdx.z * kTiles, tile_rows = p.x.tile_rows;
  const uint32_t tiles = min(kTiles, (p.x.rows + tile_rows - 1) / tile_rows - first_tile);
  const Span span = span_of_split(blockIdx.y, p.splits, units_of(p.weight));
  uint32_t* const flag = reinterpret_cast<uint32_t*>(shared_memory() + kTableBytes);
  unsigned char* const activations = shared_memory() + kTableBytes + kFlagBytes;
  const uint32_t quad_bytes = tile_rows * 4 * kQuad * 2, unit_bytes = kUnitQuads * quad_bytes;
  const uint32_t tile_bytes = (span.last - span.first) * unit_bytes;

  UnitWords<kBits> next;
  if (span.first + warp < span.last) next.load(p.weight, strip, span.first + warp);
  const Levels<Number> levels(p.weight, reinterpret_cast<uint16_t*>(shared_memory()));

  wait_for_kernel_before();
  for (uint32_t part = 0; part < kPieces * tiles; ++part) {
    const uint32_t piece = part / tiles, tile = part % tiles;
    const auto* from = reinterpret_cast<const unsigned char*>(
        p.x.numbers + piece * p.x.piece_size() + (first_tile + tile) * p.x.tile_size());
    unsigned char* to = activations + (piece * kTiles + tile) * tile_bytes;
    for (uint32_t i = threadIdx.x * 16; i < tile_bytes; i += blockDim.x * 16) {
      copy_async(to + i, from + size_t(span.first) * unit_bytes + i);
    }
  }
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();

  // Lanes that have no row of X take the last one: nobody looks at what they give.
  const uint32_t mine = min(lane / 4, tile_rows - 1) * 64 + lane % 4 * 16;
  float sums[kTiles][kSlices][4] = {};
  for (uint32_t unit = span.first + warp; unit < span.last; unit += kWarps) {
    const UnitWords<kBits> codes = next;
    if (unit + kWarps < span.last) next.load(p.weight, strip, unit + kWarps);
    float products[kTiles][kSlices][4] = {};
#pragma unroll
    for (uint32_t quad = 0; quad < kUnitQuads; ++quad) {
      uint4 x[kTiles][kPieces] = {};
      const unsigned char* at =
          activations + (unit - span.first) * unit_bytes + quad * quad_bytes + mine;
#pragma unroll
      for (uint32_t i = 0; i < kTiles * kPieces; ++i) {
        const uint32_t tile = i / kPieces, piece = i % kPieces;
        if (tile < tiles) x[tile][piece] = load_quad(at + (piece * kTiles + tile) * tile_bytes);
      }
#pragma unroll
      for (uint32_t half = 0; half < 2; ++half) {
        const Stream<kBits> stream(codes.words[2 * quad + half]);
#pragma unroll
        for (uint32_t slice = 0; slice < kSlices; ++slice) {
          const uint32_t a[4] = {
              stream.pair(levels, 8 * slice), stream.pair(levels, 8 * slice + 4),
              stream.pair(levels, 8 * slice + 2), stream.pair(levels, 8 * slice + 6)};
#pragma unroll
          for (uint32_t i = 0; i < kTiles * kPieces; ++i) {
            const uint4& all = x[i / kPieces][i % kPieces];
            const uint32_t b[2] = {half ? all.z : all.x, half ? all.w : all.y};
            multiply_tiles<Number>(products[i / kPieces][slice], a, b);
          }
        }
      }
    }
    // Sums of many products are made here: tensor cores do not round to nearest.
#pragma unroll
    for (uint32_t i = 0; i < kTiles * kSlices * 4; ++i) {
      sums[i / (kSlices * 4)][i / 4 % kSlices][i % 4] +=
          products[i / (kSlices * 4)][i / 4 % kSlices][i % 4];
    }
  }

  __syncthreads();  // activations give way to sums
  constexpr uint32_t kRows = 8 * kTiles;
  float* const shared_sums = reinterpret_cast<float*>(activations);
#pragma unroll
  for (uint32_t i = 0; i < kTiles * kSlices * 4; ++i) {
    const uint32_t tile = i / (kSlices * 4), slice = i / 4 % kSlices;
    const uint32_t row = tile * 8 + lane % 4 * 2 + i % 2;
    const uint32_t column = lane / 4 * kLaneRows + slice * 2 + i % 4 / 2;
    shared_sums[(warp * kRows + row) * kPitch + column] = sums[tile][slice][i % 4];
  }
  __syncthreads();
  finish_tile(p, blockIdx.z * gridDim.x + strip, blockIdx.y, strip * kStripRows, kStripRows,
              first_tile * 8, kRows, flag, [&](uint32_t column, uint32_t row) {
                float sum = 0;
                for (uint32_t w = 0; w < kWarps; ++w) {
                  sum += shared_sums[(w * kRows + row) * kPitch + column];
                }
                return sum;
              });
}

uint32_t tiles_of(const Activations& x) { return x.rows <= kDecodeRows ? 1 : 2; }

size_t unit_bytes(const Activations& x) {
  return size_t(kUnit) * 2 * x.tile_rows * tiles_of(x) * x.pieces;
}

dim3 grid_of(const Weight& weight, const Activations& x, uint32_t splits) {
  const uint32_t rows = 8 * tiles_of(x);
  return dim3(strips_of(weight), splits, (x.rows + rows - 1) / rows);
}

template <class Number, uint32_t kTiles, uint32_t kPieces>
void launch_strips(const Product& p, const Launch& how) {
  switch (p.weight.bits) {
    case 1: return launch(multiply_strips<Number, 1, kTiles, kPieces>, how, p);
    case 2: return launch(multiply_strips<Number, 2, kTiles, kPieces>, how, p);
    case 3: return launch(multiply_strips<Number, 3, kTiles, kPieces>, how, p);
    default: return launch(multiply_strips<Number, 4, kTiles, kPieces>, how, p);
  }
}

template <uint32_t kTiles>
void launch_type(const Product& p, const Launch& how) {
  if (p.x.element == Element::kHalf) return launch_strips<Half, kTiles, 1>(p, how);
  p.x.pieces == 1 ? launch_strips<BFloat16, kTiles, 1>(p, how)
                  : launch_strips<BFloat16, kTiles, 3>(p, how);
}

}  // namespace

ProductPlan plan_trellis(const Weight& weight, const Activations& x, const Device& device) {
  const dim3 grid = grid_of(weight, x, 1);
  const uint32_t tiles = grid.x * grid.z, units = units_of(weight);
  // Activations must leave room for other blocks. Processors should have their blocks twice, so
  // that the last ones do not wait long, but every warp two units at least.
  const size_t room = device.shared_bytes / kBlocksPerProcessor - kTableBytes - kFlagBytes - 1024;
  const uint32_t fit = uint32_t(room / unit_bytes(x)), fitting = (units + fit - 1) / fit;
  const uint32_t busy = (2 * kBlocksPerProcessor * device.processors + tiles - 1) / tiles;
  const uint32_t useful = units / (2 * kWarps);
  const uint32_t splits = std::min(std::max({1u, fitting, std::min(busy, useful)}), units);
  const size_t partial = splits > 1 ? size_t(tiles) * splits * kStripRows * 8 * tiles_of(x) : 0;
  return {splits, tiles, partial};
}

void multiply_trellis(const Product& p, const Device& device, cudaStream_t stream) {
  const uint32_t units = (units_of(p.weight) + p.splits - 1) / p.splits, tiles = tiles_of(p.x);
  const size_t sums = size_t(kWarps) * 8 * tiles * kPitch * sizeof(float);
  const Launch how{grid_of(p.weight, p.x, p.splits), kWarps * kLanes,
                   kTableBytes + kFlagBytes + std::max(units * unit_bytes(p.x), sums), stream,
                   device.early_launches};
  tiles == 1 ? launch_type<1>(p, how) : launch_type<2>(p, how);
}

}  // namespace fqonnx::cuda
