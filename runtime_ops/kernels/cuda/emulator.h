// CUDA's block model on the host, so that a machine without a GPU runs every kernel. The threads of
// a block are fibers that run in turn, each up to its next barrier or warp instruction; the blocks
// of a grid run one after the other. What hardware would punish is an exception: a barrier or warp
// instruction that not all reach, a misaligned access. An asynchronous copy happens when it is
// waited for. Shared memory is allocated to the byte, so that the address sanitizer sees what is
// beyond it, and begins as NaN.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>

#define __global__
#define __host__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct dim3 {
  unsigned x, y, z;
  explicit constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
using cudaStream_t = void*;

// Of the thread that runs: the emulator sets them when it changes to another.
inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace fqonnx::cuda {
namespace emulator {

constexpr unsigned kLanes = 32;

// Runs `kernel` once for each thread of each block.
void run(dim3 grid, unsigned threads, size_t shared_bytes, const std::function<void()>& kernel);

void synchronize_block();
unsigned char* shared_memory();
void copy_async(void* shared, const void* global);
void commit_copies();
void wait_for_copies(size_t still_running);

// Where the lanes of this warp leave what they bring, once all of them are here: lane i at i·bytes.
const unsigned char* exchange_in_warp(const void* mine, size_t bytes);

// What every lane of the warp brought.
template <class T>
class Brought {
 public:
  explicit Brought(const T& mine)
      : values_(static_cast<const unsigned char*>(exchange_in_warp(&mine, sizeof mine))) {}
  T operator[](unsigned lane) const {
    T value;
    std::memcpy(&value, values_ + lane * sizeof value, sizeof value);
    return value;
  }

 private:
  const unsigned char* values_;
};

inline void expect_aligned(const void* at, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(at) % bytes) throw std::logic_error("a misaligned access");
}

}  // namespace emulator

using std::min;

inline void copy_to_device(void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
}

inline unsigned char* shared_memory() { return emulator::shared_memory(); }

template <class Vector>
Vector load_once(const Vector* at) {
  emulator::expect_aligned(at, sizeof(Vector));
  return *at;
}

inline float load_shared_by_blocks(const float* at) { return *at; }

template <uint32_t kMask>
uint32_t select_bits(uint32_t x, uint32_t bits) {
  return (x & kMask) | bits;
}

inline void copy_async(void* shared, const void* global) { emulator::copy_async(shared, global); }
inline void commit_copies() { emulator::commit_copies(); }
template <int kStillRunning>
void wait_for_copies() {
  emulator::wait_for_copies(kStillRunning);
}

inline void let_next_kernel_start() {}
inline void wait_for_kernel_before() {}

inline void __syncthreads() { emulator::synchronize_block(); }
inline void __threadfence() {}

inline uint32_t __shfl_xor_sync(uint32_t, uint32_t value, unsigned mask) {
  return emulator::Brought<uint32_t>(value)[threadIdx.x % emulator::kLanes ^ mask];
}

inline uint32_t __shfl_sync(uint32_t, uint32_t value, unsigned lane) {
  return emulator::Brought<uint32_t>(value)[lane];
}

// The lower half of high:low, shifted.
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, unsigned shift) {
  return uint32_t((uint64_t(high) << 32 | low) >> shift % 32);
}

inline uint32_t atomicAdd(uint32_t* at, uint32_t value) {
  const uint32_t before = *at;
  *at += value;
  return before;
}

}  // namespace fqonnx::cuda
