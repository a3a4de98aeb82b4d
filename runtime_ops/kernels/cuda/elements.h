// Element types of X, Y, bias and W.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fqonnx::cuda {

enum class Element : uint32_t { kFloat, kHalf, kBFloat16 };

inline size_t size_of(Element element) { return element == Element::kFloat ? 4 : 2; }

}  // namespace fqonnx::cuda
