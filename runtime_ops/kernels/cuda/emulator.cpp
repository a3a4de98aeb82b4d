#include "emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <string>
#include <vector>

namespace fqonnx::cuda::emulator {
namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kExchangeBytes = 64;  // that a lane may bring

enum class State { kRunning, kAtBarrier, kInWarp, kDone };

struct Copy {
  void* to;
  const void* from;
};

// A thread of a block. Its context is made once; from then on _setjmp and _longjmp change to it,
// which ask the kernel of the machine nothing.
struct Fiber {
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStackBytes]};
  ucontext_t start;
  jmp_buf place;
  bool started;
  State state;
  std::vector<std::vector<Copy>> copies;  // by group, the last one still open
};

struct Warp {
  unsigned char brought[2][kLanes * kExchangeBytes];
  size_t bytes[2][kLanes];
  unsigned turn;  // lanes may still read one exchange while others come to the next
};

struct Block {
  std::vector<std::unique_ptr<Fiber>> fibers;  // kept from block to block
  std::vector<Warp> warps;
  std::vector<unsigned> turns;  // exchanges of each thread
  std::unique_ptr<unsigned char[]> shared;
  unsigned threads;
  unsigned current;
  jmp_buf scheduler;
  const std::function<void()>* kernel;
  std::exception_ptr error;
};

thread_local Block block;

void begin_fiber() {
  try {
    (*block.kernel)();
  } catch (...) {
    block.error = std::current_exception();
  }
  block.fibers[block.current]->state = State::kDone;
  _longjmp(block.scheduler, 1);
}

void pause(State state) {
  Fiber& fiber = *block.fibers[block.current];
  fiber.state = state;
  if (_setjmp(fiber.place) == 0) _longjmp(block.scheduler, 1);
}

void resume(unsigned thread) {
  Fiber& fiber = *block.fibers[thread];
  block.current = thread;
  threadIdx = dim3(thread);
  if (_setjmp(block.scheduler)) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.get();
  fiber.start.uc_stack.ss_size = kStackBytes;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, begin_fiber, 0);
  setcontext(&fiber.start);
}

// Lets the threads [first, last) go on if all that are not done wait in `state`.
bool release(unsigned first, unsigned last, State state) {
  bool any = false;
  for (unsigned i = first; i < last; ++i) {
    const State found = block.fibers[i]->state;
    // A warp instruction names all lanes, also those that are done; a barrier does not.
    if (found != state && (found != State::kDone || state == State::kInWarp)) return false;
    any |= found == state;
  }
  for (unsigned i = first; any && i < last; ++i) {
    if (block.fibers[i]->state == state) block.fibers[i]->state = State::kRunning;
  }
  return any;
}

void run_block() {
  for (unsigned i = 0; i < block.threads; ++i) {
    block.fibers[i]->started = false;
    block.fibers[i]->state = State::kRunning;
    block.fibers[i]->copies.assign(1, {});
  }
  std::fill(block.turns.begin(), block.turns.end(), 0);
  for (;;) {
    bool done = true;
    for (unsigned first = 0; first < block.threads; first += kLanes) {
      const unsigned last = std::min(first + kLanes, block.threads);
      do {  // one warp as far as it goes: its data stay in the cache
        for (unsigned i = first; i < last; ++i) {
          if (block.fibers[i]->state == State::kRunning) resume(i);
          if (block.error) return;
        }
      } while (release(first, last, State::kInWarp));
      for (unsigned i = first; i < last; ++i) done &= block.fibers[i]->state == State::kDone;
    }
    if (done) return;
    if (!release(0, block.threads, State::kAtBarrier)) {
      throw std::logic_error("a barrier or a warp instruction that not all threads reach");
    }
  }
}

}  // namespace

void run(dim3 grid, unsigned threads, size_t shared_bytes, const std::function<void()>& kernel) {
  if (threads == 0 || threads > 1024 || threads % kLanes || grid.x == 0 || grid.y == 0 ||
      grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
    throw std::logic_error("a launch that CUDA refuses");
  }
  gridDim = grid, blockDim = dim3(threads);
  block.threads = threads;
  block.kernel = &kernel;
  block.error = nullptr;
  while (block.fibers.size() < threads) block.fibers.push_back(std::make_unique<Fiber>());
  block.warps.resize((threads + kLanes - 1) / kLanes);
  block.turns.resize(threads);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        block.shared.reset(new unsigned char[shared_bytes]);
        std::fill_n(block.shared.get(), shared_bytes, 0xff);
        run_block();
        if (block.error) std::rethrow_exception(block.error);
      }
    }
  }
}

void synchronize_block() { pause(State::kAtBarrier); }

unsigned char* shared_memory() { return block.shared.get(); }

void copy_async(void* shared, const void* global) {
  expect_aligned(shared, 16);
  expect_aligned(global, 16);
  block.fibers[block.current]->copies.back().push_back({shared, global});
}

void commit_copies() { block.fibers[block.current]->copies.emplace_back(); }

void wait_for_copies(size_t still_running) {
  auto& copies = block.fibers[block.current]->copies;
  while (copies.size() > still_running + 1) {
    for (const Copy& copy : copies.front()) std::memcpy(copy.to, copy.from, 16);
    copies.erase(copies.begin());
  }
}

const unsigned char* exchange_in_warp(const void* mine, size_t bytes) {
  if (bytes > kExchangeBytes) throw std::logic_error("a lane that brings too much");
  Warp& warp = block.warps[block.current / kLanes];
  const unsigned turn = block.turns[block.current]++ % 2, lane = block.current % kLanes;
  std::memcpy(warp.brought[turn] + lane * bytes, mine, bytes);
  warp.bytes[turn][lane] = bytes;
  pause(State::kInWarp);
  if (warp.bytes[turn][0] != bytes) throw std::logic_error("lanes in different instructions");
  return warp.brought[turn];
}

}  // namespace fqonnx::cuda::emulator
