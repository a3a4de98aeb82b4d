#include "vector_avx512.h"
#include "tile_avx512.h"

#include "instruction_set.h"

namespace fqonnx {

extern const Kernels kAvx512Vbmi;
const Kernels kAvx512Vbmi = kernels_named("avx512vbmi");

}  // namespace fqonnx
