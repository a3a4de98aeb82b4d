// The element types of tensors, and the two types that tensor cores multiply, as plain bits.
#pragma once

#include "device.h"
#include "elements.h"

#ifdef FQONNX_CUDA_EMULATED
#include "half.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace fqonnx::cuda {

__device__ inline uint32_t bits_of(float x) {
#ifdef FQONNX_CUDA_EMULATED
  return as_bits(x);
#else
  return __float_as_uint(x);
#endif
}

__device__ inline float float_of(uint32_t bits) {
#ifdef FQONNX_CUDA_EMULATED
  return as_float(bits);
#else
  return __uint_as_float(bits);
#endif
}

// A warp's product of 16 × 16 and 16 × 8 on top of float sums. Of lane 4g + t, a[0] is row g and
// a[1] row g + 8 at places 2t, 2t + 1; a[2] and a[3] the same at places 2t + 8, 2t + 9; b those
// places in column g; sums rows g, g, g + 8, g + 8 in columns 2t, 2t + 1, 2t, 2t + 1.
template <class Number>
__device__ void multiply_tiles(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

struct Half {
  static constexpr int kMantissa = 10, kBias = 15;

  __device__ static float to_float(uint16_t x) {
#ifdef FQONNX_CUDA_EMULATED
    return half_to_float(x);
#else
    return __half2float(__ushort_as_half(x));
#endif
  }
  __device__ static uint16_t from_float(float x) {
#ifdef FQONNX_CUDA_EMULATED
    return float_to_half(x);
#else
    return __half_as_ushort(__float2half_rn(x));
#endif
  }
#ifndef FQONNX_CUDA_EMULATED
  __device__ static uint32_t add_pairs(uint32_t a, uint32_t b) {
    uint32_t sums;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sums) : "r"(a), "r"(b));
    return sums;
  }
#endif
};

struct BFloat16 {
  static constexpr int kMantissa = 7, kBias = 127;

  __device__ static float to_float(uint16_t x) { return float_of(uint32_t(x) << 16); }
  __device__ static uint16_t from_float(float x) {
#ifdef FQONNX_CUDA_EMULATED
    const uint32_t bits = as_bits(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#else
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
#endif
  }
#ifndef FQONNX_CUDA_EMULATED
  // sm_80 adds bfloat16 as a product with one.
  __device__ static uint32_t add_pairs(uint32_t a, uint32_t b) {
    uint32_t sums;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sums) : "r"(a), "r"(0x3f803f80u), "r"(b));
    return sums;
  }
#endif
};

#ifdef FQONNX_CUDA_EMULATED

template <class Number>
uint32_t add_pairs(uint32_t a, uint32_t b) {
  uint32_t sums = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const float x = Number::to_float(uint16_t(a >> shift));
    const float y = Number::to_float(uint16_t(b >> shift));
    sums |= uint32_t(Number::from_float(x + y)) << shift;
  }
  return sums;
}

template <class Number>
void multiply_tiles(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Fragments {
    uint32_t a[4], b[2];
  };
  const emulator::Brought<Fragments> brought({{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  const unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const auto value = [](uint32_t pair, unsigned i) {
    return Number::to_float(uint16_t(pair >> 16 * i));
  };
  for (unsigned place = 0; place < 16; ++place) {
    const unsigned lane = place % 8 / 2, upper = place / 8, i = place % 2;
    const Fragments row = brought[4 * g + lane];
    const float above = value(row.a[2 * upper], i), below = value(row.a[2 * upper + 1], i);
    for (unsigned j = 0; j < 2; ++j) {
      const float factor = value(brought[4 * (2 * t + j) + lane].b[upper], i);
      sums[j] += above * factor;
      sums[2 + j] += below * factor;
    }
  }
}

#else

template <class Number>
__device__ __forceinline__ uint32_t add_pairs(uint32_t a, uint32_t b) {
  return Number::add_pairs(a, b);
}

#define FQONNX_MULTIPLY_TILES(Number, type)                                                \
  template <>                                                                              \
  __device__ __forceinline__ void multiply_tiles<Number>(                                  \
      float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {                  \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 "                     \
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                  \
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                       \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));               \
  }
FQONNX_MULTIPLY_TILES(Half, "f16")
FQONNX_MULTIPLY_TILES(BFloat16, "bf16")
#undef FQONNX_MULTIPLY_TILES

#endif

// Element i of a tensor.
__device__ inline float load(const void* tensor, Element element, size_t i) {
  if (element == Element::kFloat) return static_cast<const float*>(tensor)[i];
  const uint16_t bits = static_cast<const uint16_t*>(tensor)[i];
  return element == Element::kHalf ? Half::to_float(bits) : BFloat16::to_float(bits);
}

__device__ inline void store(void* tensor, Element element, size_t i, float x) {
  if (element == Element::kFloat) {
    static_cast<float*>(tensor)[i] = x;
  } else {
    static_cast<uint16_t*>(tensor)[i] =
        element == Element::kHalf ? Half::from_float(x) : BFloat16::from_float(x);
  }
}

}  // namespace fqonnx::cuda
