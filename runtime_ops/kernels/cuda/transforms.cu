#include "transforms.h"

#include <algorithm>

#include "frame_steps.h"

namespace fqonnx::cuda {
namespace {

constexpr unsigned kMostThreads = 1024;

__device__ Work work_of_row(const DeviceFrame& frame, float* scratch, uint32_t row) {
  if (scratch == nullptr) return {reinterpret_cast<float*>(shared_memory())};
  return {scratch + size_t(row) * ((frame.work + 31) / 32 * 32)};
}

// Where the eight coefficients of a lane begin; the lanes of up to 8 rows are neighbours.
__device__ uint16_t* quad_of(const Activations& to, uint32_t row, uint32_t quad, uint32_t lane) {
  const size_t within = (size_t(quad) * to.tile_rows() + row % 8) * 4 + lane;
  return to.numbers + row / 8 * to.tile_size() + within * kQuad;
}

__global__ void __launch_bounds__(kMostThreads)
    analyse_row(DeviceFrame frame, Rows x, uint32_t first_row, const uint8_t* signs,
                Activations to, uint32_t* cleared, uint32_t num_cleared, float* scratch) {
  let_next_kernel_start();
  const uint32_t row = blockIdx.x;
  const size_t begin = size_t(first_row + row) * frame.dim;
  const auto coordinates = [&](uint32_t i) { return load(x.data, x.element, begin + i); };
  const Work work = work_of_row(frame, scratch, row);
  if (row == 0 && blockIdx.y == 0) {
    for (uint32_t i = threadIdx.x; i < num_cleared; i += blockDim.x) cleared[i] = 0;
  }
  begin_analysis(frame, coordinates, signs, work);
  const uint32_t threads = gridDim.y * blockDim.x, thread = blockIdx.y * blockDim.x + threadIdx.x;
  for (uint32_t i = thread; i < to.steps * (kStep / kQuad); i += threads) {
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

__global__ void __launch_bounds__(kMostThreads)
    synthesise_row(DeviceFrame frame, const float* coeffs, const uint8_t* signs, const void* bias,
                   Rows y, size_t first_row, float* scratch) {
  const float* row = coeffs + size_t(blockIdx.x) * frame.num_vectors;
  synthesise_block(frame, [&](uint32_t k) { return row[k]; }, signs, bias, y,
                   first_row + blockIdx.x, scratch);
}

__global__ void __launch_bounds__(kMostThreads)
    synthesise_codes_row(DeviceFrame frame, Weight weight, uint32_t first_row,
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
  return {std::min(kMostThreads, std::max(32u, threads)), shared ? bytes : 0, shared ? 0 : bytes};
}

void analyse(const DeviceFrame& frame, Rows x, uint32_t first_row, const uint8_t* signs,
             const Activations& to, uint32_t* cleared, uint32_t num_cleared, float* scratch,
             const Device& device, cudaStream_t stream) {
  const TransformMemory memory = plan_transform(frame, device);
  // Where a coefficient is a sum, blocks that would idle share those of a row, each with the whole
  // transform in front.
  const bool sums = frame.odd > 1 || frame.kind >= DeviceFrame::kFusion;
  const bool shared = sums && memory.scratch_bytes == 0;
  Launch how = launch_of_rows(to.rows, memory, stream);
  how.grid.y = shared ? std::clamp(device.processors / to.rows, 1u, 16u) : 1;
  launch(analyse_row, how, frame, x, first_row, signs, to,
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
