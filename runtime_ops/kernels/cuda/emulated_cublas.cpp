// What cublas.cu uses of cuBLAS, on the host: a library of its own, which is found as the real one.
// What it is not made for it refuses.

#include <cstddef>
#include <cstdint>

#include "numbers.h"

namespace {

using fqonnx::cuda::BFloat16;
using fqonnx::cuda::Element;
using fqonnx::cuda::Half;

constexpr int kRefused = 7;  // CUBLAS_STATUS_INVALID_VALUE

struct Handle {
  bool exact = false, has_workspace = false;
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int cublasCreate_v2(void** handle) {
  *handle = new Handle;
  return 0;
}

EXPORT int cublasSetMathMode(void* handle, int mode) {
  static_cast<Handle*>(handle)->exact = mode == 16;
  return 0;
}

EXPORT int cublasSetStream_v2(void* handle, void*) {
  static_cast<Handle*>(handle)->has_workspace = false;
  return 0;
}

EXPORT int cublasSetWorkspace_v2(void* handle, void* workspace, size_t bytes) {
  const bool aligned = reinterpret_cast<uintptr_t>(workspace) % 256 == 0;
  static_cast<Handle*>(handle)->has_workspace = aligned && bytes > 0;
  return aligned ? 0 : kRefused;
}

// C (m, n) = α·Aᵀ·B + β·C, A (k, m) and B (k, n), all down columns.
EXPORT int cublasGemmEx(void* handle, int transpose_a, int transpose_b, int m, int n, int k,
                        const void* alpha, const void* a, int a_type, int lda, const void* b,
                        int b_type, int ldb, const void* beta, void* c, int c_type, int ldc,
                        int compute_type, int algorithm) {
  const auto element_of = [](int type) {
    return type == 0 ? Element::kFloat : type == 2 ? Element::kHalf : Element::kBFloat16;
  };
  const Handle& with = *static_cast<Handle*>(handle);
  const bool types = (a_type == 2 || a_type == 14) && b_type == a_type &&
                     (c_type == a_type || c_type == 0);
  if (!with.exact || !with.has_workspace || transpose_a != 1 || transpose_b != 0 || !types ||
      m <= 0 || n <= 0 || lda < k || ldb < k || ldc < m || compute_type != 68 || algorithm != -1) {
    return kRefused;
  }
  const float product_factor = *static_cast<const float*>(alpha);
  const float old_factor = *static_cast<const float*>(beta);
  const Element from = element_of(a_type), to = element_of(c_type);
  for (int column = 0; column < n; ++column) {
    for (int row = 0; row < m; ++row) {
      float sum = 0;
      for (int i = 0; i < k; ++i) {
        sum += fqonnx::cuda::load(a, from, size_t(row) * lda + i) *
               fqonnx::cuda::load(b, from, size_t(column) * ldb + i);
      }
      const size_t at = size_t(column) * ldc + row;
      const float old = old_factor == 0 ? 0 : old_factor * fqonnx::cuda::load(c, to, at);
      fqonnx::cuda::store(c, to, at, product_factor * sum + old);
    }
  }
  return 0;
}
