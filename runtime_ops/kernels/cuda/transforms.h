// x·Tᵀ and coeffs·T of rows, and Tᵀ·Ĉ.
#pragma once

#include "codes.h"
#include "frames.h"

namespace fqonnx::cuda {

// Coefficients of rows of X, in one or more numbers of 16 bits that add up to each, in the order of
// codes.h: (pieces, ⌈rows/tile_rows⌉, quads of all steps, tile_rows, lane of four, 8). Our kernels
// want tiles of 8 rows, or of all where there are fewer; tiles of one are rows in a matrix. What
// fills the last tile up is never written, nor looked at.
struct Activations {
  uint16_t* numbers;
  uint32_t rows, tile_rows, steps;
  uint32_t pieces;
  Element element;    // kHalf or kBFloat16
  Order order;

  __host__ __device__ size_t tile_size() const { return size_t(tile_rows) * steps * kStep; }
  __host__ __device__ size_t piece_size() const {
    return (rows + tile_rows - 1) / tile_rows * tile_size();
  }
};

// Blocks that transform rows, and their memory: shared where it fits, and then a block for each
// row, else in scratch, and then they take turns.
struct TransformPlan {
  uint32_t blocks;
  unsigned threads;
  size_t shared_bytes, scratch_floats;
};
TransformPlan plan_transform(const DeviceFrame& frame, size_t rows, const Device& device);

// A matrix of any element type.
struct Rows {
  void* data;
  Element element;
};

// Fills `to` with x from `first_row` on, and `num_cleared` integers of `cleared` with zeros, for
// the kernel behind.
void analyse(const DeviceFrame& frame, Rows x, uint32_t first_row, const uint8_t* signs,
             const Activations& to, uint32_t* cleared, uint32_t num_cleared, float* scratch,
             const Device& device, cudaStream_t stream);

// y (rows, dim) = coeffs (rows, num_vectors)·T + bias; a null bias is none.
void synthesise(const DeviceFrame& frame, const float* coeffs, uint32_t rows, const uint8_t* signs,
                const void* bias, Rows y, size_t first_row, float* scratch, const Device& device,
                cudaStream_t stream);

// to (dim, rows of the weight) = Tᵀ·Ĉ.
size_t synthesise_codes_scratch_floats(const DeviceFrame& frame, const Weight& weight,
                                       const Device& device);
void synthesise_codes(const DeviceFrame& frame, const Weight& weight, const uint8_t* signs, Rows to,
                      float* scratch, const Device& device, cudaStream_t stream);

}  // namespace fqonnx::cuda
