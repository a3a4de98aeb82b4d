// cuBLAS, where there is one: nothing is linked, it is looked for when the program runs.
#pragma once

#include <mutex>

#include "device.h"
#include "elements.h"

namespace fqonnx::cuda {

// y (rows, columns), rows being `pitch` numbers apart, = x (rows, depth)·weight (columns, depth)ᵀ,
// plus y where it `adds`.
struct Gemm {
  const void *x, *weight;
  void* y;
  Element element, y_element;
  uint32_t rows, columns, depth;
  size_t pitch;
  bool adds;
};

class Cublas {
 public:
  // That of the current device, made at the first call, which allocates and waits; null where there
  // is none.
  static const Cublas* of_current_device();

  int device() const { return device_; }
  // Puts a product into the stream; sums are float32. Any thread may call.
  void multiply(const Gemm& gemm, void* workspace, size_t workspace_bytes,
                cudaStream_t stream) const;

 private:
  Cublas(int device, void* handle) : device_(device), handle_(handle) {}

  int device_;
  void* handle_;
  mutable std::mutex mutex_;  // a handle has one stream and one workspace
};

}  // namespace fqonnx::cuda
