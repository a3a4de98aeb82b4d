// FrameMatMul and FrameDequant of docs/format.md on plain memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "frame.h"
#include "kernels.h"
#include "parallel.h"

namespace fqonnx {

enum class Accuracy { kExact, kFast };

// The attributes of a node of layout 1.
struct Attributes {
  FrameAttributes frame_in, frame_out;
  int64_t bits, block_size, group_size;
  Accuracy accuracy;
  std::vector<int64_t> splits;  // columns of each output; empty: one of dim_out
  bool trellis = false;        // the codebook; else scalar
  int64_t multiplier = 0;      // of a trellis code
};

// The packed inputs of a node; null where an optional one is absent.
struct PackedInputs {
  const uint8_t* codes;
  const uint16_t* scales;
  const uint8_t* zero_points;
  const uint8_t* signs_in;
  const uint8_t* signs_out;
  const int8_t* levels = nullptr;  // where the codebook is "trellis"
};

class FrameOperator {
 public:
  // Throws std::invalid_argument for what layout 1 does not have.
  explicit FrameOperator(const Attributes& attributes);

  const Frame& frame_in() const { return frame_in_; }
  const Frame& frame_out() const { return frame_out_; }
  bool is_trellis() const { return trellis_; }
  // Extents of the inputs.
  size_t code_rows() const;
  size_t blocks() const;
  size_t block_bytes() const;
  size_t groups() const;
  // Columns of each output of matmul.
  const std::vector<size_t>& splits() const { return splits_; }

  // Y (rows, dim_out) = (X·T_inᵀ)·Ĉ·T_out + bias, cut into outputs (rows, splits[i]). X, bias and Y
  // are float32, or all float16.
  template <class Element>
  void matmul(const Element* x, size_t rows, const PackedInputs& inputs, const Element* bias,
              std::vector<Element*> outputs, ThreadPool& pool) const;
  // W (dim_in, dim_out) = T_inᵀ·Ĉ·T_out.
  template <class Element>
  void dequantize(const PackedInputs& inputs, Element* weight, ThreadPool& pool) const;

 private:
  template <class Element>
  void matmul_part(const Element* x, size_t rows, const PackedInputs& inputs, const Element* bias,
                   const std::vector<Element*>& outputs, ThreadPool& pool) const;
  PackedWeight packed(const PackedInputs& inputs) const;

  Frame frame_in_;
  Frame frame_out_;
  size_t bits_;
  size_t block_size_;
  size_t group_size_;
  bool trellis_;
  uint16_t multiplier_;
  Accuracy accuracy_;
  std::vector<size_t> splits_;
};

}  // namespace fqonnx
