#include "vector_avx512.h"
#include "tile_avx512.h"

#include "instruction_set.h"

namespace fqonnx {

extern const Kernels kAvx512;
const Kernels kAvx512 = kernels_named("avx512");

}  // namespace fqonnx
