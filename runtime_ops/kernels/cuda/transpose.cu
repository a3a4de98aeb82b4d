#include "transforms.h"

namespace fqonnx::cuda {
namespace {

constexpr uint32_t kTile = 32, kPitch = kTile + 1;  // a column of a tile is in different banks

__global__ void transpose_tile(const float* from, uint32_t rows, uint32_t columns, Rows to,
                               size_t pitch, size_t first) {
  float* const tile = reinterpret_cast<float*>(shared_memory());
  const uint32_t x = threadIdx.x % kTile, height = blockDim.x / kTile;
  const uint32_t row = blockIdx.y * kTile, column = blockIdx.x * kTile;
  for (uint32_t y = threadIdx.x / kTile; y < kTile; y += height) {
    if (row + y < rows && column + x < columns) {
      tile[y * kPitch + x] = from[size_t(row + y) * columns + column + x];
    }
  }
  __syncthreads();
  for (uint32_t y = threadIdx.x / kTile; y < kTile; y += height) {
    if (row + x < rows && column + y < columns) {
      store(to.data, to.element, (column + y) * pitch + first + row + x, tile[x * kPitch + y]);
    }
  }
}

}  // namespace

void transpose(const float* from, uint32_t rows, uint32_t columns, Rows to, size_t pitch,
               size_t first, cudaStream_t stream) {
  const dim3 grid((columns + kTile - 1) / kTile, (rows + kTile - 1) / kTile);
  launch(transpose_tile, {grid, 256, kTile * kPitch * sizeof(float), stream}, from, rows, columns,
         to, pitch, first);
}

}  // namespace fqonnx::cuda
