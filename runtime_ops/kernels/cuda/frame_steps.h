// The steps of frames.h, which the threads of a block take together.
#pragma once

#include "frames.h"
#include "numbers.h"

namespace fqonnx::cuda {

constexpr float kSqrtHalf = 0.70710678f;

// Numbers of rows between the steps, from number `first` on. Threads read and write them at
// distances of powers of two; where they lie in shared memory the permutation keeps all of them in
// banks of their own.
struct Work {
  float* numbers;
  uint32_t first = 0;

  // That of number i + j is place(i) ^ j, where i is a multiple of 32 and j below 32.
  __device__ uint32_t place(uint32_t i) const {
    i += first;
    return i ^ (i >> 5 & 7) ^ (i >> 3 & 24) ^ (i >> 8 & 7);
  }
  __device__ float& operator[](uint32_t i) const { return numbers[place(i)]; }
};

// Floats that a row takes; the permutation is one of each 32.
__host__ __device__ inline uint32_t padded(uint32_t size) { return (size + 31) / 32 * 32; }

// kBits stages, the first of numbers 2^stage apart: each thread has 2^kBits of them in registers.
template <uint32_t kBits>
__device__ void butterflies(Work work, uint32_t size, uint32_t stage) {
  constexpr uint32_t kCount = 1 << kBits;
  const uint32_t distance = 1u << stage;
  for (uint32_t i = threadIdx.x; i < size / kCount; i += blockDim.x) {
    const uint32_t first = (i >> stage << (stage + kBits)) + (i & (distance - 1));
    float x[kCount];
#pragma unroll
    for (uint32_t j = 0; j < kCount; ++j) x[j] = work[first + j * distance];
#pragma unroll
    for (uint32_t half = 1; half < kCount; half *= 2) {
#pragma unroll
      for (uint32_t j = 0; j < kCount; ++j) {
        if (j & half) continue;
        const float a = x[j], b = x[j + half];
        x[j] = a + b, x[j + half] = a - b;
      }
    }
#pragma unroll
    for (uint32_t j = 0; j < kCount; ++j) work[first + j * distance] = x[j];
  }
  __syncthreads();
}

// From `stage` on: those before are done.
__device__ inline void hadamard(Work work, uint32_t size, uint32_t order, uint32_t stage = 0) {
  for (; 8u << stage <= order; stage += 3) butterflies<3>(work, size, stage);
  if (4u << stage == order) butterflies<2>(work, size, stage);
  if (2u << stage == order) butterflies<1>(work, size, stage);
}

__device__ inline float with_sign(const uint8_t* signs, uint32_t i, float x) {
  return signs[i / 8] >> i % 8 & 1 ? -x : x;
}

__device__ inline uint32_t product_modulo(uint32_t a, uint32_t b, uint32_t size) {
  return uint32_t(uint64_t(a) * b % size);
}

// Coordinate pair (i, k) of a harmonic frame, of frequency k·n1 + i.
template <class Coordinate>
__device__ void pair_of(const DeviceFrame& f, const Coordinate& x, uint32_t i, uint32_t k,
                        float (&pair)[2]) {
  const uint32_t frequency = k * f.n1 + i, constant = f.dim % 2;
  pair[0] = pair[1] = 0;
  if (frequency == 0) {
    if (constant) pair[0] = kSqrtHalf * x(0);
  } else if (frequency <= f.dim / 2) {
    pair[0] = x(constant + 2 * (frequency - 1)), pair[1] = x(constant + 2 * (frequency - 1) + 1);
  }
}

// Analysis: x(i) → work → coefficient(k).
template <class Coordinate>
__device__ void begin_analysis(const DeviceFrame& f, const Coordinate& x, const uint8_t* signs,
                               Work work) {
  if (f.kind == DeviceFrame::kIdentity) return;
  if (f.kind == DeviceFrame::kHarmonic) {
    for (uint32_t place = threadIdx.x; place < f.num_vectors; place += blockDim.x) {
      const uint32_t i = place / f.n2, column = place % f.n2;
      float real = 0, imaginary = 0;
      for (uint32_t k = 0; k < f.k2; ++k) {
        float pair[2];
        pair_of(f, x, i, k, pair);
        const float* inner = f.inner + 4 * k * f.n2 + column;  // ((a, b), (Re, Im), N2)
        real += pair[0] * inner[0] + pair[1] * inner[2 * f.n2];
        imaginary += pair[0] * inner[f.n2] + pair[1] * inner[3 * f.n2];
      }
      const float c = f.cosines[place], s = f.sines[place];
      work[2 * i * f.n2 + column] = real * c - imaginary * s;
      work[(2 * i + 1) * f.n2 + column] = imaginary * c + real * s;
    }
    __syncthreads();
    return;
  }
  for (uint32_t j = threadIdx.x; j < f.work; j += blockDim.x) {
    const uint32_t i = f.inverse == 1 ? j : product_modulo(j, f.inverse, f.work);
    work[j] = i < f.dim ? f.scale * with_sign(signs, i, x(i)) : 0.0f;
  }
  __syncthreads();
  hadamard(work, f.work, f.order);
}

template <class Coordinate>
__device__ float coefficient(const DeviceFrame& f, const Coordinate& x, Work work, uint32_t k) {
  if (f.kind == DeviceFrame::kIdentity) return x(k);
  float sum = 0;
  if (f.kind == DeviceFrame::kHadamard) {
    if (f.odd == 1) return work[k];
    const float* row = f.odd_matrix + (k >> f.log_order) * f.odd;
    const uint32_t i = k & (f.order - 1);
    for (uint32_t p = 0; p < f.odd; ++p) sum += row[p] * work[p * f.order + i];
  } else if (f.kind == DeviceFrame::kFusion) {
    const TetrisRow row = f.rows[k / f.vectors_per_row];
    const float* block = f.blocks + row.block + k % f.vectors_per_row;
    for (uint32_t p = 0; p < row.width; ++p) {
      sum += block[p * f.vectors_per_row] * work[row.start + p];
    }
  } else {
    const float* outer = f.outer + k / f.n2 * 2 * f.n1;
    for (uint32_t p = 0; p < 2 * f.n1; ++p) sum += outer[p] * work[p * f.n2 + k % f.n2];
  }
  return sum;
}

// Synthesis, the transpose of all that: c(k) → work → coordinates.
template <class Coefficient>
__device__ void begin_synthesis(const DeviceFrame& f, const Coefficient& c, Work work) {
  if (f.kind == DeviceFrame::kIdentity) return;
  if (f.kind == DeviceFrame::kHarmonic) {
    for (uint32_t place = threadIdx.x; place < f.num_vectors; place += blockDim.x) {
      const uint32_t i = place / f.n2, column = place % f.n2;
      float real = 0, imaginary = 0;
      for (uint32_t j = 0; j < f.n1; ++j) {
        const float* outer = f.outer + j * 2 * f.n1 + 2 * i;
        const float x = c(j * f.n2 + column);
        real += outer[0] * x, imaginary += outer[1] * x;
      }
      const float cosine = f.cosines[place], sine = f.sines[place];
      work[2 * i * f.n2 + column] = real * cosine + imaginary * sine;
      work[(2 * i + 1) * f.n2 + column] = imaginary * cosine - real * sine;
    }
    __syncthreads();
    return;
  }
  for (uint32_t j = threadIdx.x; j < f.work; j += blockDim.x) {
    float sum = 0;
    if (f.kind == DeviceFrame::kHadamard) {
      sum = c(j);
    } else {
      for (uint32_t r = f.first_row[j];; ++r) {
        const TetrisRow row = f.rows[r];
        if (j < row.start || j >= row.start + row.width) break;
        const float* block = f.blocks + row.block + (j - row.start) * f.vectors_per_row;
        for (uint32_t p = 0; p < f.vectors_per_row; ++p) {
          sum += block[p] * c(r * f.vectors_per_row + p);
        }
      }
    }
    work[j] = sum;
  }
  __syncthreads();
  hadamard(work, f.work, f.order);
}

// Coordinate i of `count` rows at once, whose work is `pitch` numbers apart: tables are read once.
template <uint32_t kMost>
__device__ void coordinates(const DeviceFrame& f, const uint8_t* signs, Work work, uint32_t pitch,
                            uint32_t count, uint32_t i, float (&x)[kMost]) {
#pragma unroll
  for (uint32_t row = 0; row < kMost; ++row) x[row] = 0;
  const auto add = [&](float factor, uint32_t place) {
#pragma unroll
    for (uint32_t row = 0; row < kMost; ++row) {
      if (row < count) x[row] += factor * work[row * pitch + place];
    }
  };
  if (f.kind == DeviceFrame::kIdentity) return add(1, i);
  if (f.kind == DeviceFrame::kHarmonic) {
    const uint32_t constant = f.dim % 2, first = i < constant;
    const uint32_t frequency = first ? 0 : (i - constant) / 2 + 1;
    const uint32_t part = first ? 0 : (i - constant) % 2;
    const uint32_t row = frequency % f.n1, k = frequency / f.n1;
    const float* inner = f.inner + (2 * k + part) * 2 * f.n2;
    for (uint32_t q = 0; q < 2 * f.n2; ++q) {
      add(first ? kSqrtHalf * inner[q] : inner[q], row * 2 * f.n2 + q);
    }
    return;
  }
  const uint32_t place = f.stride == 1 ? i : product_modulo(i, f.stride, f.work);
  const float scale = with_sign(signs, i, f.scale);
  if (f.odd == 1) return add(scale, place);
  const uint32_t run = place >> f.log_order, within = place & (f.order - 1);
  for (uint32_t p = 0; p < f.odd; ++p) {
    add(scale * f.odd_matrix[p * f.odd + run], p * f.order + within);
  }
}

}  // namespace fqonnx::cuda
