#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace fqonnx {

extern const Kernels kPortable;
#ifdef FQONNX_X86
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif

namespace {

const Kernels& choose() {
  const char* wanted = std::getenv("FQONNX_INSTRUCTION_SET");
  const auto may_be = [wanted](const Kernels& kernels) {
    return wanted == nullptr || *wanted == '\0' || std::strcmp(wanted, kernels.name) == 0;
  };
#ifdef FQONNX_X86
  __builtin_cpu_init();
  if (may_be(kAvx512) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni")) {
    return kAvx512;
  }
  if ((may_be(kAvx2) || may_be(kAvx512)) && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma")) {
    return kAvx2;
  }
#endif
  (void)may_be;
  return kPortable;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace fqonnx
