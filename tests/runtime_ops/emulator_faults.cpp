// What the emulator of CUDA must not let pass: prints a line for each fault that it sees.
#include <cmath>
#include <cstdio>

#include "device.h"

using namespace fqonnx::cuda;

namespace {

// Threads that have ended are not waited for; those in another instruction are.
void half_a_barrier() {
  if (threadIdx.x < 32) return __syncthreads();
  if (threadIdx.x < 48) __shfl_xor_sync(~0u, 0, 1);
}
void half_a_warp() {
  if (threadIdx.x % 32 < 16) __shfl_xor_sync(~0u, 0, 1);
}
void misaligned() { load_once(reinterpret_cast<const uint4*>(shared_memory() + 4)); }
void not_waited_for(float* seen) {
  alignas(16) static const float ones[4] = {1, 1, 1, 1};
  float* const shared = reinterpret_cast<float*>(shared_memory());
  if (threadIdx.x == 0) copy_async(shared, ones);
  commit_copies();
  if (threadIdx.x == 0) seen[0] = shared[0];
  wait_for_copies<0>();
  __syncthreads();
  seen[1] = shared[0];
}

template <class... Arguments>
void expect_fault(const char* name, void (*kernel)(Arguments...), Arguments... arguments) {
  try {
    launch(kernel, {dim3(1), 64, 32, nullptr}, arguments...);
    std::printf("%s: passed\n", name);
  } catch (const std::logic_error& error) {
    std::printf("%s: %s\n", name, error.what());
  }
}

}  // namespace

int main() {
  expect_fault("half a barrier", half_a_barrier);
  expect_fault("half a warp", half_a_warp);
  expect_fault("misaligned", misaligned);
  float seen[2];
  launch(not_waited_for, {dim3(1), 64, 32, nullptr}, &seen[0]);
  std::printf("a copy: %s, then %g\n", std::isnan(seen[0]) ? "nothing" : "too early", seen[1]);
  expect_fault("half a barrier", half_a_barrier);  // also after another fault
}
