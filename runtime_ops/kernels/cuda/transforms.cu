#include "transforms.h"

#include <algorithm>

namespace fqonnx::cuda {
namespace {

constexpr float kSqrtHalf = 0.70710678f;

// Numbers of a row between the steps. Threads read and write them at distances of powers of two;
// where they lie in shared memory the permutation keeps all of them in banks of their own.
struct Work {
  float* numbers;

  __device__ float& operator[](uint32_t i) const {
    return numbers[i ^ (i >> 5 & 7) ^ (i >> 3 & 24)];
  }
};

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

__device__ void hadamard(Work work, uint32_t size, uint32_t order) {
  uint32_t stage = 0;
  for (; 8u << stage <= order; stage += 3) butterflies<3>(work, size, stage);
  if (4u << stage == order) butterflies<2>(work, size, stage);
  if (2u << stage == order) butterflies<1>(work, size, stage);
}

__device__ float with_sign(const uint8_t* signs, uint32_t i, float x) {
  return signs[i / 8] >> i % 8 & 1 ? -x : x;
}

__device__ uint32_t product_modulo(uint32_t a, uint32_t b, uint32_t size) {
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
    const float* row = f.odd_matrix + k / f.order * f.odd;
    for (uint32_t p = 0; p < f.odd; ++p) sum += row[p] * work[p * f.order + k % f.order];
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

// Synthesis, the transpose of all that: c(k) → work → coordinate(i).
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
      const uint32_t run = j / f.order, i = j % f.order;
      for (uint32_t p = 0; f.odd > 1 && p < f.odd; ++p) {
        sum += f.odd_matrix[p * f.odd + run] * c(p * f.order + i);
      }
      if (f.odd == 1) sum = c(j);
    } else {
      for (uint32_t r = f.first_row[j]; f.rows[r].start <= j && j < f.rows[r].start + f.rows[r].width;
           ++r) {
        const TetrisRow row = f.rows[r];
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

template <class Coefficient>
__device__ float coordinate(const DeviceFrame& f, const Coefficient& c, const uint8_t* signs,
                            Work work, uint32_t i) {
  if (f.kind == DeviceFrame::kIdentity) return c(i);
  if (f.kind != DeviceFrame::kHarmonic) {
    const uint32_t place = f.stride == 1 ? i : product_modulo(i, f.stride, f.work);
    return f.scale * with_sign(signs, i, work[place]);
  }
  const uint32_t constant = f.dim % 2, first = i < constant;
  const uint32_t frequency = first ? 0 : (i - constant) / 2 + 1;
  const uint32_t part = first ? 0 : (i - constant) % 2;
  const uint32_t row = frequency % f.n1, k = frequency / f.n1;
  float sum = 0;
  for (uint32_t q = 0; q < 2 * f.n2; ++q) {
    sum += f.inner[(2 * k + part) * 2 * f.n2 + q] * work[row * 2 * f.n2 + q];
  }
  return first ? kSqrtHalf * sum : sum;
}

__device__ Work work_of_row(const DeviceFrame& frame, float* scratch, uint32_t row) {
  if (scratch == nullptr) return {reinterpret_cast<float*>(shared_memory())};
  return {scratch + size_t(row) * ((frame.work + 31) / 32 * 32)};
}

// Where the eight coefficients of a lane begin; the lanes of up to 8 rows are neighbours.
__device__ uint16_t* quad_of(const Activations& to, uint32_t row, uint32_t quad, uint32_t lane) {
  const size_t within = (size_t(quad) * to.tile_rows() + row % 8) * 4 + lane;
  return to.numbers + row / 8 * to.tile_size() + within * kQuad;
}

__global__ void analyse_row(DeviceFrame frame, Rows x, uint32_t first_row, const uint8_t* signs,
                            Activations to, uint32_t* cleared, uint32_t num_cleared,
                            float* scratch) {
  let_next_kernel_start();
  const uint32_t row = blockIdx.x;
  const size_t begin = size_t(first_row + row) * frame.dim;
  const auto coordinates = [&](uint32_t i) { return load(x.data, x.element, begin + i); };
  const Work work = work_of_row(frame, scratch, row);
  if (row == 0) {
    for (uint32_t i = threadIdx.x; i < num_cleared; i += blockDim.x) cleared[i] = 0;
  }
  begin_analysis(frame, coordinates, signs, work);
  for (uint32_t i = threadIdx.x; i < to.steps * (kStep / kQuad); i += blockDim.x) {
    const uint32_t quad = i / 4, lane = i % 4, step = quad / 8;
    uint16_t* at = quad_of(to, row, quad, lane);
    float rest[kQuad];
#pragma unroll
    for (uint32_t e = 0; e < kQuad; ++e) {
      const uint32_t k = step * kStep + code_at_place({quad % 8, lane, e}, to.bits, to.grouped);
      rest[e] = k < frame.num_vectors ? coefficient(frame, coordinates, work, k) : 0.0f;
    }
    for (uint32_t piece = 0; piece < to.pieces; ++piece, at += to.piece_size()) {
#pragma unroll
      for (uint32_t e = 0; e < kQuad; e += 2) {
        uint32_t pair = 0;
#pragma unroll
        for (uint32_t j = 0; j < 2; ++j) {
          const bool half = to.element == Element::kHalf;
          const float value = rest[e + j];
          const uint16_t bits = half ? Half::from_float(value) : BFloat16::from_float(value);
          rest[e + j] = value - (half ? Half::to_float(bits) : BFloat16::to_float(bits));
          pair |= uint32_t(bits) << 16 * j;
        }
        reinterpret_cast<uint32_t*>(at)[e / 2] = pair;
      }
    }
  }
}

template <class Coefficient>
__device__ void synthesise_block(const DeviceFrame& frame, const Coefficient& c,
                                 const uint8_t* signs, const void* bias, Rows y, size_t row,
                                 float* scratch) {
  const Work work = work_of_row(frame, scratch, blockIdx.x);
  begin_synthesis(frame, c, work);
  for (uint32_t i = threadIdx.x; i < frame.dim; i += blockDim.x) {
    float value = coordinate(frame, c, signs, work, i);
    if (bias != nullptr) value += load(bias, y.element, i);
    store(y.data, y.element, row * frame.dim + i, value);
  }
}

__global__ void synthesise_row(DeviceFrame frame, const float* coeffs, const uint8_t* signs,
                               const void* bias, Rows y, size_t first_row, float* scratch) {
  const float* row = coeffs + size_t(blockIdx.x) * frame.num_vectors;
  synthesise_block(frame, [&](uint32_t k) { return row[k]; }, signs, bias, y,
                   first_row + blockIdx.x, scratch);
}

__global__ void synthesise_codes_row(DeviceFrame frame, Weight weight, uint32_t first_row,
                                     const uint8_t* signs, Rows y, float* scratch) {
  const uint32_t row = first_row + blockIdx.x;
  const auto value = [&](uint32_t k) {
    const uint32_t group = weight.grouped ? k / kGroup : 0;
    const float scale = Half::to_float(weight.scales[size_t(row) * weight.groups + group]);
    return scale * (float(code_at(weight, row, k)) - zero_of(weight, row, group));
  };
  synthesise_block(frame, value, signs, nullptr, y, blockIdx.x, scratch);
}

Launch launch_of_rows(uint32_t rows, const TransformMemory& memory, cudaStream_t stream) {
  return {dim3(rows), memory.threads, memory.shared_bytes, stream};
}

}  // namespace

TransformMemory plan_transform(const DeviceFrame& frame, const Device& device) {
  const size_t bytes = (frame.work + 31) / 32 * 32 * sizeof(float);
  const uint32_t threads = (frame.num_vectors / 8 + 31) / 32 * 32;
  const bool shared = bytes <= device.shared_bytes;
  return {std::min(1024u, std::max(32u, threads)), shared ? bytes : 0, shared ? 0 : bytes};
}

void analyse(const DeviceFrame& frame, Rows x, uint32_t first_row, const uint8_t* signs,
             const Activations& to, uint32_t* cleared, uint32_t num_cleared, float* scratch,
             const Device& device, cudaStream_t stream) {
  const TransformMemory memory = plan_transform(frame, device);
  launch(analyse_row, launch_of_rows(to.rows, memory, stream), frame, x, first_row, signs, to,
         cleared, num_cleared, memory.scratch_bytes ? scratch : nullptr);
}

void synthesise(const DeviceFrame& frame, const float* coeffs, uint32_t rows, const uint8_t* signs,
                const void* bias, Rows y, size_t first_row, float* scratch, const Device& device,
                cudaStream_t stream) {
  const TransformMemory memory = plan_transform(frame, device);
  launch(synthesise_row, launch_of_rows(rows, memory, stream), frame, coeffs, signs, bias, y,
         first_row, memory.scratch_bytes ? scratch : nullptr);
}

void synthesise_codes(const DeviceFrame& frame, const Weight& weight, uint32_t first_row,
                      uint32_t rows, const uint8_t* signs, Rows y, float* scratch,
                      const Device& device, cudaStream_t stream) {
  const TransformMemory memory = plan_transform(frame, device);
  launch(synthesise_codes_row, launch_of_rows(rows, memory, stream), frame, weight, first_row,
         signs, y, memory.scratch_bytes ? scratch : nullptr);
}

}  // namespace fqonnx::cuda
