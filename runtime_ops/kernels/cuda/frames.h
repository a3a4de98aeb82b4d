// Frames on the device: what kernels need of fqonnx::Frame, and its tables in one piece of memory.
#pragma once

#include <cstdint>
#include <vector>

#include "frame.h"

namespace fqonnx {

namespace cuda {

struct TetrisRow {
  uint32_t start, width, block;  // of (width, 2·k) among the blocks
};

// Each direction has three steps, of which only the one in the middle is in place: to the `work`
// numbers of the frame, Walsh–Hadamard transforms of runs of `order`, and from there.
struct DeviceFrame {
  enum Kind : uint32_t { kIdentity, kHadamard, kFusion, kHarmonic } kind;
  uint32_t dim, num_vectors;
  uint32_t work;              // floats between the steps
  uint32_t order, log_order;  // 2^p and p; 0: no transform
  float scale;                // 2^(−p/2)
  uint32_t stride, inverse;   // entry i is at i·stride modulo work, which has entry j·inverse
  uint32_t odd;               // order q of the transform across the runs
  const float* odd_matrix;

  uint32_t vectors_per_row;   // 2·k
  const TetrisRow* rows;
  const uint32_t* first_row;  // that touches a coordinate; the next one may too
  const float* blocks;

  uint32_t n1, n2, k2;
  const float *inner, *outer, *cosines, *sines;
};

}  // namespace cuda

// The tables of a frame as bytes, and a DeviceFrame whose pointers are into a copy of them.
class FrameTables {
 public:
  explicit FrameTables(const Frame& frame);

  const std::vector<unsigned char>& bytes() const { return bytes_; }
  cuda::DeviceFrame on_device(const void* bytes) const;

 private:
  template <class T>
  size_t add(const std::vector<T>& table) {
    const size_t offset = bytes_.size();
    const auto* data = reinterpret_cast<const unsigned char*>(table.data());
    bytes_.insert(bytes_.end(), data, data + table.size() * sizeof(T));
    return offset;
  }
  void add_fusion(const Frame& frame);

  cuda::DeviceFrame frame_{};
  std::vector<unsigned char> bytes_;
  size_t odd_matrix_ = 0, rows_ = 0, first_row_ = 0, blocks_ = 0;
  size_t inner_ = 0, outer_ = 0, cosines_ = 0, sines_ = 0;
};

}  // namespace fqonnx
