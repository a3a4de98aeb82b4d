#include "vector_avx2.h"
#include "tile_avx2.h"

#include "instruction_set.h"

namespace fqonnx {

extern const Kernels kAvx2;
const Kernels kAvx2 = kernels_named("avx2");

}  // namespace fqonnx
