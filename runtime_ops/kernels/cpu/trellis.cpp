#include <algorithm>
#include <new>
#include <vector>

#include "kernels.h"

namespace fqonnx {
namespace {

// A stream is closed: its first states have its last codes in them. So what surrounds its end is
// searched alone, with as much on both sides as a decision may depend on; the state found in the
// middle is then where the stream begins and ends.
constexpr size_t kReach = 5;  // in windows

void encode(const Trellis& trellis, const int16_t* targets, size_t length, int16_t* around,
            uint8_t* codes) {
  const size_t reach = std::min(kReach * trellis.window / trellis.bits, length);
  for (size_t i = 0; i < 2 * reach; ++i) around[i] = targets[(length - reach + i) % length];
  kernels().viterbi(trellis, around, 2 * reach, -1, -1, codes);
  int state = 0;
  for (size_t i = 0; i < reach; ++i) {
    state = (state << trellis.bits | codes[i]) & ((1 << trellis.window) - 1);
  }
  kernels().viterbi(trellis, targets, length, state, state, codes);
}

}  // namespace
}  // namespace fqonnx

// Codes (tiles, length), uint8, of closed streams whose values are close to targets (tiles, length).
// Returns 0, or 1 where there is not enough memory. Threads may call it at the same time.
extern "C" __attribute__((visibility("default"))) int fqonnx_encode_trellis(
    const int16_t* values, int bits, int window, const int16_t* targets, size_t tiles,
    size_t length, uint8_t* codes) try {
  // A search around the end is no longer than twice the stream.
  std::vector<int16_t> around(2 * length);
  std::vector<uint8_t> found(2 * length);
  for (size_t i = 0; i < tiles; ++i) {
    fqonnx::encode({values, bits, window}, targets + i * length, length, around.data(),
                   found.data());
    std::copy_n(found.begin(), length, codes + i * length);
  }
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}
