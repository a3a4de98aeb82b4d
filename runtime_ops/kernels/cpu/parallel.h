// How the operators ask for threads: whoever calls them brings a pool.
#pragma once

#include <cstddef>

namespace fqonnx {

class ThreadPool {
 public:
  virtual ~ThreadPool() = default;

  // Calls task(0) … task(count − 1), in any order, and waits for them.
  template <class Task>
  void run(size_t count, const Task& task) {
    if (count == 1) return task(0);
    if (count > 1) {
      start([](void* data, size_t i) { (*static_cast<const Task*>(data))(i); }, count,
            const_cast<Task*>(&task));
    }
  }

 private:
  virtual void start(void (*call)(void*, size_t), size_t count, void* data) = 0;
};

}  // namespace fqonnx
