// FrameMatMul and FrameDequant of docs/format.md on the memory of a GPU.
//
// Nothing but prepare allocates, waits, or uses another stream than the caller's: a call may be
// captured into a CUDA graph. Pointers are to memory of the current device, scratch and tables at
// multiples of 256 bytes.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "elements.h"
#include "frames.h"
#include "operators.h"

namespace fqonnx::cuda {

// One of the tensors that the columns of a product go to, one after the other.
struct Output {
  void* data;  // (rows, width)
  size_t width;
};

// What multiplies many rows: ours, cuBLAS, or the one that should be faster.
enum class Path : uint32_t { kFaster, kFused, kCublas };

class Cublas;

class CudaOperator {
 public:
  // Throws std::invalid_argument for what layout 1 does not have.
  explicit CudaOperator(const Attributes& attributes);

  const FrameOperator& extents() const { return extents_; }

  // Before the first call: copies the tables of its frames to `memory`, which has to stay, and
  // looks for cuBLAS. Without tables, where both frames are identities or Hadamard frames of order
  // 2^p, `memory` may be null.
  size_t table_bytes() const { return tables_in_.bytes().size() + tables_out_.bytes().size(); }
  void prepare(void* memory);

  // Takes one path for any number of rows, to compare them; X in float32 has but the fused one.
  void force(Path path);

  // Y (rows, dim_out) = (X·T_inᵀ)·Ĉ·T_out + bias; X, bias and Y are of one type. Y is in pieces, of
  // which there is one unless frame_out is the identity.
  size_t matmul_scratch_bytes(size_t rows, Element element) const;
  void matmul(const void* x, Element element, size_t rows, const PackedInputs& inputs,
              const void* bias, const std::vector<Output>& outputs, void* scratch,
              void* stream) const;

  // W (dim_in, dim_out) = T_inᵀ·Ĉ·T_out.
  size_t dequantize_scratch_bytes() const;
  void dequantize(const PackedInputs& inputs, Element element, void* weight, void* scratch,
                  void* stream) const;

 private:
  struct MatmulPlan;
  struct DequantizePlan;
  bool uses_cublas(size_t rows, Element element) const;
  size_t rows_at_once(size_t rows, Element element) const;
  MatmulPlan plan(uint32_t rows, Element element) const;
  DequantizePlan plan_dequantize(void* scratch) const;

  Attributes attributes_;
  FrameOperator extents_;
  FrameTables tables_in_, tables_out_;
  DeviceFrame frame_in_, frame_out_;
  const Cublas* cublas_ = nullptr;
  Path path_ = Path::kFaster;
};

}  // namespace fqonnx::cuda
