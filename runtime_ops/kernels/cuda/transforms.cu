#include "transforms.h"

#include <algorithm>

#include "frame_steps.h"

namespace fqonnx::cuda {
namespace {

constexpr unsigned kMostThreads = 1024;

__device__ Work work_of_block(const DeviceFrame& frame, float* scratch) {
  if (scratch == nullptr) return {reinterpret_cast<float*>(shared_memory())};
  return {scratch + size_t(blockIdx.x) * padded(frame.work)};
}

// Where the eight coefficients of a lane begin; the lanes of the rows of a tile are neighbours.
__device__ uint16_t* quad_of(const Activations& to, uint32_t row, uint32_t quad, uint32_t lane) {
  const size_t within = (size_t(quad) * to.tile_rows + row % to.tile_rows) * 4 + lane;
  return to.numbers + row / to.tile_rows * to.tile_size() + within * kQuad;
}

__device__ void analyse_row(const DeviceFrame& frame, Rows x, size_t first, const uint8_t* signs,
                            const Activations& to, uint32_t row, Work work) {
  const auto coordinates = [&](uint32_t i) { return load(x.data, x.element, first + i); };
  begin_analysis(frame, coordinates, signs, work);
  const uint32_t threads = gridDim.y * blockDim.x, thread = blockIdx.y * blockDim.x + threadIdx.x;
  for (uint32_t i = thread; i < to.steps * (kStep / kQuad); i += threads) {
    const uint32_t quad = i / 4, lane = i % 4, step = quad / 8;
    uint16_t* at = quad_of(to, row, quad, lane);
    float rest[kQuad];
#pragma unroll
    for (uint32_t e = 0; e < kQuad; ++e) {
      const uint32_t k = step * kStep + code_at_place({quad % 8, lane, e}, to.order);
      rest[e] = k < frame.num_vectors ? coefficient(frame, coordinates, work, k) : 0.0f;
    }
    for (uint32_t piece = 0; piece < to.pieces; ++piece, at += to.piece_size()) {
      uint32_t pairs[kQuad / 2] = {};
#pragma unroll
      for (uint32_t e = 0; e < kQuad; ++e) {
        const bool half = to.element == Element::kHalf;
        const float value = rest[e];
        const uint16_t bits = half ? Half::from_float(value) : BFloat16::from_float(value);
        rest[e] = value - (half ? Half::to_float(bits) : BFloat16::to_float(bits));
        pairs[e / 2] |= uint32_t(bits) << 16 * (e % 2);
      }
      *reinterpret_cast<uint4*>(at) = {pairs[0], pairs[1], pairs[2], pairs[3]};
    }
  }
}

__global__ void __launch_bounds__(kMostThreads)
    analyse_rows(DeviceFrame frame, Rows x, uint32_t first_row, const uint8_t* signs,
                 Activations to, uint32_t* cleared, uint32_t num_cleared, float* scratch) {
  let_next_kernel_start();
  if (blockIdx.x == 0 && blockIdx.y == 0) {
    for (uint32_t i = threadIdx.x; i < num_cleared; i += blockDim.x) cleared[i] = 0;
  }
  const Work work = work_of_block(frame, scratch);
  for (uint32_t row = blockIdx.x; row < to.rows; row += gridDim.x) {
    analyse_row(frame, x, size_t(first_row + row) * frame.dim, signs, to, row, work);
    __syncthreads();  // the next row takes the memory of this one
  }
}

__global__ void __launch_bounds__(kMostThreads)
    synthesise_rows(DeviceFrame frame, const float* coeffs, uint32_t rows, const uint8_t* signs,
                    const void* bias, Rows y, size_t first_row, float* scratch) {
  const Work work = work_of_block(frame, scratch);
  for (uint32_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const float* c = coeffs + size_t(row) * frame.num_vectors;
    begin_synthesis(frame, [&](uint32_t k) { return c[k]; }, work);
    for (uint32_t i = threadIdx.x; i < frame.dim; i += blockDim.x) {
      float value[1];
      coordinates(frame, signs, work, 0, 1, i, value);
      if (bias != nullptr) value[0] += load(bias, y.element, i);
      store(y.data, y.element, (first_row + row) * frame.dim + i, value[0]);
    }
    __syncthreads();
  }
}

}  // namespace

TransformPlan plan_transform(const DeviceFrame& frame, size_t rows, const Device& device) {
  const size_t floats = padded(frame.work), bytes = floats * sizeof(float);
  const unsigned threads = std::clamp(padded(frame.num_vectors / 8), 32u, kMostThreads);
  if (bytes <= device.shared_bytes) return {uint32_t(rows), threads, bytes, 0};
  const uint32_t blocks = uint32_t(std::min<size_t>(rows, 2 * device.processors));
  return {blocks, threads, 0, blocks * floats};
}

void analyse(const DeviceFrame& frame, Rows x, uint32_t first_row, const uint8_t* signs,
             const Activations& to, uint32_t* cleared, uint32_t num_cleared, float* scratch,
             const Device& device, cudaStream_t stream) {
  const TransformPlan plan = plan_transform(frame, to.rows, device);
  // Where a coefficient is a sum, blocks that would idle share those of a row, each with the whole
  // transform in front.
  const bool sums = frame.odd > 1 || frame.kind >= DeviceFrame::kFusion;
  const bool several = sums && plan.scratch_floats == 0;
  const dim3 grid(plan.blocks, several ? std::clamp(device.processors / to.rows, 1u, 16u) : 1);
  launch(analyse_rows, {grid, plan.threads, plan.shared_bytes, stream}, frame, x, first_row, signs,
         to, cleared, num_cleared, plan.scratch_floats ? scratch : nullptr);
}

void synthesise(const DeviceFrame& frame, const float* coeffs, uint32_t rows, const uint8_t* signs,
                const void* bias, Rows y, size_t first_row, float* scratch, const Device& device,
                cudaStream_t stream) {
  const TransformPlan plan = plan_transform(frame, rows, device);
  launch(synthesise_rows, {dim3(plan.blocks), plan.threads, plan.shared_bytes, stream}, frame,
         coeffs, rows, signs, bias, y, first_row, plan.scratch_floats ? scratch : nullptr);
}

}  // namespace fqonnx::cuda
