// How the operators ask for threads: whoever calls them brings a pool.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>

namespace fqonnx {

class ThreadPool {
 public:
  virtual ~ThreadPool() = default;

  // Calls task(0) … task(count − 1), in any order, and waits for them. A pool's threads know no
  // exceptions: the first one that a task throws is thrown from here, behind the wait.
  template <class Task>
  void run(size_t count, const Task& task) {
    if (count == 0) return;
    if (count == 1) return task(0);
    Run<Task> all{task};
    start([](void* data, size_t i) { (*static_cast<Run<Task>*>(data))(i); }, count, &all);
    if (all.error) std::rethrow_exception(all.error);
  }

 private:
  template <class Task>
  struct Run {
    const Task& task;
    std::atomic<bool> failed{false};
    std::exception_ptr error = nullptr;

    void operator()(size_t i) noexcept {
      if (failed) return;
      try {
        task(i);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
  };

  virtual void start(void (*call)(void*, size_t), size_t count, void* data) = 0;
};

}  // namespace fqonnx
