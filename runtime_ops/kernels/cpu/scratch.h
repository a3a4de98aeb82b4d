// Memory that a thread keeps between runs: an allocation at every run would cost page faults.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace fqonnx {
namespace {  // compiled once for each instruction set: no copy may stand in for another

class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(memory_); }

  // Returns uninitialized memory for `count` elements, until the next call.
  template <class T>
  T* get(size_t count) {
    const size_t bytes = (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    if (bytes > bytes_) {
      std::free(memory_);
      bytes_ = 0;
      memory_ = std::aligned_alloc(kAlignment, bytes);
      if (memory_ == nullptr) throw std::bad_alloc();
      bytes_ = bytes;
    }
    return static_cast<T*>(memory_);
  }

 private:
  static constexpr size_t kAlignment = 64;
  void* memory_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace
}  // namespace fqonnx
