// The operators as plain C functions, for programs that bring their own memory and stream. What
// fails returns null or a message, which lives until the next call of the thread.

#include <exception>
#include <string>

#include "cuda_operator.h"

#define FQONNX_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using fqonnx::cuda::CudaOperator;
using fqonnx::cuda::Element;
using fqonnx::cuda::Path;

thread_local std::string message;

template <class Compute>
const char* guard(const Compute& compute) noexcept {
  try {
    compute();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace

extern "C" {

struct FqonnxFrame {
  const char* kind;
  int64_t dim, num_vectors;
  int64_t subspaces[3];
};

struct FqonnxAttributes {
  FqonnxFrame frame_in, frame_out;
  int64_t bits, block_size, group_size;
  int64_t fast, trellis, multiplier;
};

struct FqonnxInputs {
  const uint8_t* codes;
  const uint16_t* scales;
  const uint8_t *zero_points, *signs_in, *signs_out;
  const int8_t* levels;
};
}

static fqonnx::PackedInputs packed(const FqonnxInputs& in) {
  return {in.codes, in.scales, in.zero_points, in.signs_in, in.signs_out, in.levels};
}

FQONNX_EXPORT const char* fqonnx_cuda_create(const FqonnxAttributes* a, CudaOperator** created) {
  return guard([&] {
    const auto frame = [](const FqonnxFrame& f) {
      return fqonnx::FrameAttributes{
          f.kind, f.dim, f.num_vectors, {f.subspaces, f.subspaces + 3}};
    };
    *created = new CudaOperator({frame(a->frame_in), frame(a->frame_out), a->bits, a->block_size,
                                 a->group_size,
                                 a->fast ? fqonnx::Accuracy::kFast : fqonnx::Accuracy::kExact,
                                 {},
                                 a->trellis != 0,
                                 a->multiplier});
  });
}

FQONNX_EXPORT void fqonnx_cuda_destroy(CudaOperator* op) { delete op; }

FQONNX_EXPORT size_t fqonnx_cuda_table_bytes(const CudaOperator* op) { return op->table_bytes(); }

FQONNX_EXPORT const char* fqonnx_cuda_prepare(CudaOperator* op, void* table_memory) {
  return guard([&] { op->prepare(table_memory); });
}

FQONNX_EXPORT const char* fqonnx_cuda_force(CudaOperator* op, Path path) {
  return guard([&] { op->force(path); });
}

FQONNX_EXPORT const char* fqonnx_cuda_matmul_scratch(const CudaOperator* op, size_t rows,
                                                     Element element, size_t* bytes) {
  return guard([&] { *bytes = op->matmul_scratch_bytes(rows, element); });
}

FQONNX_EXPORT const char* fqonnx_cuda_matmul(const CudaOperator* op, const void* x, Element element,
                                             size_t rows, const FqonnxInputs* in, const void* bias,
                                             void* const* outputs, const size_t* widths,
                                             size_t num_outputs, void* scratch, void* stream) {
  return guard([&] {
    std::vector<fqonnx::cuda::Output> pieces;
    for (size_t i = 0; i < num_outputs; ++i) pieces.push_back({outputs[i], widths[i]});
    op->matmul(x, element, rows, packed(*in), bias, pieces, scratch, stream);
  });
}

FQONNX_EXPORT const char* fqonnx_cuda_dequantize_scratch(const CudaOperator* op, size_t* bytes) {
  return guard([&] { *bytes = op->dequantize_scratch_bytes(); });
}

FQONNX_EXPORT const char* fqonnx_cuda_dequantize(const CudaOperator* op, const FqonnxInputs* in,
                                                 Element element, void* weight, void* scratch,
                                                 void* stream) {
  return guard([&] {
    op->dequantize(packed(*in), element, weight, scratch, stream);
  });
}
