// The operators on the CUDA execution provider.
#pragma once

#include <vector>

#include "kernel.h"

namespace fqonnx {

// None where ONNX Runtime is too old: they need 1.18.
std::vector<const OrtCustomOp*> cuda_ops(const OrtApiBase* base);

}  // namespace fqonnx
