// Memory that a thread keeps between runs: an allocation at every run would cost page faults.
#pragma once

#include <cstddef>
#include <cstdint>
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

  // Returns uninitialized memory for rows·columns elements, until the next call.
  template <class T>
  T* get(size_t rows, size_t columns = 1) {
    if (columns > 0 && rows > SIZE_MAX / sizeof(T) / columns) throw std::bad_alloc();
    const size_t bytes = rows * columns * sizeof(T);
    if (bytes > bytes_ || kExact) {
      std::free(memory_);
      memory_ = nullptr;
      bytes_ = 0;
      if (posix_memalign(&memory_, kAlignment, bytes) != 0) throw std::bad_alloc();
      bytes_ = bytes;
    }
    return static_cast<T*>(memory_);
  }

 private:
  static constexpr size_t kAlignment = 64;
#ifdef __SANITIZE_ADDRESS__
  static constexpr bool kExact = true;  // what lies behind the end was never allocated
#else
  static constexpr bool kExact = false;
#endif
  void* memory_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace
}  // namespace fqonnx
