// x·Tᵀ and coeffs·T, a block for each row.
#pragma once

#include "codes.h"
#include "frames.h"

namespace fqonnx::cuda {

// Coefficients of rows of X, in one or more numbers of 16 bits that add up to each, in the order of
// codes.h: (pieces, ⌈rows/8⌉, quads of all steps, 8 rows, lane of four, 8). There are fewer than 8
// rows only if there are fewer in all; what fills the last 8 up is never written, nor looked at.
struct Activations {
  uint16_t* numbers;
  uint32_t rows, steps;
  uint32_t pieces;
  Element element;    // kHalf or kBFloat16
  uint32_t bits, grouped;  // of the codes that they meet

  __host__ __device__ uint32_t tile_rows() const { return rows < 8 ? rows : 8; }
  __host__ __device__ size_t tile_size() const { return size_t(tile_rows()) * steps * kStep; }
  __host__ __device__ size_t piece_size() const { return (rows + 7) / 8 * tile_size(); }
};

// Memory of a row's transform: shared where it fits, else in scratch.
struct TransformMemory {
  unsigned threads;
  size_t shared_bytes, scratch_bytes;  // of a row
};
TransformMemory plan_transform(const DeviceFrame& frame, const Device& device);

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

// The same with rows of Ĉᵀ, from `first_row` on, in the place of coefficients.
void synthesise_codes(const DeviceFrame& frame, const Weight& weight, uint32_t first_row,
                      uint32_t rows, const uint8_t* signs, Rows y, float* scratch,
                      const Device& device, cudaStream_t stream);

// to (columns, pitch), from column `first` on, = transpose of from (rows, columns).
void transpose(const float* from, uint32_t rows, uint32_t columns, Rows to, size_t pitch,
               size_t first, cudaStream_t stream);

}  // namespace fqonnx::cuda
