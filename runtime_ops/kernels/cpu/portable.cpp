#include "vector_portable.h"
#include "tile_portable.h"

#include "instruction_set.h"

namespace fqonnx {

extern const Kernels kPortable;
const Kernels kPortable = kernels_named("portable");

}  // namespace fqonnx
