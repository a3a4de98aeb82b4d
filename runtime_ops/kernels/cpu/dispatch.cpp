#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace fqonnx {

extern const Kernels kPortable;
#ifdef FQONNX_X86
extern const Kernels kAvx2;
extern const Kernels kAvx512;
extern const Kernels kAvx512Vbmi;
#endif

namespace {

const Kernels& choose() {
  const char* wanted = std::getenv("FQONNX_INSTRUCTION_SET");
  if (wanted != nullptr && std::strcmp(wanted, kPortable.name) == 0) return kPortable;
#ifdef FQONNX_X86
  const auto may = [&](const Kernels& set) {
    return wanted == nullptr || std::strcmp(wanted, set.name) != 0;
  };
  __builtin_cpu_init();
  if (may(kAvx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni")) {
    return may(kAvx512) && __builtin_cpu_supports("avx512vbmi") ? kAvx512Vbmi : kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    return kAvx2;
  }
#endif
  return kPortable;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace fqonnx
