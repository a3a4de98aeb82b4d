// All kernels of one instruction set. A source file includes its Vector and TileDecoder first and
// then this, and is compiled with that set's flags; everything here has internal linkage, so that
// no function of one set can stand in for that of another.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "half.h"
#include "kernels.h"
#include "scratch.h"
#include "tile.h"

// These need the Vector.
#include "transforms.h"
// These need what stands above them.
#include "quantize.h"
#include "panels.h"
#include "multiply_panels.h"
#include "multiply_direct.h"
#include "viterbi.h"

namespace fqonnx {
namespace {

constexpr Kernels kernels_named(const char* name) {
  return {name,           kOutputs,     plan,     quantize, multiply_direct, multiply_panels,
          dequantize_row, apply_signs,  hadamard, matmul,   to_float,        to_half,
          viterbi};
}

}  // namespace
}  // namespace fqonnx
