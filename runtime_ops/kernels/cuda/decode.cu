// Few rows of X: codes stream through, each read once.
//
// A block takes tiles of 16 rows of codes, one after the other; its warps share the steps of a tile
// and add up what they have at its end. Codes of the next turn, of this tile or the next, are on
// their way while those of this one are multiplied, so that memory is never waited for at a tile's
// end; the first are asked for before the kernel in front, which makes the activations, has ended.

#include <algorithm>

#include "products.h"

namespace fqonnx::cuda {
namespace {

constexpr uint32_t kWarps = 8;
constexpr uint32_t kBlocksPerProcessor = 2;

// Steps of a warp at a turn: about 64 bytes of codes a lane.
__host__ __device__ constexpr uint32_t steps_ahead(uint32_t bits) {
  return bits == 1 ? 4 : bits == 2 ? 2 : 1;
}

template <class Number, uint32_t kBits, uint32_t kPieces>
__global__ void __launch_bounds__(kWarps* kLanes, kBlocksPerProcessor) decode_tiles(Product p) {
  constexpr uint32_t kAhead = steps_ahead(kBits);
  const uint32_t warp = threadIdx.x / kLanes, warps = blockDim.x / kLanes;
  const uint32_t lane = threadIdx.x % kLanes;
  const uint32_t tiles = (p.weight.rows + kTileRows - 1) / kTileRows;
  const Span span = span_of_split(blockIdx.y, p.splits, p.weight.steps());
  const uint32_t turns = (span.last - span.first + warps * kAhead - 1) / (warps * kAhead);

  // In shared memory: sums of all warps, twice, a flag, and the activations of this span.
  constexpr uint32_t kSums = kTileRows * kDecodeRows;
  float* const warp_sums = reinterpret_cast<float*>(shared_memory());
  uint32_t* const flag = reinterpret_cast<uint32_t*>(warp_sums + 2 * warps * kSums);
  unsigned char* const activations = reinterpret_cast<unsigned char*>(flag + 4);
  const uint32_t step_bytes = kStep * 2 * p.x.rows;
  const uint32_t piece_bytes = (span.last - span.first) * step_bytes;

  const auto step_of = [&](uint32_t turn, uint32_t i) {
    return span.first + (turn * kAhead + i) * warps + warp;
  };
  Step<kBits> next[kAhead];
  const auto load_next = [&](uint32_t tile, uint32_t turn) {
#pragma unroll
    for (uint32_t i = 0; i < kAhead; ++i) {
      if (step_of(turn, i) < span.last) next[i].load(p.weight, tile * kTileRows, step_of(turn, i));
    }
  };
  uint32_t tile = blockIdx.x, turn = 0;
  load_next(tile, turn);

  wait_for_kernel_before();
  for (uint32_t piece = 0; piece < kPieces; ++piece) {
    const uint16_t* numbers = p.x.numbers + piece * p.x.piece_size();
    const auto* from = reinterpret_cast<const unsigned char*>(numbers);
    for (uint32_t i = threadIdx.x * 16; i < piece_bytes; i += blockDim.x * 16) {
      copy_async(activations + piece * piece_bytes + i, from + span.first * step_bytes + i);
    }
  }
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();

  const uint32_t quad_bytes = 64 * p.x.rows;
  // Lanes that have no row of X take the last one: nobody looks at what they give.
  const uint32_t first_quad = min(lane / 4, p.x.rows - 1) * 64 + lane % 4 * 16;
  RowPair<Number, kBits> rows;
  float sums[1][4] = {};
  uint32_t buffer = 0;
  rows.begin(p.weight, tile * kTileRows);
  while (tile < tiles) {
    Step<kBits> steps[kAhead];
#pragma unroll
    for (uint32_t i = 0; i < kAhead; ++i) steps[i] = next[i];
    const bool ends = turn + 1 == turns;
    const uint32_t next_tile = ends ? tile + gridDim.x : tile, next_turn = ends ? 0 : turn + 1;
    if (next_tile < tiles) load_next(next_tile, next_turn);

#pragma unroll
    for (uint32_t i = 0; i < kAhead; ++i) {
      const uint32_t step = step_of(turn, i);
      if (step >= span.last) continue;
      if (p.weight.grouped) {
        exchange_halves<kBits>(steps[i].shares[0]);
        exchange_halves<kBits>(steps[i].shares[1]);
      }
      const unsigned char* at = activations + (step - span.first) * step_bytes + first_quad;
#pragma unroll
      for (uint32_t half = 0; half < 2; ++half) {
        if (p.weight.grouped) rows.begin_group(p.weight, steps[i], half);
        const Quads quads{at + half * 4 * quad_bytes, quad_bytes, 0, piece_bytes, 1};
        HalfStep<Number, kBits, 1, kPieces>{steps[i], half, rows, quads}.add_to(sums);
      }
    }

    if (ends) {
      float* const shared_sums = warp_sums + buffer * warps * kSums;
      const uint32_t row = lane / 4, column = lane % 4 * 2;
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        shared_sums[warp * kSums + (column + i % 2) * kTileRows + row + i / 2 * 8] = sums[0][i];
        sums[0][i] = 0;
      }
      __syncthreads();
      finish_tile(p, tile, blockIdx.y, tile * kTileRows, kTileRows, 0, p.x.rows, flag,
                  [&](uint32_t column, uint32_t row) {
                    float sum = 0;
                    for (uint32_t w = 0; w < warps; ++w) {
                      sum += shared_sums[w * kSums + row * kTileRows + column];
                    }
                    return sum;
                  });
      buffer ^= 1;  // threads may still read this one
      if (next_tile < tiles) rows.begin(p.weight, next_tile * kTileRows);
    }
    tile = next_tile, turn = next_turn;
  }
}

constexpr size_t kSharedSums = 2 * kWarps * kTileRows * kDecodeRows * sizeof(float) + 16;

size_t step_bytes(const Activations& x) { return size_t(kStep) * 2 * x.rows * x.pieces; }

uint32_t num_tiles(const Weight& weight) { return (weight.rows + kTileRows - 1) / kTileRows; }

template <class Number, uint32_t kPieces>
void launch_decode(const Product& p, const Launch& how) {
  switch (p.weight.bits) {
    case 1: return launch(decode_tiles<Number, 1, kPieces>, how, p);
    case 2: return launch(decode_tiles<Number, 2, kPieces>, how, p);
    case 3: return launch(decode_tiles<Number, 3, kPieces>, how, p);
    default: return launch(decode_tiles<Number, 4, kPieces>, how, p);
  }
}

}  // namespace

