// What the kernels use of CUDA. The same source compiles for a GPU and, against emulator.h, for
// the host: kernels are started by launch(), never by <<<>>>, and instructions that C++ has no
// words for are the functions below.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef FQONNX_CUDA_EMULATED
#include "emulator.h"
#else
#include <cuda_runtime.h>
#endif

namespace fqonnx::cuda {

struct Launch {
  dim3 grid;
  unsigned threads;
  size_t shared_bytes;
  cudaStream_t stream;
  // Starts while the kernel before still runs, which wait_for_kernel_before() then waits for.
  bool early = false;
};

// What plans depend on.
struct Device {
  int index;
  unsigned processors;
  size_t shared_bytes;  // that a block may have
  bool early_launches;
  size_t unpacked_bytes, workspace_bytes;  // of products by cuBLAS
};

#ifdef FQONNX_CUDA_EMULATED

// A small one, so that small products are cut as large ones are on a GPU.
inline Device current_device() { return {0, 3, 100 * 1024, true, 64 * 1024, 1024}; }

template <class... Parameters>
void launch(void (*kernel)(Parameters...), const Launch& how, Parameters... arguments) {
  emulator::run(how.grid, how.threads, how.shared_bytes, [&] { kernel(arguments...); });
}

#else

inline void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

// Whether kernels wait for the one before on a GPU of this compute capability, 90 being 9.0. Where
// the driver makes its code from PTX of a GPU before Hopper they do not.
inline bool kernels_wait(int capability) {
  constexpr int kHopper = 900;
  for (const int compiled : {__CUDA_ARCH_LIST__}) {
    const bool chosen = compiled / 100 == capability / 10 && compiled <= capability * 10;
    if (chosen && compiled >= kHopper) return true;
  }
  return false;
}

inline Device current_device() {
  int current;
  check(cudaGetDevice(&current));
  static const std::vector<Device> devices = [] {
    constexpr int kCapturesEarlyLaunches = 12030;
    constexpr size_t kMiB = 1 << 20;
    int count, driver;
    check(cudaGetDeviceCount(&count));
    check(cudaDriverGetVersion(&driver));
    std::vector<Device> devices;
    for (int i = 0; i < count; ++i) {
      int processors, shared_bytes, cache_bytes, major, minor;
      check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, i));
      check(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, i));
      check(cudaDeviceGetAttribute(&cache_bytes, cudaDevAttrL2CacheSize, i));
      check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, i));
      check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, i));
      const bool early = kernels_wait(10 * major + minor) && driver >= kCapturesEarlyLaunches;
      // Unpacked codes stay in the cache, where it is not so small that cuBLAS would be; and the
      // workspace is what cuBLAS asks for.
      devices.push_back({i, unsigned(processors), size_t(shared_bytes), early,
                         std::clamp(size_t(cache_bytes) / 2, 8 * kMiB, 32 * kMiB),
                         (major >= 9 ? 32 : 4) * kMiB});
    }
    return devices;
  }();
  return devices[size_t(current)];
}

template <class... Parameters>
void launch(void (*kernel)(Parameters...), const Launch& how, Parameters... arguments) {
  constexpr size_t kSharedWithoutAsking = 48 * 1024;
  if (how.shared_bytes > kSharedWithoutAsking) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               int(how.shared_bytes)));
  }
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = how.grid;
  config.blockDim = dim3(how.threads);
  config.dynamicSmemBytes = how.shared_bytes;
  config.stream = how.stream;
  config.attrs = &early;
  config.numAttrs = how.early ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, arguments...));
}

// Is done when it returns.
inline void copy_to_device(void* to, const void* from, size_t bytes) {
  check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
  check(cudaStreamSynchronize(nullptr));
}

__device__ inline unsigned char* shared_memory() {
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
}

// Reads what no kernel writes, once: past the first cache, which is kept for activations.
__device__ inline uint4 load_once(const uint4* at) {
  uint4 x;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(at));
  return x;
}
__device__ inline uint2 load_once(const uint2* at) {
  uint2 x;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v2.u32 {%0, %1}, [%2];"
               : "=r"(x.x), "=r"(x.y)
               : "l"(at));
  return x;
}

// Reads what other blocks of this kernel wrote.
__device__ inline float load_shared_by_blocks(const float* at) { return __ldcg(at); }

// (x & kMask) | bits in one instruction: it has room for one constant, `bits` are in a register.
template <uint32_t kMask>
__device__ __forceinline__ uint32_t select_bits(uint32_t x, uint32_t bits) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(x), "n"(kMask), "r"(bits));
  return result;
}

// Copies 16 bytes to shared memory behind the thread's back, until wait_for_copies.
__device__ inline void copy_async(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   uint32_t(__cvta_generic_to_shared(shared))),
               "l"(global)
               : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kStillRunning>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kStillRunning) : "memory");
}

__device__ inline void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

#endif

}  // namespace fqonnx::cuda