ProductPlan plan_decode(const Weight& weight, const Activations& x, const Device& device) {
  const uint32_t tiles = num_tiles(weight), steps = x.steps;
  // Activations must leave room for other blocks; every processor should have all of its blocks,
  // and every warp a step.
  const size_t room = device.shared_bytes / kBlocksPerProcessor - kSharedSums - 1024;
  const uint32_t fit = uint32_t(room / step_bytes(x)), fitting = (steps + fit - 1) / fit;
  const uint32_t busy = kBlocksPerProcessor * device.processors / tiles;
  const uint32_t useful = steps / kWarps;
  const uint32_t splits = std::max({1u, fitting, std::min(busy, useful)});
  const size_t partial = splits > 1 ? size_t(tiles) * splits * kTileRows * x.rows : 0;
  return {std::min(splits, steps), tiles, partial};
}

void decode(const Product& p, const Device& device, cudaStream_t stream) {
  const uint32_t tiles = num_tiles(p.weight), steps = (p.x.steps + p.splits - 1) / p.splits;
  const uint32_t ahead = steps_ahead(p.weight.bits);
  const uint32_t warps = std::min(kWarps, (steps + ahead - 1) / ahead);
  const uint32_t resident = std::max(1u, kBlocksPerProcessor * device.processors / p.splits);
  const Launch how{dim3(std::min(tiles, resident), p.splits), warps * kLanes,
                   kSharedSums + steps * step_bytes(p.x), stream, device.early_launches};
  if (p.x.element == Element::kHalf) return launch_decode<Half, 1>(p, how);
  p.x.pieces == 1 ? launch_decode<BFloat16, 1>(p, how) : launch_decode<BFloat16, 3>(p, how);
}

}  // namespace fqonnx::cuda
